"""What a step of `RadialTrainer` costs beside a hand-written loop and beside the stock `Trainer`, on models that are tiny.

The model is the MLP of (a+b) mod 97 (recipes/modular.py) on its 4,705 training rows, with hidden layers of 128 (embeddings of
64) or 512 (256, the paper's), in batches of 256 or of all rows. Every run is a whole training from a new model, from which the
seconds between two step boundaries are taken, so that epochs, batches and callbacks are in and setting up is not. Arms:

- *hand*: `benchmarks/by_hand.py`; *hand, default AdamW*: the same with AdamW as torch has it, not fused;
- *RadialTrainer*: as a user calls it, on the `datasets` table that `load_task` returns, with the default collator;
- *RadialTrainer, TensorRows*: on the rows as tensors, as in recipes/modular.py;
- *Trainer*: stock, on the same table, and the same `with_format("torch")`; without penalty.

All trainers: fused AdamW, constant learning rate, no clipping, no log, evaluation, saving or progress bar.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed

from benchmarks import by_hand
from benchmarks.by_hand import LEARNING_RATE, WEIGHT_DECAY, Steps
from benchmarks.pairs import interleave, ratios, wait
from benchmarks.settings import Settings
from benchmarks.table import Row
from hf_radial import RadialArguments, RadialTrainer
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.tasks.load import load_task
from hf_radial.tasks.tensor_rows import TensorRows, as_batch

P, ROWS, LAMBDA = 97, 4705, 0.05
TARGET, TARGET_GRAPH = 1.10, 1.3
GPU_COMMAND = "python benchmarks/run.py --only trainer-gpu"
# width, rows of a batch: steps that are timed on one CPU core in some seconds; whole epochs
CASES = {(128, 256): Steps(38, 380), (128, ROWS): Steps(8, 60), (512, 256): Steps(19, 152), (512, ROWS): Steps(4, 20)}
SLOWER = 4  # the stock trainer is given so many times fewer steps


class Clock(TrainerCallback):
    """Seconds per step from the boundary after `warm_up` steps to that after all."""

    def __init__(self, steps: Steps, device: str) -> None:
        self.steps, self.device = steps, device
        self.times: dict[int, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (self.steps.warm_up, self.steps.total):
            wait(self.device)
            self.times[state.global_step] = time.perf_counter()

    def seconds(self) -> float:
        return (self.times[self.steps.total] - self.times[self.steps.warm_up]) / self.steps.timed


def build(width: int, device: str = "cpu", seed: int = 0) -> ModularMLPForSequenceClassification:
    set_seed(seed)
    config = ModularMLPConfig(modulus=P, embedding_size=width // 2, hidden_size=width)
    return ModularMLPForSequenceClassification(config).train().to(torch.device(device))


def table() -> Any:
    """The training rows, as `datasets` has them."""
    rows = load_task("modular", operation="add", p=P, train_fraction=0.5, validation_fraction=0.25)["train"]
    if len(rows) != ROWS:
        raise ValueError(f"the training split has {len(rows)} rows, not {ROWS}")
    return rows


def trained(
    cls: type[Trainer],
    rows: Any,
    width: int,
    batch: int,
    steps: Steps,
    device: str = "cpu",
    drop_last: bool = False,
    callbacks: list[TrainerCallback] | None = None,
    **options: Any,
) -> float:
    """Seconds per step of a trainer."""
    clock = Clock(steps, device)
    with tempfile.TemporaryDirectory() as folder:
        args = RadialArguments(
            output_dir=folder,
            max_steps=steps.total,
            per_device_train_batch_size=batch,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            optim="adamw_torch_fused",
            logging_steps=1_000_000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=device == "cpu",
            dataloader_pin_memory=device != "cpu",
            dataloader_drop_last=drop_last,
            remove_unused_columns=not isinstance(rows, TensorRows),
        )
        if isinstance(rows, TensorRows):
            options["data_collator"] = as_batch
        trainer = cls(
            model=build(width, device), args=args, train_dataset=rows, callbacks=[clock, *(callbacks or [])], **options
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.seconds()


def rows(settings: Settings) -> Iterator[Row]:
    """On the CPU."""
    yield from device_rows(settings, "cpu")


def gpu_rows(settings: Settings) -> Iterator[Row]:
    """On a GPU, where the step of the hand-written loop is a CUDA graph; told how, where there is none."""
    if torch.cuda.is_available():
        yield from device_rows(settings, "cuda")
        return
    for width, batch in CASES:
        yield Row(
            f"RadialTrainer / hand-written CUDA-graph loop: {label(width, batch, LAMBDA, 'cuda')}",
            at_most=TARGET_GRAPH,
            missing=f"not yet run: {GPU_COMMAND}",
        )


def label(width: int, batch: int, radial_lambda: float, device: str) -> str:
    size = "full batch" if batch == ROWS else f"batch {batch}"
    return f"MLP p={P} d={width}, {size}, lambda {radial_lambda:g}, {'CPU' if device == 'cpu' else 'GPU'}"


def device_rows(settings: Settings, device: str) -> Iterator[Row]:
    data = table()
    tensors = TensorRows.of(data)
    ids, labels = (tensors.columns[name].to(device) for name in ("input_ids", "labels"))
    for (width, batch), steps in list(CASES.items())[: 1 if settings.quick else None]:
        if device != "cpu":
            steps = Steps(10 * steps.warm_up, 10 * steps.timed)
        if settings.quick:
            steps = Steps(2, 4)
        # One graph serves one size of batch.
        common: dict[str, Any] = {
            "width": width,
            "batch": batch,
            "steps": steps,
            "device": device,
            "drop_last": device != "cpu" and batch < ROWS,
        }
        for radial_lambda in (0.0,) if settings.quick else (LAMBDA, 0.0):
            yield from case_rows(settings, common, radial_lambda, data, tensors, ids, labels)


def case_rows(
    settings: Settings, common: dict[str, Any], radial_lambda: float, data: Any, tensors: Any, ids: Any, labels: Any
) -> Iterator[Row]:
    width, batch, steps, device = (common[name] for name in ("width", "batch", "steps", "device"))
    what = label(width, batch, radial_lambda, device)

    def hand(fused: bool = True) -> float:
        model = build(width, device)
        return by_hand.train(model, ids, labels, batch, steps, radial_lambda, fused, common["drop_last"])

    arms: dict[str, Callable[[], float]] = {
        "hand": hand,
        "hand, default AdamW": lambda: hand(False),
        "RadialTrainer": lambda: trained(RadialTrainer, data, **common, radial_lambda=radial_lambda),
        "RadialTrainer, TensorRows": lambda: trained(RadialTrainer, tensors, **common, radial_lambda=radial_lambda),
    }
    if device != "cpu":
        arms["hand, CUDA graph"] = lambda: by_hand.train_graphed(build(width, device), ids, labels, batch, steps, radial_lambda)
    samples = interleave(arms, settings.pairs)
    configuration = describe(common, radial_lambda)

    def row(over: str, under: str, most: float | None = None) -> Row:
        values = ratios(samples[over], samples[under])
        return Row(f"{over} / {under}: {what}", most, values=values, samples=samples, configuration=configuration)

    yield row("RadialTrainer", "hand", TARGET if device == "cpu" else None)
    yield row("RadialTrainer, TensorRows", "hand")
    yield row("hand, default AdamW", "hand")
    if device != "cpu":
        yield row("RadialTrainer", "hand, CUDA graph", TARGET_GRAPH)
    if radial_lambda == 0:
        yield from stock_rows(settings, common, data, ids, labels)


def stock_rows(settings: Settings, common: dict[str, Any], data: Any, ids: Any, labels: Any) -> Iterator[Row]:
    """The stock trainer, which is so slow that it is given fewer steps, and the loop as many."""
    steps = common["steps"]
    if not settings.quick:
        epoch = -(-ROWS // common["batch"])
        steps = Steps(steps.warm_up, max(1, steps.timed // SLOWER // epoch) * epoch)
    common = {**common, "steps": steps}
    width, batch, device = common["width"], common["batch"], common["device"]
    arms = {
        "hand": lambda: by_hand.train(build(width, device), ids, labels, batch, steps, 0.0, drop_last=common["drop_last"]),
        "Trainer": lambda: trained(Trainer, data, **common),
        'Trainer, with_format("torch")': lambda: trained(Trainer, data.with_format("torch"), **common),
    }
    samples = interleave(arms, settings.pairs if settings.quick else 5)
    configuration = describe(common, 0.0)
    for name in list(arms)[1:]:
        yield Row(
            f"{name} / hand: {label(width, batch, 0.0, device)}",
            values=ratios(samples[name], samples["hand"]),
            samples=samples,
            configuration=configuration,
        )


def describe(common: dict[str, Any], radial_lambda: float) -> dict[str, Any]:
    return {
        "p": P,
        "training_rows": ROWS,
        "hidden_size": common["width"],
        "embedding_size": common["width"] // 2,
        "hidden_layers": 2,
        "batch": common["batch"],
        "drop_last": common["drop_last"],
        "radial_lambda": radial_lambda,
        "warm_up_steps": common["steps"].warm_up,
        "timed_steps": common["steps"].timed,
        "optimizer": f"fused AdamW, lr {LEARNING_RATE}, weight decay {WEIGHT_DECAY}, constant, no clipping",
        "device": common["device"],
        "threads": torch.get_num_threads(),
    }
