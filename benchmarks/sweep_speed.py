"""A sweep's step compared with the steps of its runs one after another, for the modular MLP of `recipes/sweep.py`.

    python benchmarks/sweep_speed.py                    # minutes; --quick for a rehearsal, --device cuda, --width 512

It measures seconds per step of: all runs at once (`train_together`); one run with `RadialTrainer`; one run with a hand-written
loop; all runs with `torch.func`, the same loop under `vmap`. The `limit` is the time that the sweep's matrix products would
take at the speed of a large product. The penalty is on. Evaluations and logs, which come every few hundred steps, are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, stack_module_state, vmap
from torch.nn import functional as F
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.by_hand import Steps, train
from hf_radial import RadialArguments, RadialTrainer
from hf_radial.models.modular_mlp import ModularMLPForSequenceClassification
from hf_radial.runs.start import parse_options
from hf_radial.sweep.members import SweepMember
from hf_radial.sweep.together import train_together
from hf_radial.tasks.tensor_rows import TensorRows
from recipes.modular import CONFIGS, PRESET, ModularArguments, build_model, load_data, make_trainer

SEEDS = 8
RADIAL_LAMBDA, WEIGHT_DECAY = 0.05, 1.0
STEPS = {False: 190, True: 19}  # steps with a small batch: epochs of 19


class Clock(TrainerCallback):
    """When training began and ended."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.began


def measure(
    pairs: int = 5,
    quick: bool = False,
    device: str = "cpu",
    width: int = 128,
    embedding: int = 128,
    batch: int = 256,
    everything: bool = False,
) -> dict[str, Any]:
    """Seconds per step, `pairs` samples of each, taken in turn.

    Args:
        pairs: samples.
        quick: take a tenth of the steps.
        device: `"cpu"` or `"cuda"`.
        width, embedding: width of the hidden layers and of the embedding.
        batch: rows per step; 4704 are all.
        everything: also measure the loop and `torch.func`.

    Returns:
        `batched_seconds_per_step`: of all `seeds` together; `single_seconds_per_step`: of one; with `everything` also
        `loop_...` of one and `vmap_...` of all; and what was measured.
    """
    options = {
        "embedding_size": embedding,
        "hidden_size": width,
        "per_device_train_batch_size": batch,
        "use_cpu": device == "cpu",
        "radial_lambda": RADIAL_LAMBDA,
        "weight_decay": WEIGHT_DECAY,
        "report_to": "none",
        "disable_tqdm": True,
        "evaluate_every": 100_000,
        "log_every": 100_000,
        "save_every": 0,
    }
    task, args = parse_options(
        (ModularArguments, RadialArguments),
        [word for name, value in options.items() for word in (f"--{name}", str(value))],
        CONFIGS,
        PRESET,
    )
    data = load_data(task)
    rows = {name: TensorRows.of(data[name]) for name in ("train", "validation")}
    args.max_steps = steps = max(3, STEPS[quick] * 256 // max(batch, 256))
    args.eval_delay = 10 * steps  # nor at the end
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def make(kind: type[RadialTrainer], seed: int) -> Any:
            args.seed = seed
            trainer = make_trainer(task, args, data, rows, Path(folder) / str(seed), kind)
            trainer.add_callback(Clock)
            return trainer

        def seconds(trainer: Any) -> float:
            (clock,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, Clock))
            return clock.seconds / trainer.state.global_step

        def batched() -> float:
            members = [make(SweepMember, seed) for seed in range(SEEDS)]
            for member in members:
                member.eval_dataset = members[0].eval_dataset
            train_together(members)
            return seconds(members[-1])  # its events come last

        def single() -> float:
            trainer = make(RadialTrainer, 0)
            trainer.train()
            return seconds(trainer)

        def built() -> ModularMLPForSequenceClassification:
            return build_model(task).to(device)  # type: ignore[arg-type]

        columns = (rows["train"].columns["input_ids"].to(device), rows["train"].columns["labels"].to(device))
        arms: dict[str, Callable[[], float]] = {"batched": batched, "single": single}
        if everything:
            arms["loop"] = lambda: train(built(), *columns, batch, Steps(0, steps), RADIAL_LAMBDA)
            arms["vmap"] = lambda: under_vmap([built() for _ in range(SEEDS)], *columns, batch, steps)
        for i in range(pairs + 1):
            for name, arm in arms.items():
                value = arm()
                if i > 0:  # the first warms up
                    found.setdefault(f"{name}_seconds_per_step", []).append(value)
    count = min(batch, len(rows["train"]))
    flops = SEEDS * 6 * (2 * task.p * embedding * width + count * ((task.hidden_layers - 1) * width**2 + width * task.p))
    speed = product_speed(device)
    return {
        **found,
        "seeds": SEEDS,
        "width": width,
        "embedding": embedding,
        "batch": count,
        "steps": steps,
        "device": device,
        "threads": torch.get_num_threads(),
        "gflop_of_a_batched_step": flops / 1e9,
        "gflop_per_second_of_a_product": speed / 1e9,
        "limit": flops / speed,
    }


def under_vmap(models: list[nn.Module], ids: Tensor, labels: Tensor, batch: int, steps: int) -> float:
    """Seconds per step of all models' losses and gradients with `torch.func`."""
    named, _ = stack_module_state(models)
    layers = sum(name.startswith("hidden.") for name in named) // 2  # each has a weight and a bias

    def loss_of(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        x, terms = F.embedding(x, parameters["embedding.weight"]).flatten(1), []
        for i in range(layers):
            h = F.linear(x, parameters[f"hidden.{i}.weight"], parameters[f"hidden.{i}.bias"])
            terms.append((h.norm(dim=-1) - sqrt(h.shape[-1])).square().mean() / h.shape[-1])
            x = F.relu(h)
        logits = F.linear(x, parameters["classifier.weight"], parameters["classifier.bias"])
        return F.cross_entropy(logits, y) + RADIAL_LAMBDA * torch.stack(terms).sum()

    decayed = [p for name, p in named.items() if not name.endswith("bias")]
    rest = [p for name, p in named.items() if name.endswith("bias")]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-3, fused=True)
    gradients_of = vmap(grad(loss_of))
    started, done = time.perf_counter(), 0
    while done < steps:
        orders = torch.stack([torch.randperm(len(labels), device=ids.device) for _ in models])
        for first in range(0, len(labels), batch):
            index = orders[:, first : first + batch]
            gradients = gradients_of({name: p.detach() for name, p in named.items()}, ids[index], labels[index])
            for name, parameter in named.items():
                parameter.grad = gradients[name]
            optimizer.step()
            done += 1
            if done == steps:
                break
    if ids.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def product_speed(device: str, size: int = 512) -> float:
    """Floating point operations per second of a product of float32 matrices."""
    x = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        y = x
        for _ in range(4):
            y = x @ y
        if x.is_cuda:
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / 4)
    return 2 * size**3 / best


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--embedding", type=int, default=128)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 4704])
    options = parser.parse_args(argv)
    for batch in options.batches:
        found = measure(options.pairs, options.quick, options.device, options.width, options.embedding, batch, everything=True)
        times = {name: median(values) for name, values in found.items() if name.endswith("_seconds_per_step")}
        at_once, single, loop, by_vmap = times.values()
        print(
            f"d={found['width']}, embedding {found['embedding']}, batch {found['batch']}, {found['threads']} threads, "
            f"{found['device']}: {1e3 * at_once:.2f} ms a step of {SEEDS} runs\n  limit: {1e3 * found['limit']:.2f} ms, for "
            f"{found['gflop_of_a_batched_step']:.2f} GFLOP at {found['gflop_per_second_of_a_product']:.0f} GFLOP/s"
        )
        for name, value in (("RadialTrainer", single), ("loop by hand", loop)):
            print(
                f"  {name}: {1e3 * value:.2f} ms a step of one run; one after another / at once {SEEDS * value / at_once:.2f}"
            )
        print(
            f"  torch.func.vmap: {1e3 * by_vmap:.2f} ms a step of {SEEDS} runs; / at once {by_vmap / at_once:.2f}", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
