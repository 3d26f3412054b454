"""The penalty compared with two other methods for earlier grokking, in their authors' code, which is not in this repository.

    git clone https://github.com/ironjr/grokfast
    git clone https://github.com/LucasPrietoAl/grokking-at-the-edge-of-numerical-stability orthograd
    python benchmarks/run.py --only peers --grokfast grokfast --orthograd orthograd

Grokfast (arXiv 2405.20233) adds a moving average of the gradients to them, `gradfilter_ema` with its defaults. The orthogonal
gradient (arXiv 2501.04697) removes the part of each gradient along its weight, with `OrthoGrad` around AdamW. All arms are one
plain loop on the MLP of (a+b) mod 97, with batches of 256, fused AdamW at 1e-3 and weight decay on all but biases. The
benchmark measures the cost of a step, and the epochs and seconds of training until 99 % of the held-out rows are right.
Accuracy is evaluated after every epoch, and its time does not count.

No method was tuned here: penalty 0.05 as in the preset, the others with their authors' defaults.
"""

from __future__ import annotations

import importlib.util
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.by_hand import LEARNING_RATE, optimizer_by_hand
from benchmarks.pairs import collected, interleave, ratios, seconds_per_call
from benchmarks.settings import Settings
from benchmarks.table import Row
from benchmarks.trainer_speed import LAMBDA, P, build
from hf_radial import RadialPenalty
from hf_radial.tasks.load import load_task
from hf_radial.tasks.tensor_rows import TensorRows

WIDTH, BATCH = 512, 256
WEIGHT_DECAYS = {1.0: 400}  # and the epochs after which a run is stopped
SOLVED_AT = 0.99
STEPS = 57  # steps of a sample: three epochs
FILES = {"grokfast": "grokfast.py", "orthograd": "orthograd.py"}
NAMES = {"adamw": "AdamW", "ours": "the penalty", "grokfast": "Grokfast", "orthograd": "orthogonal gradient"}


class Method:
    """One arm: a model, and a call that takes a training step on a batch.

    Args:
        name: of `NAMES`.
        seed: random seed of the initial weights.
        weight_decay: weight decay on all but biases.
        module: the authors' file, for the other methods.
    """

    def __init__(self, name: str, seed: int, weight_decay: float, module: ModuleType | None) -> None:
        self.model = build(WIDTH, seed=seed)
        self.penalty = RadialPenalty(self.model, LAMBDA).attach() if name == "ours" else None
        self.module = module
        self.averages: Any = None
        self.filters = name == "grokfast"
        self.optimizer = optimizer_by_hand(self.model, weight_decay, fused=True)
        if name == "orthograd" and module is not None:
            groups = [{**group} for group in self.optimizer.param_groups]
            self.optimizer = module.OrthoGrad(groups, base_optimizer_cls=torch.optim.AdamW, lr=LEARNING_RATE, fused=True)

    def __call__(self, ids: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(self.model(input_ids=ids).logits, labels)
        if self.penalty is not None:
            loss = loss + self.penalty()
        self.optimizer.zero_grad()
        loss.backward()
        if self.filters and self.module is not None:
            self.averages = self.module.gradfilter_ema(self.model, grads=self.averages)
        self.optimizer.step()


def rows(settings: Settings) -> Iterator[Row]:
    modules: dict[str, ModuleType | None] = {"adamw": None, "ours": None}
    origins = {}
    for name in FILES:
        checkout = getattr(settings, name)
        if checkout is None:
            yield Row(f"{NAMES[name]}: cost of a step and time to onset", missing=f"not run: give --{name} PATH")
        else:
            modules[name] = load(checkout, name)
            origins[name] = commit_of(checkout)
    if not origins:
        return
    data = load_task("modular", operation="add", p=P, train_fraction=0.5, validation_fraction=0.25)
    tensors = {name: tuple(TensorRows.of(data[name]).columns.values()) for name in ("train", "validation")}
    configuration: dict[str, Any] = {
        "width": WIDTH,
        "embedding_size": WIDTH // 2,
        "batch": BATCH,
        "radial_lambda": LAMBDA,
        "optimizer": f"fused AdamW, lr {LEARNING_RATE}, no weight decay on biases",
        "peers": origins,
        "threads": torch.get_num_threads(),
    }
    yield from cost_rows(settings, modules, tensors, configuration)
    for weight_decay, epochs in list(WEIGHT_DECAYS.items())[: 1 if settings.quick else None]:
        yield from onset_rows(settings, modules, tensors, configuration, weight_decay, 2 if settings.quick else epochs)


def cost_rows(
    settings: Settings, modules: dict[str, Any], tensors: dict[str, Any], configuration: dict[str, Any]
) -> Iterator[Row]:
    """A step of each method over a step of AdamW alone."""
    ids, labels = (column[:BATCH] for column in tensors["train"])
    steps = 2 if settings.quick else STEPS
    arms: dict[str, Callable[[], float]] = {}
    for name, module in modules.items():
        method = Method(name, 0, 1.0, module)
        arms[name] = partial(seconds_per_call, partial(method, ids, labels), steps)
    samples = interleave(arms, settings.pairs)
    for name in list(modules)[1:]:
        yield Row(
            f"{NAMES[name]} / AdamW, time of a step: MLP d={WIDTH}, batch {BATCH}",
            values=ratios(samples[name], samples["adamw"]),
            samples=samples,
            configuration={**configuration, "weight_decay": 1.0, "steps_per_sample": steps},
        )


def onset_rows(
    settings: Settings,
    modules: dict[str, Any],
    tensors: dict[str, Any],
    configuration: dict[str, Any],
    weight_decay: float,
    epochs: int,
) -> Iterator[Row]:
    """Epochs and seconds to 99 %, of each method from the same seeds, which take turns."""
    found: dict[str, list[tuple[int, float, bool]]] = {name: [] for name in modules}
    for seed in range(settings.seeds):
        for name, module in modules.items():
            with collected():
                found[name].append(until_solved(Method(name, seed, weight_decay, module), tensors, seed, epochs))
    for place, unit in enumerate(("epochs", "seconds")):
        for name, runs in found.items():
            # A stopped run is only known to need more.
            ended = [float(run[place]) for run in runs if not run[2]]
            yield Row(
                f"{NAMES[name]}, {unit} to 99 %: MLP d={WIDTH}, batch {BATCH}, weight decay {weight_decay:g}",
                values=[float(run[place]) for run in runs],
                unit=" s" if unit == "seconds" else " epochs",
                samples={"epochs": [float(run[0]) for run in runs], "seconds": [run[1] for run in runs]},
                sample_unit="one a seed",
                configuration={**configuration, "weight_decay": weight_decay, "seeds": settings.seeds, "most_epochs": epochs},
                bound=min(ended, default=None),
                note=f"{len(ended)} of {len(runs)} runs not within {epochs} epochs" if ended else "",
            )


def until_solved(method: Method, tensors: dict[str, Any], seed: int, most_epochs: int) -> tuple[int, float, bool]:
    """Train until the held-out rows are known; epochs, seconds of training, and whether they are."""
    (ids, labels), (held_out, answers) = tensors["train"], tensors["validation"]
    generator = torch.Generator().manual_seed(seed)
    seconds = 0.0
    for epoch in range(1, most_epochs + 1):
        start = time.perf_counter()
        order = torch.randperm(len(labels), generator=generator)
        for index in order.split(BATCH):
            method(ids[index], labels[index])
        seconds += time.perf_counter() - start
        method.model.eval()
        with torch.no_grad():
            right = (method.model(input_ids=held_out).logits.argmax(-1) == answers).double().mean().item()
        method.model.train()
        if right >= SOLVED_AT:
            return epoch, seconds, True
    return most_epochs, seconds, False


def authors_file(checkout: Path, name: str) -> Path:
    """The file of a checkout that is used.

    Raises:
        FileNotFoundError: it does not exist.
    """
    file = Path(checkout) / FILES[name]
    if not file.is_file():
        raise FileNotFoundError(f"--{name} {checkout}: no {FILES[name]} in there; benchmarks/peers.py says what to check out")
    return file


def load(checkout: Path, name: str) -> ModuleType:
    """The authors' file, imported from their checkout."""
    spec = importlib.util.spec_from_file_location(f"peer_{name}", authors_file(checkout, name))
    if spec is None or spec.loader is None:
        raise ImportError(f"--{name} {checkout}: {FILES[name]} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commit_of(checkout: Path) -> str:
    """The commit that is checked out there; a plain copy of the files has none."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    # A copy may be inside another checkout.
    top = git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != Path(checkout).resolve():
        return "unknown: not a checkout"
    return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
