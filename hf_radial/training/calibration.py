"""The targets of `radial_radius="initial"` in a `Trainer`: from the rows, from the first batch, or from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Trainer

from hf_radial.penalty.functional import is_number
from hf_radial.penalty.radial_penalty import RadialPenalty
from hf_radial.runs.text_files import read_object
from hf_radial.safe_files import write_text
from hf_radial.training.rows import first_rows, makes_its_batches

TARGETS_FILE = "radial_targets.json"
CALIBRATION_ROWS = 64


def targets_in(checkpoint: str) -> dict[str, float]:
    """The targets of the run that wrote this checkpoint.

    Raises:
        ValueError: the checkpoint has none, or they cannot be read.
    """
    file = Path(checkpoint) / TARGETS_FILE
    if not file.is_file():
        raise ValueError(
            f"radial_radius='initial': {file} is missing, so the radii that the run started from are unknown; "
            "resume a checkpoint of a run with radial_radius='initial', or give the radius as a number"
        )
    targets = read_object(file)
    for site, target in targets.items():
        if not (is_number(target) and target >= 0):
            raise ValueError(f"{file}: the radius of {site!r} is {target!r}, which is no number of at least 0")
    return targets


def write_targets(folder: Path, targets: Mapping[str, float]) -> None:
    """Write targets into a checkpoint's folder, for `targets_in`."""
    write_text(folder / TARGETS_FILE, json.dumps(targets, indent=2))


def take_targets(penalty: RadialPenalty, targets: Mapping[str, float]) -> None:
    """Give a resumed run the targets that it started with.

    Raises:
        ValueError: the targets belong to other sites.
    """
    missing = [site.name for site in penalty.sites if site.name not in targets]
    if missing:
        raise ValueError(
            f"radial_radius='initial': the checkpoint has the initial radii of {len(targets)} sites "
            f"({_some(targets)}), but not of {_some(missing)}. Give radial_sites and radial_where as in the run that is "
            "resumed, or give the radius as a number, such as radial_radius=4.0"
        )
    penalty.targets.update({site.name: targets[site.name] for site in penalty.sites})


def calibrate(trainer: Trainer, penalty: RadialPenalty, then: Callable[[], None]) -> None:
    """Set the targets from the first rows of the training set, or from the first batch in training.

    The rows are used if they have an index and the model can be called with them. Otherwise one forward in evaluation mode runs
    just before the first training forward, with the same arguments, and each site's radii are averaged over all ranks. Random
    states are preserved.

    Args:
        then: called when the targets are known, if that is in the first training forward.
    """
    try:
        batch = None if makes_its_batches(trainer) else first_rows(trainer, CALIBRATION_ROWS)
        if batch is not None:
            device = next(penalty.model.parameters()).device
            penalty.calibrate(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})
            return
    except Exception:  # the model is not called with such a batch
        penalty.reset()
    penalty.calibrate_on_first_forward(partial(_sum, trainer), then)


def _sum(trainer: Trainer, sums: Tensor) -> Tensor:
    reduced: Any = trainer.accelerator.reduce(sums, reduction="sum")
    return reduced


def _some(names: Any, most: int = 2) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (", ..." if len(names) > most else "")
