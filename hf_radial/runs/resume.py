"""How an interrupted run goes on: its newest complete checkpoint, the check of its options, training from there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hf_radial.runs.record import RUN_FILE, STATE_FILE, describe_run
from hf_radial.runs.text_files import read_object


def wants_resume(resume_from_checkpoint: str | bool | None) -> bool:
    """Whether a recipe resumes a run. The recipe itself finds the newest checkpoint of each arm.

    Raises:
        ValueError: the value is neither true nor false, for example the path of a checkpoint.
    """
    answers = {"none": False, "false": False, "true": True}
    if str(resume_from_checkpoint).lower() not in answers:
        raise ValueError(
            f"resume_from_checkpoint={resume_from_checkpoint!r} must be true or false here: give --output_dir, the folder of "
            "the run; each arm goes on from its own newest checkpoint"
        )
    return answers[str(resume_from_checkpoint).lower()]


def checkpoints(folder: str | Path) -> list[Path]:
    """The folders `checkpoint-N` of a run, complete or not, by their step."""
    found = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in Path(folder).glob("checkpoint-*") if path.is_dir()}
    steps = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(steps, key=steps.__getitem__)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end.

    `Trainer` writes `trainer_state.json` last. A process that is killed at that moment leaves the file empty or cut.
    """
    try:
        return isinstance(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")), dict)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint of a run that was written to its end, or `None`."""
    complete = [path for path in checkpoints(folder) if is_complete(path)]
    return str(complete[-1]) if complete else None


def check_same_options(folder: Path, record: dict[str, Any]) -> None:
    """Refuse to go on with a run under other options than those in its `run.json`.

    Args:
        folder: the run's output directory.
        record: what `describe_run` says of the run that is to go on.

    Raises:
        ValueError: the penalty or the facts of the run differ; the message names each difference.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        return
    before = read_object(file, {"radial": dict, "facts": dict})
    now = json.loads(json.dumps(record, default=str))
    compared = {
        name: (before[part].get(name), now[part].get(name))
        for part, left_out in (("radial", {"sites"}), ("facts", {"arms", "results"}))
        for name in now[part].keys() - left_out
    }
    differences = [f"{name} was {old!r}, now {new!r}" for name, (old, new) in sorted(compared.items()) if old != new]
    if differences:
        raise ValueError(
            f"{str(folder)!r} holds a run with other options: {'; '.join(differences)}. To go on with it, repeat its options; "
            "for a new run, give another --output_dir"
        )


def train_or_resume(trainer: Any, folder: Path, resume: bool = False) -> None:
    """Train, then save the model and the trainer's state in `folder`.

    Args:
        trainer: a `RadialTrainer` whose `output_dir` is `folder`.
        folder: the run's output directory.
        resume: go on from the newest complete checkpoint. If the run has ended, load its model and log, and train nothing.

    Raises:
        ValueError: `resume`, and the folder holds a run with other options.
    """
    from transformers import TrainerState

    checkpoint = None
    if resume:
        check_same_options(folder, describe_run(trainer))
        checkpoint = last_complete_checkpoint(folder)
        state, model = folder / STATE_FILE, trainer.model
        if state.is_file():  # the last file of a run that has ended
            trainer.state = TrainerState.load_from_json(str(state))
            model.load_state_dict(type(model).from_pretrained(folder).state_dict())
            return
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
