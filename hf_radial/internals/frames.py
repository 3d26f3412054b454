"""The `Trainer` that calls a callback, and its checkpoint. Callbacks get the trainer's parts, but neither of these.

Both are found in the frames of the call stack, by the names `self` and `resume_from_checkpoint` of `Trainer`'s methods.
Checked with transformers 5.17 to 5.23.
"""

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
    """The checkpoint folder that the running `trainer` resumes from; `None` if it does not resume or names no folder."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_locals.get("self") is trainer:
            given = frame.f_locals.get("resume_from_checkpoint")
            if isinstance(given, (str, Path)):
                return Path(given)
        frame = frame.f_back
    return None
