"""The authors' own code of rival methods: which definitions of which commit, and a training loop that calls them.

    git clone https://github.com/ironjr/grokfast CODE/grokfast      # and the others in SOURCES, each at the commit named

recipes/authors_check.py compares the loops with our interventions. None of the authors' code is copied here.
"""

from __future__ import annotations

import ast
import json
import math
import subprocess
import typing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo
from transformers import set_seed

from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.tasks.tensor_rows import TensorRows

torch._dynamo.config.disable = True  # one of them is compiled, which changes the rounding
P, STEPS, RATE, DECAY = 11, 4, 1e-2, 0.5
Loop = Callable[[Any, Any, dict[str, torch.Tensor], list[dict[str, Any]]], None]


def rows() -> TensorRows:
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    return TensorRows({"input_ids": pairs, "labels": pairs.sum(1) % P})


def fresh() -> Any:
    set_seed(0)
    # Square hidden matrices.
    return ModularMLPForSequenceClassification(ModularMLPConfig(modulus=P, embedding_size=8, hidden_size=16)).double()


def theirs(loop: Loop, code: Any, names: list[list[str]]) -> Any:
    model = fresh()
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [parameters[name] for name in part], "weight_decay": decay}
        for part, decay in zip(names, (DECAY, 0.0), strict=True)
    ]
    loop(code, model, rows().columns, groups)
    return model


def grokfast(name: str, **options: Any) -> Loop:
    def loop(code: Any, model: Any, batch: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> None:
        optimizer, state = torch.optim.AdamW(groups, lr=RATE), None
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            state = getattr(code, name)(model, grads=state, **options)
            optimizer.step()

    return loop


def plain(optimizer_of: Callable[[Any, list[dict[str, Any]]], Any], loss_of: Callable[..., Any] | None = None) -> Loop:
    def loop(code: Any, model: Any, batch: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> None:
        optimizer = optimizer_of(code, groups)
        for _ in range(STEPS):
            optimizer.zero_grad()
            output = model(**batch)
            loss = output.loss if loss_of is None else loss_of(code, output.logits, batch["labels"])
            loss.backward()
            optimizer.step()

    return loop


def held_to_a_norm(factor: float) -> Loop:
    def loop(code: Any, model: Any, batch: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> None:
        code.rescale.__globals__["mlp"] = model  # their functions change this global, whatever they are called with
        optimizer = torch.optim.AdamW(groups, lr=RATE)
        code.rescale(model, factor)
        kept = code.L2(model).detach()
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
            code.rescale(model, torch.sqrt(kept / code.L2(model).detach()))

    return loop


def muon(code: Any, groups: list[dict[str, Any]]) -> Any:
    """Moonlight's optimizer. It decays all its parameters; a second optimizer has those that Trainer does not decay."""
    hidden = [p for p in groups[0]["params"] if tuple(p.shape) == (16, 16)]
    rest = [p for p in groups[0]["params"] if tuple(p.shape) != (16, 16)]
    first = code.Muon(lr=RATE, wd=DECAY, muon_params=hidden, momentum=0.95, adamw_params=[], adamw_betas=(0.9, 0.999))
    second = torch.optim.AdamW([{"params": rest, "weight_decay": DECAY}, groups[1]], lr=RATE)

    class Both:
        def zero_grad(self) -> None:
            first.zero_grad()
            second.zero_grad()

        def step(self) -> None:
            first.step()
            second.step()

    return Both()


# Intervention -> repository, commit, file ("" for a package that is installed), what is taken of it, and the loop with it.
SOURCES: dict[str, tuple[str, str, str, tuple[str, ...], Loop]] = {
    "grokfast_ema:alpha=0.9,lamb=2": (
        "ironjr/grokfast",
        "93b2248e351d4bb9e4dda8ac32a6999b8970404b",
        "grokfast/grokfast.py",
        ("gradfilter_ema",),
        grokfast("gradfilter_ema", alpha=0.9, lamb=2.0),
    ),
    "grokfast_ma:window_size=2,lamb=5": (
        "ironjr/grokfast",
        "93b2248e351d4bb9e4dda8ac32a6999b8970404b",
        "grokfast/grokfast.py",
        ("gradfilter_ma",),
        grokfast("gradfilter_ma", window_size=2, lamb=5.0),
    ),
    "orthogonal_gradient": (
        "LucasPrietoAl/grokking-at-the-edge-of-numerical-stability",
        "0cc9e8dc62ce5ed66d29d80eebbaf14da2f71c67",
        "grokking-at-the-edge-of-numerical-stability/orthograd.py",
        ("OrthoGrad",),
        plain(lambda code, groups: code.OrthoGrad(groups, torch.optim.AdamW, lr=RATE)),
    ),
    "stablemax": (
        "LucasPrietoAl/grokking-at-the-edge-of-numerical-stability",
        "0cc9e8dc62ce5ed66d29d80eebbaf14da2f71c67",
        "grokking-at-the-edge-of-numerical-stability/utils.py",
        ("s", "log_stablemax", "stablemax_cross_entropy"),
        plain(
            lambda code, groups: torch.optim.AdamW(groups, lr=RATE),
            lambda code, logits, labels: code.stablemax_cross_entropy(logits, labels),
        ),
    ),
    "weight_norm:factor=0.8": (
        "KindXiaoming/Omnigrok",
        "3a0a57346230a7255e5390fcd565812d00f1a281",
        "Omnigrok/mnist/landscape/mnist-landscape.ipynb",
        ("L2", "rescale"),
        held_to_a_norm(0.8),
    ),
    "muon": (
        "MoonshotAI/Moonlight",
        "c2ad5b20c605086526a179d36901bfc41b52b44b",
        "Moonlight/examples/toy_train.py",
        ("zeropower_via_newtonschulz5", "Muon"),
        plain(muon),
    ),
    "optim:optim=grokadamw": (
        "cognitivecomputations/grokadamw",
        "package",
        "",
        (),
        plain(lambda code, groups: code.GrokAdamW(groups, lr=RATE)),
    ),
}


def load(folder: Path, file: str, names: Sequence[str]) -> Any:
    """The named definitions of a file, run as they stand; `None` without the file. Its other code may need absent packages."""
    if not file:
        return import_module("grokadamw")
    path = folder / file
    if not path.is_file():
        return None
    text = path.read_text()
    if path.suffix == ".ipynb":  # a notebook's functions may be inside of others
        code = ("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
        found = [node for cell in code for node in ast.walk(ast.parse(cell))]
    else:
        found = list(ast.parse(text).body)
    first = {node.name: node for node in reversed(found) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    parts = [first[name] for name in names if name in first]
    missing = set(names) - set(first)
    if missing:
        raise ValueError(f"{path} has no {', '.join(sorted(missing))}; check out the commit that SOURCES names")
    known: dict[str, Any] = {"torch": torch, "nn": torch.nn, "math": math, "deque": deque, **vars(typing)}
    exec(compile(ast.Module(list(parts), []), str(path), "exec"), known)
    return SimpleNamespace(**{name: known[name] for name in names})


@contextmanager
def no_bfloat16() -> Iterator[None]:
    """`Tensor.bfloat16` leaves tensors as they are."""
    kept = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = lambda self: self  # type: ignore[assignment, method-assign, return-value]
    try:
        yield
    finally:
        torch.Tensor.bfloat16 = kept  # type: ignore[method-assign]


def commit_of(folder: Path, file: str) -> str:
    where = folder / Path(file).parts[0]
    done = subprocess.run(["git", "-C", str(where), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()
