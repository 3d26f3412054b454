"""The penalty's cost on a language model: time and peak memory of a training step with it, divided by those without it.

The model is that of recipes/configs/addition_nanogpt.yaml: GPT-2 with 10.6 million parameters and the same dropout. A step is
`zero_grad`, forward, backward and fused AdamW in a plain loop. There are three arms, each with its own model from the same
seed:

- *off*: no hook on the model;
- *on*: `RadialPenalty` attached, `loss + penalty()`;
- *naive*: the same penalty as a chain of torch operations in forward hooks, as the paper's code would do it.

Characters are random, since their content does not change the cost. *Tensors* is the peak memory of tensors in a step, with
parameters and optimizer, from the allocator (exact, so one pair is enough). *Process* is the peak resident memory of a process
that does nothing else. On a GPU both are `max_memory_allocated`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))  # run in its own process, to measure its memory
from transformers import GPT2LMHeadModel, set_seed

from benchmarks.counts import count, peak_tensor_bytes, resident_bytes
from benchmarks.pairs import collected, interleave, ratios, seconds_per_call
from benchmarks.settings import Settings
from benchmarks.table import Row
from hf_radial import RadialArguments, RadialPenalty
from hf_radial.runs.start import parse_options
from hf_radial.tasks.tokenizer import character_tokenizer
from recipes.addition import CONFIGS, AdditionArguments, build_model

PRESET = "addition_nanogpt"
BATCHES = ((64, 16), (8, 256))  # rows, characters
TARGET, TARGET_COMPILED = 1.02, 1.01
GPU_COMMAND = "python benchmarks/run.py --only penalty-gpu"
PROCESS_STEPS = 3


class NaivePenalty:
    """`radial_lambda * sum over sites of mean of (||h|| - sqrt(d))^2 / d`, one operation at a time, in forward hooks."""

    def __init__(self, model: nn.Module, radial_lambda: float) -> None:
        modules = dict(model.named_modules())
        self.radial_lambda, self.terms, self.collecting = radial_lambda, list[Tensor](), False
        model.register_forward_pre_hook(self.begin)
        for site in RadialPenalty(model, radial_lambda).sites:
            modules[site.name].register_forward_hook(self.add)

    def begin(self, module: nn.Module, args: Any) -> None:
        self.collecting = True

    def add(self, module: nn.Module, args: Any, h: Tensor) -> None:
        d = h.shape[-1]
        term = ((torch.norm(h.float(), dim=-1) - sqrt(d)) ** 2 / d).mean()
        if self.collecting:  # a checkpointed block's replay must compute the same, and does not count again
            self.terms.append(term)

    def __call__(self) -> Tensor:
        total = self.radial_lambda * torch.stack(self.terms).sum()
        self.terms.clear()
        self.collecting = False
        return total


class Loop:
    """A plain training loop: call it for one step.

    Args:
        arm: `"off"`, `"on"` or `"naive"`.
        rows, length: size of the batch.
        checkpointing: use gradient checkpointing.
        device: the device.
        compiled: compile the model with `torch.compile`.
    """

    def __init__(
        self, arm: str, rows: int, length: int, checkpointing: bool = False, device: str = "cpu", compiled: bool = False
    ) -> None:
        task, args = preset()
        set_seed(0)
        self.model: GPT2LMHeadModel = build_model(task, character_tokenizer("0123456789+=\n")).train()
        self.model.to(torch.device(device))
        self.autocast = device != "cpu"
        if checkpointing:
            self.model.config.use_cache = False
            # Its name from transformers 5.2x on, and before.
            enable = getattr(self.model, "activation_checkpointing_enable", None) or self.model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.penalty: RadialPenalty | NaivePenalty | None = None
        if arm == "on":
            self.penalty = RadialPenalty(self.model, task.paper_lambda).attach()
        elif arm == "naive":
            self.penalty = NaivePenalty(self.model, task.paper_lambda)
        if compiled:
            self.model.compile()  # in place: the penalty hooks the module that is called
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            args.learning_rate,
            (args.adam_beta1, args.adam_beta2),
            weight_decay=args.weight_decay,
            fused=True,
        )
        # Not 0, which is padding.
        ids = torch.randint(1, self.model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(1))
        self.batch = {"input_ids": ids.to(device), "labels": ids.to(device)}

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        if self.autocast:
            with torch.autocast("cuda", torch.bfloat16):
                loss = self.model(**self.batch).loss
        else:
            loss = self.model(**self.batch).loss
        if self.penalty is not None:
            loss = loss + self.penalty()
        loss.backward()
        self.optimizer.step()

    def from_the_start(self) -> None:
        """A step that starts and ends without gradients, so that it frees all memory that it allocates."""
        self()
        self.optimizer.zero_grad()

    def there(self) -> list[Tensor]:
        """The tensors that exist throughout a step."""
        state = [value for each in self.optimizer.state.values() for value in each.values() if isinstance(value, Tensor)]
        return [*self.model.parameters(), *self.model.buffers(), *state, *self.batch.values()]


def preset() -> tuple[AdditionArguments, RadialArguments]:
    """The options of the preset."""
    with tempfile.TemporaryDirectory() as folder:
        argv = ["--preset", PRESET, "--output_dir", folder, "--report_to", "none"]
        task, args = parse_options((AdditionArguments, RadialArguments), argv, CONFIGS, PRESET, "")
    return task, args


def rows(settings: Settings) -> Iterator[Row]:
    """On the CPU, in float32."""
    for size in BATCHES if not settings.quick else ((2, 8),):
        yield from time_rows(size, settings, False)
        yield from memory_rows(size, settings)
    size = BATCHES[0] if not settings.quick else (2, 8)
    yield from time_rows(size, settings, True)


def label(size: tuple[int, int], checkpointing: bool = False) -> str:
    return f"GPT-2 10M, CPU float32, {size[0]} x {size[1]}" + (", gradient checkpointing" if checkpointing else "")


def time_rows(size: tuple[int, int], settings: Settings, checkpointing: bool) -> Iterator[Row]:
    """The time with the penalty over that without, which has a target; and the gain of the fused penalty."""
    loops = {arm: Loop(arm, *size, checkpointing=checkpointing) for arm in ("off", "on", "naive")}
    samples = interleave({arm: partial(seconds_per_call, loop, 1) for arm, loop in loops.items()}, settings.pairs)
    configuration = {**describe(size, checkpointing), "steps_per_sample": 1}
    common: dict[str, Any] = {"samples": samples, "configuration": configuration}
    what = label(size, checkpointing)
    target = None if checkpointing else TARGET
    yield Row(f"penalty on / off, time: {what}", at_most=target, values=ratios(samples["on"], samples["off"]), **common)
    yield Row(f"naive penalty / off, time: {what}", values=ratios(samples["naive"], samples["off"]), **common)


def memory_rows(size: tuple[int, int], settings: Settings) -> Iterator[Row]:
    """Peak memory of tensors, exactly, and of a process; with checkpointing and without."""
    for checkpointing in (False,) if settings.quick else (False, True):
        what, peaks = label(size, checkpointing), dict[str, list[float]]()
        details: dict[str, Any] = describe(size, checkpointing)
        for arm in ("off", "on", "naive"):
            loop = Loop(arm, *size, checkpointing=checkpointing)
            loop.from_the_start()
            peaks[arm] = [float(peak_tensor_bytes(loop.from_the_start, loop.there()))]
            counts = count(loop.from_the_start, loop.model.parameters())
            details[f"counts_{arm}"] = {
                "operations": sum(counts.operations.values()),
                "saved_bytes": counts.saved_bytes,
                "allocations": counts.allocations,
                "waits": counts.waits,
            }
        target = None if checkpointing else TARGET
        for arm, most in (("on", target), ("naive", None)):
            yield Row(
                f"{'penalty on' if arm == 'on' else 'naive penalty'} / off, peak memory of tensors: {what}",
                at_most=most,
                values=ratios(peaks[arm], peaks["off"]),
                samples=peaks,
                sample_unit="bytes",
                configuration=details,
                spread="exact",
            )
    arms = {arm: partial(resident, arm, size) for arm in ("off", "on")}
    samples = interleave(arms, 1 if settings.quick else 5, warm_up=0)
    yield Row(
        f"penalty on / off, peak memory of the process: {label(size)}",
        at_most=TARGET,
        values=ratios(samples["on"], samples["off"]),
        samples=samples,
        sample_unit="bytes",
        configuration={
            **describe(size, False),
            "steps": PROCESS_STEPS,
            "measured": "VmHWM of a fresh process, imports included",
        },
    )


def describe(size: tuple[int, int], checkpointing: bool) -> dict[str, Any]:
    task, args = preset()
    return {
        "preset": PRESET,
        "rows": size[0],
        "length": size[1],
        "radial_lambda": task.paper_lambda,
        "dropout": task.dropout,
        "dtype": "float32",
        "gradient_checkpointing": checkpointing,
        "optimizer": f"fused AdamW, lr {args.learning_rate}, weight decay {args.weight_decay}",
        "threads": torch.get_num_threads(),
    }


def resident(arm: str, size: tuple[int, int]) -> float:
    """Peak bytes of a process that makes a few steps."""
    command = [sys.executable, __file__, arm, *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


# On a GPU -------------------------------------------------------------------------------------------------------------


def gpu_rows(settings: Settings) -> Iterator[Row]:
    """In bf16 autocast, eager and compiled; told how, where there is no GPU."""
    for compiled in (False, True):
        for size in ((256, 256), (64, 16)):  # the preset's batch, and a small one whose cost is launching kernels
            what = f"GPT-2 10M, GPU bf16 {'compiled' if compiled else 'eager'}, {size[0]} x {size[1]}"
            most = TARGET_COMPILED if compiled else TARGET
            if not torch.cuda.is_available():
                for kind in ("time", "peak memory"):
                    yield Row(f"penalty on / off, {kind}: {what}", at_most=most, missing=f"not yet run: {GPU_COMMAND}")
                continue
            configuration = {
                **describe(size, False),
                "dtype": "bfloat16 autocast",
                "compiled": compiled,
                "steps_per_sample": 20,
            }
            torch.compiler.reset()  # compiled for at most so many models, of which there are many here
            peaks = {arm: [gpu_peak(arm, size, compiled)] for arm in ("off", "on")}
            torch.compiler.reset()
            loops = {arm: Loop(arm, *size, device="cuda", compiled=compiled) for arm in ("off", "on", "naive")}
            # Two warm-ups: the first compiles.
            arms = {arm: partial(seconds_per_call, loop, 20, "cuda") for arm, loop in loops.items()}
            samples = interleave(arms, settings.pairs, warm_up=2)
            common: dict[str, Any] = {"samples": samples, "configuration": configuration}
            yield Row(f"penalty on / off, time: {what}", at_most=most, values=ratios(samples["on"], samples["off"]), **common)
            yield Row(f"naive penalty / off, time: {what}", values=ratios(samples["naive"], samples["off"]), **common)
            yield Row(
                f"penalty on / off, peak memory: {what}",
                at_most=most,
                values=ratios(peaks["on"], peaks["off"]),
                samples=peaks,
                sample_unit="bytes",
                configuration=configuration,
                spread="exact",
            )


def gpu_peak(arm: str, size: tuple[int, int], compiled: bool) -> float:
    """The most bytes that torch allocated on the GPU in a step, with nothing else on it."""
    with collected():
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        loop = Loop(arm, *size, device="cuda", compiled=compiled)
        for _ in range(3):
            loop()
        torch.cuda.reset_peak_memory_stats()
        loop()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Peak resident memory of a few steps, in bytes; for the benchmark's own use.")
    parser.add_argument("arm", choices=("off", "on", "naive"))
    parser.add_argument("rows", type=int)
    parser.add_argument("length", type=int)
    options = parser.parse_args()
    one = Loop(options.arm, options.rows, options.length)
    for _ in range(PROCESS_STEPS):
        one()
    print(json.dumps(resident_bytes()))
