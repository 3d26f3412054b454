"""The command line.

hf-radial sites MODEL_OR_CONFIG           where the penalty would go in a model, and whether that is right
hf-radial tasks [TASK [CONFIG]]           the algorithmic tasks, the fields of one, what a configuration holds
hf-radial report RUN [RUN ...]            one page with figures of runs: fit, onset, delay, and the geometry meanwhile
hf-radial compare [GRID]                  the tables of committed comparisons, in the terminal
hf-radial publish dataset|model ...       to a Hub, with a card
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_radial.sites.find import Sites

COMPARISONS = Path(__file__).resolve().parents[2] / "recipes" / "results" / "compare"
AUTO_CLASSES = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForMaskedLM",
    "AutoModelForImageClassification",
    "AutoModel",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status: 0, 1 where a check failed, 2 for an error that the user can mend."""
    parser = argparse.ArgumentParser(
        prog="hf-radial", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_sites(commands)
    _add_tasks(commands)
    _add_report(commands)
    _add_compare(commands)
    publish = commands.add_parser(
        "publish", help="upload a task or a run to a Hub", description="Upload to the Hub that HF_ENDPOINT names."
    )
    kinds = publish.add_subparsers(dest="kind", required=True)
    _add_publish_dataset(kinds)
    _add_publish_model(kinds)
    options = parser.parse_args(argv)
    try:
        return options.run(options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        about = f"{options.model!r}: " if options.command == "sites" else ""
        print(f"hf-radial: error: {about}{error}", file=sys.stderr)
        return 2


def _add_sites(commands: Any) -> None:
    sites = commands.add_parser(
        "sites",
        help="show where the penalty goes in a model",
        description="Show the modules whose vectors are penalised. Only the configuration is read, no weights.",
    )
    sites.set_defaults(run=_sites)
    sites.add_argument("model", metavar="MODEL_OR_CONFIG", help="a folder or Hub name with a config.json")
    sites.add_argument("--sites", nargs="+", metavar="PATTERN", default=[], help="take these modules instead: globs, or re:...")
    sites.add_argument("--exclude", nargs="+", metavar="PATTERN", default=[], help="leave these modules out")
    sites.add_argument(
        "--where", choices=["increment", "pre_norm"], default="increment", help="behind a sublayer's norm or before it"
    )
    sites.add_argument(
        "--verify", action="store_true", help="check each block on random weights: does out = in + increments hold?"
    )
    sites.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _add_tasks(commands: Any) -> None:
    tasks = commands.add_parser(
        "tasks",
        help="show the algorithmic tasks",
        description="Show all tasks with the configurations on the shelf; or, of one task, its fields as well; or, of one "
        "configuration (any that its name can say, on the shelf or not), its sizes, first rows, what leaks from one split to "
        "another, and checksums.",
    )
    tasks.set_defaults(run=_tasks)
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


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="a page with figures of runs",
        description="Write one HTML page about runs, with everything in it: when they fitted and generalised, and what was "
        "measured meanwhile. Runs that differ only in their seed become one line with a band.",
    )
    report.set_defaults(run=_report)
    report.add_argument("runs", metavar="RUN", nargs="+", help="the output_dir of a run of any Trainer")
    report.add_argument(
        "--out", metavar="DIR_OR_FILE.html", help="RUN/report by default, or report in this folder if there are several runs"
    )
    report.add_argument("--figures", nargs="+", choices=["png", "svg"], default=[], help="also write each figure as a file")
    report.add_argument("--train_metric", metavar="NAME", default=TRAIN_METRIC, help="accuracy on training rows (%(default)s)")
    report.add_argument("--held_out_metric", metavar="NAME", default=HELD_OUT_METRIC, help="on held-out rows (%(default)s)")
    report.add_argument("--title", help="of the page")


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="show the tables of comparisons",
        description="Show comparisons of methods: which there are, or the table of one. They are made by recipes/compare.py.",
    )
    compare.set_defaults(run=_compare)
    compare.add_argument("grid", nargs="?", metavar="GRID", help="its name; without one, all are listed")
    compare.add_argument("--results", type=Path, default=COMPARISONS, metavar="DIR", help="where they are (%(default)s)")


def _compare(options: argparse.Namespace) -> int:
    from hf_radial.comparison.table import summary, terminal

    files = {file.stem: file for file in sorted(options.results.glob("*.json"))}
    if not files:
        raise ValueError(
            f"--results {options.results}: no comparison is there; in a checkout they are in recipes/results/compare, and "
            "recipes/compare.py makes them"
        )
    if options.grid is not None and options.grid not in files:
        raise ValueError(f"GRID {options.grid!r} is unknown; there are {', '.join(files)}")
    for name, file in files.items():
        data = json.loads(file.read_text())
        if options.grid == name:
            print(f"{data['title']}\n\n{terminal(summary(data['rows'], data['reference']))}")
        elif options.grid is None:
            print(f"{name:20} {data['title']}")
    return 0


def _add_publish_dataset(kinds: Any) -> None:
    dataset = kinds.add_parser(
        "dataset",
        help="configurations of a task, with a card",
        description="Upload configurations of a task as Parquet, with a card, in one commit. Others that are there stay.",
    )
    dataset.set_defaults(run=_publish_dataset)
    dataset.add_argument("task", metavar="TASK", help="modular, groups, digits, ...; `hf-radial tasks` shows them")
    dataset.add_argument("--config", metavar="CONFIG", nargs="+", required=True, help="such as add_p97_f0.5_s0")
    dataset.add_argument("--repo", metavar="ORG/NAME", help="created if it does not exist; without it, nothing is uploaded")
    dataset.add_argument("--folder", metavar="DIR", help="keep the files there; load_dataset takes it as well")
    dataset.add_argument("--private", action="store_true", help="for others the repository does not exist")
    dataset.add_argument("--revision", metavar="BRANCH", help="created if it does not exist; main by default")
    dataset.add_argument("--token", help="instead of the one that is logged in (hf auth login) or HF_TOKEN")
    dataset.add_argument("--cache_dir", metavar="DIR", help="where rows are cached; datasets' own cache by default")


def _add_publish_model(kinds: Any) -> None:
    model = kinds.add_parser(
        "model",
        help="a run's model with its card",
        description="Upload the model, tokenizer, card, record, log and curves of a run; no optimizer states, no pickles.",
    )
    model.set_defaults(run=_publish_model)
    model.add_argument("folder", metavar="RUN_DIR", help="the output_dir of a run")
    model.add_argument("--repo", metavar="ORG/NAME", required=True, help="created if it does not exist")
    model.add_argument("--private", action="store_true", help="for others the repository does not exist")
    model.add_argument("--revision", metavar="BRANCH", help="created if it does not exist; main by default")
    model.add_argument(
        "--checkpoints", choices=["none", "last", "all"], default="none", help="checkpoint-N becomes the branch step-N"
    )
    model.add_argument("--token", help="instead of the one that is logged in (hf auth login) or HF_TOKEN")


def _tasks(options: argparse.Namespace) -> int:
    from hf_radial.tasks.checksums import committed_checksums
    from hf_radial.tasks.show import describe_task, shelf_checksums, shelf_table, task_text

    if (options.verify or options.write) and options.config is not None:
        raise ValueError("--verify and --write are for the shelf; leave CONFIG out")
    if options.write and options.task is not None:
        raise ValueError("--write is for the whole shelf; leave TASK out")
    if options.json and options.config is None:
        raise ValueError("--json is for one configuration; give TASK and CONFIG")
    if options.verify or options.write:
        committed, found, wrong = committed_checksums(), {}, 0
        for name, checksums in shelf_checksums(options.cache_dir, options.task):
            found[name] = checksums
            if options.verify:
                same = committed.get(name) == checksums
                wrong += not same
                print(f"{'same rows' if same else 'OTHER ROWS'}  {name}", flush=True)
        if options.write:
            Path(options.write).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        return 1 if wrong else 0
    if options.config is None:
        print(shelf_table(options.task))
        return 0
    about = describe_task(options.task, options.config, cache_dir=options.cache_dir)
    print(json.dumps(about, indent=2, default=str) if options.json else task_text(about))
    return 0


def _report(options: argparse.Namespace) -> int:
    from hf_radial.report.page import write_report

    print(
        write_report(options.runs, options.out, options.figures, options.train_metric, options.held_out_metric, options.title)
    )
    return 0


def _publish_dataset(options: argparse.Namespace) -> int:
    from hf_radial.hub.publish_dataset import publish_dataset, write_dataset

    if options.repo is None:
        if options.folder is None:
            raise ValueError("give --repo ORG/NAME to upload, or --folder DIR to write the files there, or both")
        for option in ("private", "revision", "token"):
            if getattr(options, option):
                raise ValueError(f"--{option} is for an upload: give --repo ORG/NAME, or leave it out")
        print(write_dataset(options.task, options.config, options.folder, cache_dir=options.cache_dir))
        return 0
    url = publish_dataset(
        options.task,
        options.config,
        options.repo,
        private=options.private,
        revision=options.revision,
        folder=options.folder,
        token=options.token,
        cache_dir=options.cache_dir,
    )
    print(url)
    return 0


def _publish_model(options: argparse.Namespace) -> int:
    from hf_radial.hub.publish_model import publish_model

    url = publish_model(
        options.folder,
        options.repo,
        private=options.private,
        revision=options.revision,
        checkpoints=options.checkpoints,
        token=options.token,
    )
    print(url)
    return 0


def _sites(options: argparse.Namespace) -> int:
    import torch

    from hf_radial.sites.find import default_inputs, find_sites

    patterns = [*options.sites, *(f"!{pattern}" for pattern in options.exclude)] or None
    model: PreTrainedModel | None = None if options.verify else _model(options.model, "meta")
    sites: Sites | None = None
    if model is not None:
        try:  # without memory for the weights: however large the model, this takes seconds
            inputs = default_inputs(model)
            if "input_ids" in inputs:
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            sites = find_sites(model, inputs, patterns, options.where)
        except Exception:  # some models look at values in their forward: they are built in full
            model = None
    if model is None or sites is None:
        _check_memory(_model(options.model, "meta"))
        model = _model(options.model, "cpu")
        sites = find_sites(model, sites=patterns, where=options.where)
    checks = sites.verify() if options.verify else []
    if options.json:
        found: dict[str, Any] = {"model": type(model).__name__, "sites": [asdict(site) for site in sites]}
        if options.verify:
            found["checks"] = [asdict(check) for check in checks]
        print(json.dumps(found, indent=2))
    else:
        print(f"{type(model).__name__}, {len(sites)} sites\n\n{sites}")
        if checks:
            print()
        for check in checks:
            error = "" if check.error is None else f", relative error {check.error:.1e}"
            print(f"{check.block or '-'}: {check.how}{error}{': ' + check.reason if check.reason else ''}")
    return 0 if all(check.ok for check in checks) else 1


def _model(name: str, device: str) -> PreTrainedModel:
    """The model of a configuration, with random weights, of the class that the configuration names."""
    import torch
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(name)
    if device == "meta":  # the implementations that look at no values
        config._attn_implementation, config._experts_implementation = "eager", "batched_mm"
    named = getattr(transformers, (config.architectures or [""])[0], None)
    torch.manual_seed(0)
    with torch.device(device):
        if named is not None:
            return named(config)
        for auto_class in AUTO_CLASSES:
            try:
                return getattr(transformers, auto_class).from_config(config)
            except ValueError:  # not of this kind
                continue
    raise ValueError(f"no model class of transformers takes the configuration {type(config).__name__} of {name!r}")


def _check_memory(model: PreTrainedModel) -> None:
    needed, there = 4 * model.num_parameters(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"{type(model).__name__} must be built in full for this, which takes {needed / 1e9:.0f} GB; this machine has "
            f"{there / 1e9:.0f} GB. Try a configuration with fewer layers"
        )


if __name__ == "__main__":
    sys.exit(main())
