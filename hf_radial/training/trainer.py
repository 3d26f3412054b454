"""`RadialTrainer`: a `Trainer` plus one argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer

from hf_radial.hub.retry import with_retries
from hf_radial.training.mixin import RadialMixin


class RadialTrainer(RadialMixin, Trainer):
    __doc__ = f"""A `Trainer` whose loss has the hypersphere penalty of arXiv 2606.32000 (Eq. 3).

        trainer = RadialTrainer(model=model, args=args, radial_lambda=0.05, train_dataset=train_dataset)

    Args:{(RadialMixin.__doc__ or "").split("Args:", 1)[-1]}"""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write `README.md` in the output directory from the run's record and log; takes the base class's arguments."""
        from hf_radial.hub.model_card import write_model_card

        if self.is_world_process_zero():
            write_model_card(self, *args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class, together with `trainer_state.json`: the log that the card was made from."""
        with_retries(self.save_state, f"writing trainer_state.json into {self.args.output_dir}")
        return super().push_to_hub(*args, **kwargs)

    def write_progress_card(self) -> None:
        """Write the model card before a push during training, so that an interrupted run leaves a repository with a card."""
        self.create_model_card(model_name=Path(str(self.args.hub_model_id or self.args.output_dir)).name)
