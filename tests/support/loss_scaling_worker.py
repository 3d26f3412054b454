"""One step per case, in the launched number of processes; each rank writes its micro-batches, rank 0 all other results.

torchrun --nproc_per_node 2 tests/support/loss_scaling_worker.py FOLDER
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from reference import keeping, stack, tiny_gpt2, tiny_llama, token_rows
from torch import nn
from transformers import Trainer

from hf_radial import RadialCallback, RadialTrainer
from hf_radial.runs.start import end_processes
from runs import one_step_arguments

LAMBDA = 0.3
MAKE = {"llama": tiny_llama, "gpt2": tiny_gpt2, "small": functools.partial(tiny_llama, layers=1)}


def trimmed(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Each micro-batch as long as its longest row."""
    batch = stack(rows)
    return {name: tensor[:, : int(batch["attention_mask"].sum(1).max())] for name, tensor in batch.items()}


def own_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Twice the usual one, which the Trainer must not scale again."""
    logits, labels = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return 2 * nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / num_items_in_batch


# name -> model, door, what is asked of the Trainer
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "averaged": ("llama", "trainer", {}),
    "averaged_callback": ("gpt2", "callback", {}),
    "not_averaged": ("llama", "trainer", {"average_tokens_across_devices": False}),
    "smoothed": ("llama", "trainer", {"label_smoothing_factor": 0.2}),
    "own_loss": ("llama", "callback", {"compute_loss_func": own_loss}),
    "bf16": ("llama", "trainer", {"bf16": True}),
    "checkpointed": ("llama", "trainer", {"gradient_checkpointing": True}),
    # The last: TrainingArguments leaves its choice in the environment, and whatever follows would compile too.
    "compiled": ("small", "trainer", {"torch_compile": True, "torch_compile_backend": "aot_eager"}),
}


def train(
    kind: str, door: str, folder: Path, rows: int = 8, steps: int = 1, trainer_class: type = Trainer, **options: Any
) -> Any:
    """A trainer that has trained on uneven micro-batches, accumulated by three."""
    given = {name: options.pop(name) for name in ("compute_loss_func",) if name in options}
    args = one_step_arguments(
        folder,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=options.pop("gradient_accumulation_steps", 3),
        max_steps=steps,
        **options,
    )
    given |= {"model": MAKE[kind](), "args": args, "train_dataset": token_rows(rows, padded=True), "data_collator": trimmed}
    if door == "trainer":
        radial = RadialTrainer if trainer_class is Trainer else type("Radial", (RadialTrainer, trainer_class), {})
        trainer = keeping(radial)(**given, radial_lambda=LAMBDA)
    else:
        trainer = keeping(trainer_class)(**given, callbacks=[RadialCallback(LAMBDA)])
    trainer.train()
    return trainer


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    for name, (kind, door, options) in CASES.items():
        trainer = train(kind, door, folder, rows=17, **options)
        torch.save(trainer.kept_batches[0], folder / f"{name}_{rank}.pt")
        if rank == 0:
            gradients = trainer.kept_gradients[0]
            torch.save(
                {n.replace("_orig_mod.", "").replace("module.", ""): g for n, g in gradients.items()}, folder / f"{name}.pt"
            )
            (folder / f"{name}.json").write_text(json.dumps(trainer.state.log_history[0]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_processes()
