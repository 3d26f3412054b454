"""A clock of CPU seconds in the log of a run."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback


class CpuClock(TrainerCallback):
    """Adds `cpu_seconds` to each entry of the log: of all training steps so far, also of those before the run was resumed."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = max((logs.get("cpu_seconds", 0.0) for logs in state.log_history), default=0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.since = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds += time.process_time() - self.since

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.log_history[-1]["cpu_seconds"] = round(self.seconds, 3)
