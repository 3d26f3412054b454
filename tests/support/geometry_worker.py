"""Three steps of a tiny GPT-2 with its geometry measured, in the launched number of processes; each writes its log.

torchrun --nproc_per_node 2 tests/support/geometry_worker.py {ddp,fsdp,one_fails} FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from reference import stack, tiny_gpt2, token_rows
from sharded_worker import let_accelerate_shard_on_cpus
from transformers import TrainingArguments

from hf_radial import RadialTrainer
from hf_radial.callbacks.geometry import GeometryCallback
from hf_radial.geometry.observe import LossOf, model_loss
from hf_radial.runs.start import end_processes

GROUPS = ["radial", "spectrum", "function", "drift", "proposition", "curvature"]
CALLS: list[int] = []
AT_STEP_0 = 4  # observed once; Hessian, and before and after the step of sharpness


def run(folder: Path, batch_size: int, loss: LossOf | None = None, **options: object) -> RadialTrainer:
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        max_steps=3,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    trainer = RadialTrainer(
        model=tiny_gpt2(),
        args=args,
        radial_lambda=0.1,
        train_dataset=token_rows(24, padded=True),
        eval_dataset=token_rows(8, padded=True, seed=2),
        data_collator=stack,
        callbacks=[GeometryCallback(every=1, metrics=GROUPS, rows=10, budget=None, loss=loss)],
    )
    trainer.train()
    return trainer


def fails_once(model, batch):
    """The task loss, but at the first call after step 0."""
    CALLS.append(1)
    if len(CALLS) == AT_STEP_0 + 1:
        raise RuntimeError("out of memory on this device")
    return model_loss(model, batch)


def main(how: str, folder: Path) -> None:
    options: dict[str, object] = {}
    if how == "fsdp":
        let_accelerate_shard_on_cpus()
        config = {"version": 2, "transformer_layer_cls_to_wrap": ["GPT2Block"], "reshard_after_forward": True}
        options = {"fsdp": True, "fsdp_config": config}
    if how == "one_fails":
        options = {"loss": fails_once if os.environ["RANK"] == "1" else model_loss}
    trainer = run(folder / "run", 4, **options)
    if how == "fsdp":
        sharded = [p for p in trainer.model.parameters() if hasattr(p, "full_tensor")]
        assert sharded, "nothing is sharded"
    (folder / f"log_{os.environ['RANK']}.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    end_processes()
