"""The `Trainer` that calls a callback, and its checkpoint: callbacks are handed its parts, but neither of these."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

from transformers import Trainer


def calling_trainer() -> Trainer | None:
    """The innermost `Trainer` whose method is running, or `None`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer):
            return caller
        frame = frame.f_back
    return None


def resumed_from(trainer: Trainer) -> Path | None:
    """The folder of the checkpoint that the running `trainer` goes on from; `None` if it does not, or it is not to be found."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_locals.get("self") is trainer:
            given = frame.f_locals.get("resume_from_checkpoint")
            if isinstance(given, (str, Path)):
                return Path(given)
        frame = frame.f_back
    return None
