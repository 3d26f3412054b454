"""One optimizer step per case of the matrix, in the launched number of processes; rank 0 writes the results.

torchrun --nproc_per_node 2 tests/support/exactness_worker.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from reference import tiny_gpt2, token_rows
from safetensors.torch import save_file
from transformers import Trainer, default_data_collator

from hf_radial import RadialCallback, RadialTrainer
from hf_radial.runs.start import end_processes
from runs import KeepGradients, one_step_arguments

ROWS = 16
LAMBDA = 0.3
DOORS = ("trainer", "callback")
ACCUMULATION = (1, 2, 4)


def one_step(door: str, accumulation: int, padded: bool, folder: Path, processes: int = 1, **options: Any) -> tuple[dict, dict]:
    """Gradients just before the optimizer, and the log, of one step over the same 16 rows however they are split."""
    args = one_step_arguments(
        folder,
        per_device_train_batch_size=ROWS // accumulation // processes,
        gradient_accumulation_steps=accumulation,
    )
    keep = KeepGradients()
    common = {
        "model": options.pop("model", None) or tiny_gpt2(),
        "args": args,
        "train_dataset": options.pop("rows", None) or token_rows(ROWS, padded),
        "data_collator": default_data_collator,
    }
    if door == "trainer":
        trainer: Trainer = RadialTrainer(**common, radial_lambda=LAMBDA, callbacks=[keep], **options)
    else:
        trainer = Trainer(**common, callbacks=[RadialCallback(LAMBDA, **options), keep])
    trainer.train()
    return keep.gradients, trainer.state.log_history[0]


def case_name(door: str, accumulation: int, padded: bool) -> str:
    return f"{door}_{accumulation}_{'padded' if padded else 'full'}"


def main(folder: Path) -> None:
    processes = int(os.environ["WORLD_SIZE"])
    for door in DOORS:
        for accumulation in ACCUMULATION:
            for padded in (False, True):
                gradients, log = one_step(door, accumulation, padded, folder, processes)
                if int(os.environ["RANK"]) == 0:
                    name = case_name(door, accumulation, padded)
                    save_file({k: v.contiguous() for k, v in gradients.items()}, folder / f"{name}.safetensors")
                    (folder / f"{name}.json").write_text(json.dumps(log))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_processes()
