"""What a person sees of a run on the terminal: the sites before it, and a progress bar with one or two numbers."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from transformers import Trainer, TrainerControl, TrainerState
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC


class MetricProgress(ProgressCallback):
    """A progress bar with the newest training loss and the newest values of the given evaluation metrics.

    It prints no lines: the log has them, in `trainer_state.json` and wherever `report_to` says.

    Args:
        metrics: label -> metric name as `Trainer` reports it, for example `{"held-out": "eval_validation_exact_match"}`.
        title: text in front of the bar.
    """

    def __init__(self, metrics: dict[str, str], title: str = "") -> None:
        super().__init__()
        self.metrics, self.title = metrics, title
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        bar: Any = self.training_bar
        if bar is not None:
            bar.set_description(self.title)
        for logs in state.log_history:  # a resumed run shows what it had
            self._show(logs)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_evaluate(args, state, control, **kwargs)
        self._show(kwargs.get("metrics") or {})

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        """Show the loss on the bar. The base class would print every log as one long line, with the radius of each site."""
        loss = (logs or {}).get("task_loss", (logs or {}).get("loss"))
        if loss is not None:
            self._update({"loss": f"{loss:.4g}"})

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any) -> None:
        """No second bar: evaluations are short, and it would hide the first one."""

    def _show(self, values: dict[str, Any]) -> None:
        self._update({label: f"{values[name]:.1%}" for label, name in self.metrics.items() if name in values})

    def _update(self, shown: dict[str, str]) -> None:
        self.shown |= shown
        bar: Any = self.training_bar
        if bar is not None and self.shown:
            bar.set_postfix(self.shown)


def show_accuracies(trainer: Trainer, title: str) -> None:
    """Give a trainer a progress bar with its training and held-out accuracy, in place of its own; none with `disable_tqdm`."""
    if trainer.args.disable_tqdm:
        return
    trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)  # another one in a notebook
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(MetricProgress({"held-out": HELD_OUT_METRIC, "train": TRAIN_METRIC}, title=title))


def print_sites(trainer: Any, said: str) -> None:
    """Print the sites of a radial trainer, once for all processes; nothing if they are not known yet.

    Args:
        trainer: a `RadialTrainer`.
        said: what the run does with them, after `Sites: `.
    """
    if PartialState().is_main_process and trainer.radial_penalty is not None:
        print(f"Sites: {said}\n{trainer.radial_penalty.table()}\n", flush=True)
