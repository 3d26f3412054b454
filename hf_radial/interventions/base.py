"""`Intervention`: what all of them are. In here: the interface, and its tensors in checkpoints. Not here: any one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_radial.safe_files import replacing
from hf_radial.training.calling import calling_trainer, resumed_from


class Intervention(TrainerCallback):
    """One way to train differently, for any `Trainer`; a subclass is a dataclass of its options.

    A subclass does its work in three places, each of which may stay empty:

    - `configure` changes a model's configuration before the model is made;
    - `attach` takes effect in a trainer that has not trained yet: it may hook the model, set `optimizer_cls_and_kwargs` or
      `compute_loss_func`, change `args`;
    - the events of a `TrainerCallback`, above all `on_pre_optimizer_step` (gradients are there, clipped if they are)
      and `on_optimizer_step` (the weights have just changed).

    What it remembers from step to step is in `tensors`, and goes into each checkpoint and out of it again.
    """

    name: ClassVar[str]

    def configure(self, config: Any) -> None:
        """Change the configuration of a model that is about to be made.

        Raises:
            ValueError: a model of this configuration has no place for it.
        """

    def attach(self, trainer: Trainer) -> None:
        """Take effect in a trainer, before `train()`.

        Raises:
            ValueError, TypeError: it cannot be used with this trainer or its model.
        """
        trainer.add_callback(self)

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers, by name."""
        return {}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""

    @property
    def state_file(self) -> str:
        """Its file in a checkpoint."""
        return f"intervention_{self.name}.safetensors"

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        tensors = self.tensors()
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if tensors and args.should_save and folder.is_dir():
            with replacing(folder / self.state_file) as new:
                save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, new)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = calling_trainer()
        folder = None if trainer is None or state.global_step == 0 else resumed_from(trainer)
        if folder is not None and (folder / self.state_file).is_file():
            self.set_tensors(load_file(folder / self.state_file, device=str(args.device)))
