"""One SGD step per case with a sharded model, in the launched number of processes.

torchrun --nproc_per_node 2 tests/support/sharded_worker.py {fsdp,deepspeed} FOLDER

Each rank writes its micro-batches; rank 0 writes by how much the whole parameters moved, and the log.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from reference import keeping, stack, tiny_gpt2, tiny_llama, token_rows
from transformers import Trainer, TrainingArguments

from hf_radial import RadialCallback, RadialTrainer
from hf_radial.runs.start import end_processes

LAMBDA = 0.3
BLOCKS = {"llama": "LlamaDecoderLayer", "gpt2": "GPT2Block"}
MAKE = {"llama": tiny_llama, "gpt2": tiny_gpt2}

# name -> model, door, accumulation, checkpointing: none, the Trainer's, or FSDP's own
FSDP_CASES = {
    "one": ("llama", "trainer", 1, "none"),
    "accumulated": ("llama", "trainer", 3, "none"),
    "callback": ("gpt2", "callback", 3, "none"),
    "checkpointed": ("llama", "trainer", 3, "trainer"),
    "checkpointed_by_fsdp": ("llama", "trainer", 3, "fsdp"),
}
# name -> model, door, accumulation, checkpointing, stage of ZeRO
DEEPSPEED_CASES = {
    "accumulated": ("llama", "trainer", 3, "none", 2),
    "callback": ("gpt2", "callback", 3, "none", 2),
    "checkpointed": ("llama", "trainer", 3, "trainer", 2),
    "parameters_too": ("llama", "trainer", 3, "trainer", 3),
}


def trimmed(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Each micro-batch as long as its longest row."""
    batch = stack(rows)
    return {name: tensor[:, : int(batch["attention_mask"].sum(1).max())] for name, tensor in batch.items()}


def whole(tensor: Any) -> torch.Tensor:
    if hasattr(tensor, "ds_id"):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.detach().clone()
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def one_step(kind: str, door: str, accumulation: int, checkpointing: str, folder: Path, **options: Any) -> Any:
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=3,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        max_grad_norm=0.0,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        gradient_checkpointing=checkpointing == "trainer",
        **options,
    )
    # 17 rows fill no whole number of micro-batches: the last ranks' are uneven.
    common = {"model": MAKE[kind](), "args": args, "train_dataset": token_rows(17, padded=True), "data_collator": trimmed}
    if door == "trainer":
        trainer = keeping(RadialTrainer)(**common, radial_lambda=LAMBDA)
    else:
        trainer = keeping(Trainer)(**common, callbacks=[RadialCallback(LAMBDA)])
    trainer.train()
    return trainer


def write(trainer: Any, kind: str, name: str, folder: Path) -> None:
    before = dict(MAKE[kind]().named_parameters())
    after = {n.replace("_checkpoint_wrapped_module.", ""): whole(p) for n, p in trainer.model.named_parameters()}
    rank = int(os.environ["RANK"])
    torch.save(trainer.kept_batches[0], folder / f"{name}_{rank}.pt")
    if rank == 0:
        torch.save({n: before[n].detach() - p for n, p in after.items()}, folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps(trainer.state.log_history[0]))


def let_accelerate_shard_on_cpus() -> None:
    """It switches FSDP on for accelerators alone, although torch's `fully_shard`, which does the work, runs on CPUs."""
    original = AcceleratorState.__init__

    def patched(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = patched


def fsdp(folder: Path) -> None:
    let_accelerate_shard_on_cpus()
    for name, (kind, door, accumulation, checkpointing) in FSDP_CASES.items():
        config = {
            "version": 2,
            "transformer_layer_cls_to_wrap": [BLOCKS[kind]],
            "reshard_after_forward": True,
            "activation_checkpointing": checkpointing == "fsdp",
        }
        trainer = one_step(kind, door, accumulation, checkpointing, folder, fsdp=True, fsdp_config=config)
        sharded = [p for p in trainer.model.parameters() if hasattr(p, "full_tensor")]
        assert sharded and all(p.to_local().numel() < p.numel() for p in sharded), "nothing is sharded"
        write(trainer, kind, name, folder)


def deepspeed(folder: Path) -> None:
    for name, (kind, door, accumulation, checkpointing, stage) in DEEPSPEED_CASES.items():
        config = {
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": 0.0,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        write(one_step(kind, door, accumulation, checkpointing, folder, deepspeed=config), kind, name, folder)


if __name__ == "__main__":
    {"fsdp": fsdp, "deepspeed": deepspeed}[sys.argv[1]](Path(sys.argv[2]))
    end_processes()
