"""The same training on a table, from the device and by the ordinary loader, in the launched number of processes.

torchrun --nproc_per_node 2 tests/support/resident_worker.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments, default_data_collator, set_seed

from hf_radial.runs.start import end_processes
from hf_radial.training.fast.resident import ResidentMixin
from hf_radial.training.fast.resident_loader import ResidentLoader

P = 7
DISTRIBUTED = {
    "plain": {},
    "split_batches": {"accelerator_config": {"split_batches": True}},
    "not_seedable": {"accelerator_config": {"use_seedable_sampler": False}},
    "drop_last": {"dataloader_drop_last": True, "data_seed": 11, "gradient_accumulation_steps": 2},
}


class Resident(ResidentMixin, Trainer):
    pass


class Tiny(nn.Module):
    """A model with dropout, so that whatever else draws random numbers shows; keeps its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(P, 8), nn.Linear(17, P)
        self.dropout = nn.Dropout(0.3)
        self.seen: list[dict[str, Any]] = []

    def forward(self, input_ids: Any, weight: Any, labels: Any) -> dict[str, Any]:
        self.seen.append({"input_ids": input_ids, "weight": weight, "labels": labels})
        hidden = torch.cat([self.embedding(input_ids).flatten(1), weight.unsqueeze(1).float()], 1)
        logits = self.out(self.dropout(hidden))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def table(label: str = "label") -> Dataset:
    """All pairs, in another order than they are stored in; the model has no use for two of the columns."""
    pairs = [(a, b) for a in range(P) for b in range(P)]
    rows = {
        "note": ["x"] * len(pairs),
        "weight": [a / 3 + b / 7 for a, b in pairs],
        "input_ids": [list(pair) for pair in pairs],
        label: [(a + b) % P for a, b in pairs],
        "spare": [[0.5]] * len(pairs),
    }
    return Dataset.from_dict(rows).shuffle(seed=3)


def make(cls: type[Trainer], folder: Path, rows: Any, more: Any = None, model: Any = Tiny, **options: Any) -> Any:
    """A trainer of a model, or of a new one of a class, over `rows`: 50 steps, several epochs."""
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 3 if options.get("gradient_accumulation_steps") else 4,
        "per_device_eval_batch_size": 10,
        "max_steps": 50,
        "learning_rate": 1e-2,
        "logging_steps": 7,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 5,
    }
    args = TrainingArguments(**{**defaults, **options})
    set_seed(5)
    extra = {"data_collator": default_data_collator, "eval_dataset": rows, **(more or {})}
    return cls(model=model() if isinstance(model, type) else model, args=args, train_dataset=rows, **extra)


def outcome(trainer: Any) -> dict[str, Any]:
    """All that two trainings must agree in."""
    timings = ("runtime", "per_second", "preparation_time")
    logs = [{k: v for k, v in log.items() if not k.endswith(timings)} for log in trainer.state.log_history]
    return {
        "weights": [p.detach() for p in trainer.model.parameters()],
        "random state": torch.random.get_rng_state(),
        "batches": getattr(getattr(trainer.model, "module", trainer.model), "seen", []),
        "logs": logs,
        "epoch": trainer.state.epoch,
    }


def difference(one: Any, other: Any, where: str = "outcome") -> str | None:
    """Where the two are not the same to the bit, in type and order too; `None` if they are."""
    if type(one) is not type(other):
        return f"{where}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
        return None if same else f"{where}: {one} and {other}"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{where}: {list(one)} and {list(other)}"
        return next((d for k in one if (d := difference(one[k], other[k], f"{where}, {k}"))), None)
    if isinstance(one, list):
        if len(one) != len(other):
            return f"{where}: {len(one)} and {len(other)} of them"
        return next(
            (d for i, pair in enumerate(zip(one, other, strict=True)) if (d := difference(*pair, f"{where} {i}"))), None
        )
    return None if one == other else f"{where}: {one} and {other}"


def is_resident(trainer: Any) -> bool:
    return type(trainer.callback_handler.train_dataloader) is ResidentLoader


def main(folder: Path) -> None:
    results = {}
    for name, options in DISTRIBUTED.items():
        outcomes = []
        for cls in (Trainer, Resident):
            trainer = make(cls, folder, table(), eval_strategy="steps", eval_steps=20, **options)
            trainer.train()
            prediction = trainer.predict(table())
            end = {**outcome(trainer), "predictions": torch.tensor(prediction.predictions)}
            outcomes.append({**end, "labels": torch.tensor(prediction.label_ids)})
            assert is_resident(trainer) is (cls is Resident)
        results[name] = difference(*outcomes)
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_processes()
