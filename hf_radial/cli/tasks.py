"""`hf-radial tasks [TASK [CONFIG]]`: the algorithmic tasks, the fields of one, what a configuration holds."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hf_radial.safe_files import write_text


def add_to(commands: Any) -> None:
    """Add the subcommand to the parser."""
    tasks = commands.add_parser(
        "tasks",
        help="show the algorithmic tasks",
        description="Show all tasks with the configurations on the shelf; or, of one task, its fields as well; or, of one "
        "configuration (any that its name can say, on the shelf or not), its sizes, first rows, what leaks from one split to "
        "another, and checksums.",
    )
    tasks.set_defaults(run=run)
    tasks.add_argument("task", nargs="?", metavar="TASK", help="modular, groups, digits, ...")
    tasks.add_argument("config", nargs="?", metavar="CONFIG", help="a configuration such as add_p97_f0.5_s0")
    tasks.add_argument("--cache_dir", metavar="DIR", help="where rows are cached; datasets' own cache by default")
    tasks.add_argument(
        "--verify",
        action="store_true",
        help="make every configuration on the shelf (of TASK, or all) and compare its checksums",
    )
    tasks.add_argument("--write", metavar="FILE", help="write the checksums of the shelf to a file, instead of comparing them")
    tasks.add_argument("--json", action="store_true", help="print what is said of a CONFIG as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status."""
    from hf_radial.tasks.checksums import committed_checksums
    from hf_radial.tasks.show import describe_task, shelf_checksums, shelf_table, task_text

    if (options.verify or options.write) and options.config is not None:
        raise ValueError("--verify and --write take all listed configurations; leave CONFIG out")
    if options.write and options.task is not None:
        raise ValueError("--write takes all tasks; leave TASK out")
    if options.json and options.config is None:
        raise ValueError("--json is for one configuration; give TASK and CONFIG")
    if options.write:  # said before minutes of work
        _check_writable(options.write)
    if options.verify or options.write:
        committed, found, wrong = committed_checksums(), {}, 0
        for name, checksums in shelf_checksums(options.cache_dir, options.task):
            found[name] = checksums
            if options.verify:
                same = committed.get(name) == checksums
                wrong += not same
                print(f"{'same rows' if same else 'OTHER ROWS'}  {name}", flush=True)
        if options.write:
            write_text(options.write, json.dumps(found, indent=1, sort_keys=True) + "\n")
        return 1 if wrong else 0
    if options.config is None:
        print(shelf_table(options.task))
        return 0
    about = describe_task(options.task, options.config, cache_dir=options.cache_dir)
    print(json.dumps(about, indent=2, default=str) if options.json else task_text(about))
    return 0


def _check_writable(file: str) -> None:
    place = Path(os.path.realpath(file))
    try:
        if place.is_dir():
            raise IsADirectoryError("it is a folder")
        if place.exists() and not place.is_file():  # /dev/stdout
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"--write {file} cannot be written ({why}); give a file in a folder that you may write to") from error
