"""Growth of the penalty's cost per step with sites, width, sequence length and processes.

The penalty's own seconds do not depend on the computation between its sites. They are therefore measured on a chain of cheap
residual blocks `x + gain * x`, in pairs of a step with the penalty and one without. The *share* is these seconds over the step
of a GPT-2 with the same number of sites, width and batch, without the penalty. Exponents are slopes of a line through the
logarithms, with their standard errors.

Processes: steps of `RadialTrainer` over those of the stock `Trainer` in one process and in two (gloo, on this machine), with
the same batch per process.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))  # run in its own process, as one of several
from transformers import GPT2Config, GPT2LMHeadModel, Trainer

from benchmarks import trainer_speed
from benchmarks.by_hand import Steps
from benchmarks.pairs import interleave, ratios, seconds_per_call
from benchmarks.settings import Settings
from benchmarks.table import Row
from hf_radial import RadialPenalty, RadialTrainer
from hf_radial.tasks.tensor_rows import TensorRows

LAMBDA = 0.05
BASE = {"sites": 8, "width": 256, "length": 128}
AXES = {"sites": (4, 8, 16, 32), "width": (64, 128, 256, 512), "length": (32, 64, 128, 256)}
ROWS = 8
SAMPLE_SECONDS = 0.1  # seconds of a sample, reached by several steps


class Gain(nn.Module):
    """A module that computes almost nothing and has a parameter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Chain(nn.Module):
    """A chain of `x + gain * x`; the penalty's sites are the increments."""

    def __init__(self, sites: int, width: int) -> None:
        super().__init__()
        self.increments = nn.ModuleList(Gain(width) for _ in range(sites))

    def forward(self, x: Tensor) -> Tensor:
        for increment in self.increments:
            x = x + increment(x)
        return x


def penalty_seconds(sites: int, width: int, length: int, settings: Settings) -> dict[str, list[float]]:
    """Seconds of a chain's step with the penalty (`on`) and without (`off`), in pairs."""
    torch.manual_seed(0)
    x = torch.randn(ROWS, length, width)

    def stepper(on: bool) -> Any:
        model = Chain(sites, width).train()
        penalty = RadialPenalty(model, LAMBDA, sites=["increments.*"], inputs={"x": x[:2]}).attach() if on else None

        def step() -> None:
            loss = model(x=x).mean()
            if penalty is not None:
                loss = loss + penalty()
            model.zero_grad()
            loss.backward()

        return step

    steps = {"on": stepper(True), "off": stepper(False)}
    for step in steps.values():
        step()
    calls = 1 if settings.quick else max(1, round(SAMPLE_SECONDS / seconds_per_call(steps["off"], 2)))
    arms = {name: partial(seconds_per_call, step, calls) for name, step in steps.items()}
    return interleave(arms, settings.pairs if settings.quick else max(settings.pairs, 11))


def gpt2_seconds(sites: int, width: int, length: int, settings: Settings) -> float:
    """Seconds of a GPT-2's step without the penalty: the median of a few."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=length, n_embd=width, n_layer=sites // 2, n_head=4, use_cache=False,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    model.loss_type = "ForCausalLM"
    ids = torch.randint(64, (ROWS, length))

    def step() -> None:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()

    return median(interleave({"off": lambda: seconds_per_call(step, 1)}, 1 if settings.quick else 3)["off"])


def rows(settings: Settings) -> Iterator[Row]:
    points: dict[tuple[int, ...], tuple[dict[str, list[float]], float]] = {}
    for axis, values in AXES.items():
        chosen = values[:2] if settings.quick else values
        medians = []
        for value in chosen:
            shape = {**BASE, axis: value}
            if settings.quick:
                shape.update({name: 16 for name in ("width", "length") if name != axis})
            key = tuple(shape.values())
            new = key not in points
            if new:
                points[key] = penalty_seconds(**shape, settings=settings), gpt2_seconds(**shape, settings=settings)
            samples, plain = points[key]
            # Pair by pair, so that what both halves share cancels.
            extra = [on - off for on, off in zip(samples["on"], samples["off"], strict=True)]
            medians.append(median(extra))
            if not new:
                continue
            what = f"{shape['sites']} sites, d={shape['width']}, {ROWS} x {shape['length']}"
            configuration = {**shape, "rows": ROWS, "radial_lambda": LAMBDA, "threads": torch.get_num_threads(), "axis": axis}
            yield Row(
                f"penalty, ms a step: {what}",
                values=[1e3 * seconds for seconds in extra],
                unit=" ms",
                samples=samples,
                configuration=configuration,
            )
            yield Row(
                f"penalty / step of GPT-2: {what}",
                values=[100 * seconds / plain for seconds in extra],
                unit=" %",
                samples={**samples, "gpt2": [plain]},
                configuration=configuration,
            )
        yield exponent_row(axis, chosen, medians)
    yield from process_rows(settings)


def exponent_row(axis: str, values: Sequence[int], seconds: Sequence[float]) -> Row:
    """The exponent of one axis, or why there is none."""
    what = f"exponent of the penalty's seconds in {'sequence length' if axis == 'length' else axis}"
    if min(seconds) <= 0:
        return Row(what, missing="not told: at some point the penalty's seconds are lost in the spread")
    slope, error = exponent(values, seconds)
    return Row(
        what,
        values=[slope],
        spread=f"± {error:.2g} (standard error)" if len(values) > 2 else "of two points",
        samples={axis: [float(value) for value in values], "seconds": list(seconds)},
        configuration={**BASE, "rows": ROWS, "standard_error": error},
    )


def exponent(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope of the least-squares line through `(log x, log y)`, and its standard error (0 for two points).

    >>> exponent([1, 2, 4], [3, 12, 48])
    (2.0, 0.0)
    """
    u, v = [math.log(value) for value in x], [math.log(value) for value in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    squares = sum((a - mean_u) ** 2 for a in u)
    slope = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / squares
    left = sum((b - mean_v - slope * (a - mean_u)) ** 2 for a, b in zip(u, v, strict=True))
    error = math.sqrt(left / (len(u) - 2) / squares) if len(u) > 2 else 0.0
    return round(slope, 6), round(error, 6)


# Processes ------------------------------------------------------------------------------------------------------------


def process_rows(settings: Settings) -> Iterator[Row]:
    """`RadialTrainer` over `Trainer`, both on tensors, in one process and in two."""
    width, batch = 128, 256
    for ranks in (1, 2):
        samples = launched(ranks, settings)
        yield Row(
            f"RadialTrainer / Trainer, both on TensorRows, {ranks} process{'es' if ranks > 1 else ''}: "
            f"MLP d={width}, batch {batch} each, lambda {LAMBDA}",
            values=ratios(samples["RadialTrainer"], samples["Trainer"]),
            samples=samples,
            configuration={"processes": ranks, "backend": "gloo", "width": width, "batch": batch, "threads_each": 1},
        )


def launched(ranks: int, settings: Settings) -> dict[str, list[float]]:
    """The result of `process` in this number of processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = [*torchrun, __file__, str(settings.pairs), str(int(settings.quick))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def process(pairs: int, quick: bool) -> dict[str, list[float]]:
    """One of the processes. All measure, and make the same steps, since each waits for the others."""
    rows = TensorRows.of(trainer_speed.table())
    # With two processes, an epoch has half the steps.
    steps = Steps(2, 4) if quick else Steps(20, 100)
    common: dict[str, Any] = {"rows": rows, "width": 128, "batch": 256, "steps": steps}
    arms = {
        "RadialTrainer": lambda: trainer_speed.trained(RadialTrainer, **common, radial_lambda=LAMBDA),
        "Trainer": lambda: trainer_speed.trained(Trainer, **common),
    }
    return interleave(arms, pairs)


if __name__ == "__main__":
    measured = process(int(sys.argv[1]), bool(int(sys.argv[2])))
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(measured))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
