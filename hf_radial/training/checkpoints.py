"""How a trainer loads checkpoints: the newest complete one, without false warnings about tied weights."""

from __future__ import annotations

from typing import Any

from transformers.utils import logging

from hf_radial.internals.trainer_parts import checkpoint_folder
from hf_radial.runs.record import STATE_FILE
from hf_radial.runs.resume import checkpoints, is_complete

logger = logging.get_logger(__name__)


class CheckpointMixin:
    """`resume_from_checkpoint=True` takes the newest complete checkpoint."""

    def train(self: Any, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`, but `resume_from_checkpoint=True` skips checkpoints that a killed process left incomplete.

        Raises:
            ValueError: `resume_from_checkpoint=True`, and `output_dir` has checkpoints, but none is complete.
        """
        if resume_from_checkpoint is True:
            # With True, the base class raises an error if there is no checkpoint.
            resume_from_checkpoint = newest_complete(str(self.args.output_dir)) or True
        return super().train(  # type: ignore[misc]
            resume_from_checkpoint, *args, **kwargs
        )

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        # A folder of an earlier run counts as complete while it has its state. Without this line, a process that is killed
        # here would leave a half overwritten folder that counts as complete.
        if self.args.should_save:
            folder = checkpoint_folder(self, trial)
            (folder / STATE_FILE).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _issue_warnings_after_load(self: Any, load_result: Any) -> None:
        # A checkpoint holds tied weights once. `load_state_dict` reports the other name as missing, although both are loaded.
        tied = getattr(self.model, "all_tied_weights_keys", None) or {}
        missing = set(load_result.missing_keys)
        loaded = {name for name in missing if name in tied and tied[name] not in missing}
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in loaded]
        super()._issue_warnings_after_load(load_result)  # type: ignore[misc]


def newest_complete(folder: str) -> str | None:
    """The newest complete checkpoint of a folder, or `None`. A warning names newer checkpoints that are incomplete.

    Raises:
        ValueError: there are checkpoints, but none is complete.
    """
    found = checkpoints(folder)
    complete = [path for path in found if is_complete(path)]
    if found and not complete:
        raise ValueError(
            f"resume_from_checkpoint=True: {folder!r} has no complete checkpoint: "
            f"{', '.join(path.name for path in found)} {'was' if len(found) == 1 else 'were'} not written to the end "
            "(trainer_state.json is missing or cut). Train without resume_from_checkpoint to begin again"
        )
    skipped = found[found.index(complete[-1]) + 1 :] if complete else []
    if skipped:
        logger.warning(
            "resume_from_checkpoint=True: training goes on from %s. Skipped, because not written to the end: %s",
            complete[-1],
            ", ".join(path.name for path in skipped),
        )
    return str(complete[-1]) if complete else None
