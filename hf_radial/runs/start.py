"""How a recipe starts and ends: its command line (a preset in YAML, options on top of it), its folder, its processes."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from dataclasses import field, fields
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import HfArgumentParser, TrainingArguments
from transformers.utils import logging

from hf_radial.runs.record import RUN_FILE
from hf_radial.runs.resume import wants_resume
from hf_radial.runs.text_files import read_yaml
from hf_radial.safe_files import new_folder


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A field of a dataclass for `parse_options`, with its default (a list is copied) and what `--help` says of it.

    Args:
        default: the value without the option.
        help: what the option does.
        metadata: more for the parser, such as `nargs="+"`.
    """
    metadata["help"] = help
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def parse_options(
    dataclass_types: Sequence[Any], argv: Sequence[str], presets: Path, default: str, description: str = ""
) -> tuple[Any, ...]:
    """Parse `[FILE.yaml] [--preset NAME] [--option value ...]` into dataclasses.

    Args:
        dataclass_types: as for `HfArgumentParser`; one of them has a field `preset`.
        argv: the command line without the program's name.
        presets: the folder of the presets, one YAML file each.
        default: the preset that is taken if none is named.
        description: for `--help`.

    Raises:
        ValueError: the preset or file does not exist, or has an option that no dataclass has.
    """
    argv = list(argv)
    if argv and argv[0].endswith((".yaml", ".yml")):
        file = Path(argv.pop(0))
        if any(word.split("=")[0] == "--preset" for word in argv):
            raise ValueError(f"give either the file {str(file)!r} or --preset, not both")
        if not file.is_file():
            raise ValueError(f"the configuration file {str(file)!r} does not exist")
    else:
        file = _preset_file(argv, presets, default)
    # No abbreviations: the preset is read above from `--preset` only, not from `--pre`.
    parser = _Parser(list(dataclass_types), description=description, allow_abbrev=False)
    values = read_yaml(file) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{file}: must hold lines of the form `option: value`")
    known = {action.dest for action in parser._actions} - {"help"}
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            raise ValueError(f"{file}: unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        _check_value(f"{file}: {name}", value, next(action for action in parser._actions if action.dest == name))
    # Empty means that the recipe chooses a new folder.
    parser.set_defaults(**{"output_dir": "", **values, "preset": file.stem})
    *made, rest = parser.parse_args_into_dataclasses(args=argv, return_remaining_strings=True)
    for word in rest:
        name = word.split("=")[0].removeprefix("--")
        near = get_close_matches(name, known, 1) if word.startswith("--") else []
        meant = f"; did you mean --{near[0]}?" if near else "; --help lists the options"
        raise ValueError(f"{word!r} is no option and no value of one{meant}")
    for one in made:
        for each in fields(one):
            value = getattr(one, each.name, None)
            if any(
                isinstance(number, float) and not isfinite(number) for number in (value if isinstance(value, list) else [value])
            ):
                raise ValueError(f"{each.name}={value} must be finite")
    return tuple(made)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise, where argparse would print more than a hundred lines of options before the message."""
        raise ValueError(f"{message}; --help lists the options")


def at_least(made: Any, low: float, *names: str) -> None:
    """Raise a ValueError unless the named numbers of a dataclass, or all in a list of numbers, are at least `low`."""
    for name in names:
        value = getattr(made, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not number >= low:
                raise ValueError(f"{name}={value} must be at least {low:g}")


def _check_value(name: str, value: Any, action: argparse.Action) -> None:
    """Raise a ValueError for a value of a preset that the command line would not take; a text is parsed as there."""
    if action.nargs in ("+", "*") and value is not None and not isinstance(value, list):
        raise ValueError(f"{name}={value!r} must be a list, such as [{value}]")
    wanted = {int: (int,), float: (int, float)}.get(action.type)  # type: ignore[call-overload]
    if isinstance(action.default, bool):
        wanted = (bool,)
    if wanted is None or isinstance(value, str) or (value is None and action.default is None) or action.nargs in ("+", "*"):
        return
    if isinstance(value, bool) != (wanted == (bool,)) or not isinstance(value, wanted):
        expected = {int: "a whole number", float: "a number"}.get(wanted[-1], "true or false")
        raise ValueError(f"{name}={value!r} must be {expected}, such as {action.default!r}")


def _preset_file(argv: Sequence[str], presets: Path, default: str) -> Path:
    name = default
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            name = argv[i + 1]
        elif word.startswith("--preset="):
            name = word.split("=", 1)[1]
    file = presets / f"{name}.yaml"
    if not file.is_file():
        # Of this recipe: the folder has other recipes' files as well.
        known = ", ".join(sorted(f.stem for f in presets.glob(f"{default.split('_')[0]}_*.yaml")))
        raise ValueError(f"preset={name!r} is unknown; there are {known}")
    return file


def open_run(args: TrainingArguments, default: str) -> tuple[PartialState, Path, bool]:
    """The processes of a run, its folder, and whether it goes on with what is there; progress bars of libraries are hidden.

    Args:
        args: of the run: `use_cpu`, `output_dir` and `resume_from_checkpoint` are read.
        default: as for `choose_run_folder`.

    Raises:
        ValueError: as `wants_resume` and `choose_run_folder`.
    """
    from datasets import disable_progress_bars

    if args.max_steps <= 0 and not args.num_train_epochs > 0:
        raise ValueError(f"num_train_epochs={args.num_train_epochs} must be above 0; or give --max_steps")
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"seed={args.seed} must be from 0 to 2**32 - 1")
    state, resume = PartialState(cpu=args.use_cpu), wants_resume(args.resume_from_checkpoint)
    folder = choose_run_folder(str(args.output_dir), resume, default)
    # Bars of the libraries, for example of writing a checkpoint, would break the training bar, which stays.
    logging.disable_progress_bar()
    disable_progress_bars()
    return state, folder, resume


def choose_run_folder(output_dir: str, resume: bool, default: str) -> Path:
    """The folder of a run, the same in every process. Nobody else has chosen a new folder.

    Args:
        output_dir: what the user asked for; empty for a new folder named after `default`, with a number if it is taken.
            A new folder is made here.
        resume: whether an earlier run in that folder is to go on.
        default: the first choice for a new folder.

    Raises:
        ValueError: `output_dir` holds another run and `resume` is false, or nothing is said about which run to resume.
        OSError: the new folder cannot be made.
    """
    if output_dir:
        folder = Path(output_dir)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"output_dir={output_dir!r} is a file; give a folder")
        if not resume and (any(folder.glob(RUN_FILE)) or any(folder.glob(f"*/{RUN_FILE}"))):
            raise ValueError(
                f"output_dir={str(folder)!r} holds another run: give another --output_dir, continue that run with "
                "--resume_from_checkpoint true, or delete it"
            )
        return folder
    if resume:
        raise ValueError("resume_from_checkpoint needs --output_dir, the folder of the run that is to go on")
    chosen = [str(new_folder(default)) if PartialState().is_main_process else ""]
    return Path(broadcast_object_list(chosen)[0])


def end_processes() -> None:
    """Leave the process group, as the last act of a script whose trainers are out of scope.

    A script that ends without it can be aborted by a Gloo thread that outlives the interpreter (pytorch#179291). The threads
    end with the group, and the group ends with the last trainer that holds it.
    A trainer that is collected after `destroy_process_group` ends the group while it holds the GIL. It then waits forever for a
    thread that needs the GIL.
    """
    gc.collect()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
