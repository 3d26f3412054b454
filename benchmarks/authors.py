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
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.tasks.tensor_rows import TensorRows

P, STEPS, RATE, DECAY = 11, 4, 1e-2, 0.5
# What is trained, where it is not everything: SOAP's eigenbasis of a gradient without full rank is up to rounding.
TRAINED = {"soap:frequency=2": "hidden."}
Loop = Callable[[Any, Any, dict[str, torch.Tensor], list[dict[str, Any]]], None]


def rows() -> TensorRows:
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    return TensorRows({"input_ids": pairs, "labels": pairs.sum(1) % P})


def fresh(text: str) -> Any:
    """The network before the first step, for the intervention `text`."""
    set_seed(0)
    # Square hidden matrices.
    model = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=P, embedding_size=8, hidden_size=16)).double()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED.get(text, "")))
    return model


def theirs(text: str, loop: Loop, code: Any, names: list[list[str]]) -> Any:
    model = fresh(text)
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


def scaled_at_first(factor: float) -> Loop:
    steps = plain(lambda code, groups: torch.optim.AdamW(groups, lr=RATE))

    def loop(code: Any, model: Any, batch: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> None:
        code.rescale.__globals__["mlp"] = model  # their function changes this global, whatever it is called with
        code.rescale(model, factor)
        steps(code, model, batch, groups)

    return loop


def with_z_loss(strength: float) -> Loop:
    """Their forward and backward pass of cross-entropy with z-loss, at the logits of the model."""

    def loop(code: Any, model: Any, batch: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> None:
        optimizer, labels = torch.optim.AdamW(groups, lr=RATE), np.eye(P)[batch["labels"].numpy()]
        forward, backward = code._cross_entropy_with_logits_fwd, code._cross_entropy_with_logits_bwd
        forward.__globals__["jax"].lax = SimpleNamespace(square=np.square)
        for _ in range(STEPS):
            optimizer.zero_grad()
            logits = model(batch["input_ids"]).logits
            (losses, parts), kept = forward(logits.detach().numpy(), labels, strength)
            mean = np.full_like(losses, 1 / len(losses))
            logits.backward(torch.from_numpy(backward(kept, (mean, parts))[0]))
            optimizer.step()

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


def whitened(name: str) -> Loop:
    """Their step of plain gradient descent, for the gradient of a first layer, at each hidden matrix. Theirs are transposed."""

    def loop(code: Any, model: Any, batch: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> None:
        step, optimizer = getattr(code, name), torch.optim.AdamW(groups, lr=RATE)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            for layer in model.hidden:
                gradient = layer.weight.grad.T.numpy()
                # From weights of 0 at a learning rate of 1, the step is the gradient that they make of this one.
                step.__globals__.update(lr=1.0, cross_entropy_loss=None)
                step.__globals__["jax"].grad = lambda loss, gradient=gradient: lambda *inputs: (gradient, 0.0, 0.0)
                layer.weight.grad = -torch.from_numpy(step((np.zeros_like(gradient), 0.0, 0.0), None, None)[0].T.copy())
            optimizer.step()

    return loop


def sharpness_aware(rho: float) -> Loop:
    def loop(code: Any, model: Any, batch: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> None:
        optimizer = code.SAM(groups, torch.optim.AdamW, rho=rho, lr=RATE)
        for _ in range(STEPS):
            model(**batch).loss.backward()
            optimizer.first_step(zero_grad=True)
            model(**batch).loss.backward()
            optimizer.second_step(zero_grad=True)

    return loop


def with_jacobian(strength: float) -> Loop:
    def loop(code: Any, model: Any, batch: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> None:
        def after_the_embedding(x: torch.Tensor) -> torch.Tensor:
            h = x.flatten(1)
            for layer in model.hidden:
                h = layer(h).relu()
            return model.classifier(h)

        optimizer, norm = torch.optim.AdamW(groups, lr=RATE), code.GrokAlign(after_the_embedding, device="cpu")
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(batch["input_ids"]).logits, batch["labels"])
            (loss + strength * norm(model.embedding(batch["input_ids"]))).backward()
            optimizer.step()

    return loop


def in_double(inner: Loop) -> Loop:
    """The loop with tensors of float64 where their code names no type."""

    def loop(*args: Any) -> None:
        kept = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            inner(*args)
        finally:
            torch.set_default_dtype(kept)

    return loop


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
    "initial_scale:factor=0.8": (
        "KindXiaoming/Omnigrok",
        "3a0a57346230a7255e5390fcd565812d00f1a281",
        "Omnigrok/mnist/landscape/mnist-landscape.ipynb",
        ("rescale",),
        scaled_at_first(0.8),
    ),
    "z_loss:strength=0.1": (
        "google-research/t5x",
        "cc342d419ec3e3e9c4bf1df33c82330cafdc1e16",
        "t5x/t5x/losses.py",
        ("_cross_entropy_with_logits_fwd", "_cross_entropy_with_logits_bwd"),
        with_z_loss(0.1),
    ),
    "egalitarian_gradient": (
        "asahebpa/Egalitarian-Gradient-Descent",
        "046e066064d538e8e00adf23268df71fb67ffcd3",
        "Egalitarian-Gradient-Descent/main-results/mod_add.py",
        ("egd_update",),
        whitened("egd_update"),
    ),
    "column_normalization": (
        "asahebpa/Egalitarian-Gradient-Descent",
        "046e066064d538e8e00adf23268df71fb67ffcd3",
        "Egalitarian-Gradient-Descent/main-results/mod_add.py",
        ("col_norm_update",),
        whitened("col_norm_update"),
    ),
    "sam:rho=0.05": (
        "davda54/sam",
        "3c3afdbd71cff2462ec91c734b3d1170bd0f3707",
        "sam/sam.py",
        ("SAM",),
        sharpness_aware(0.05),
    ),
    "jacobian:strength=0.1": (
        "mitchell-solomon/grokalign",
        "48842722680f3638561348caae125dd03d2d097f",
        "grokalign/utils.py",
        ("GrokAlign",),
        in_double(with_jacobian(0.1)),
    ),
    "muon": (
        "MoonshotAI/Moonlight",
        "c2ad5b20c605086526a179d36901bfc41b52b44b",
        "Moonlight/examples/toy_train.py",
        ("zeropower_via_newtonschulz5", "Muon"),
        plain(muon),
    ),
    "soap:frequency=2": (
        "nikhilvyas/SOAP",
        "a1e553530fde97d0e6b307d7c82ac6d38b072340",
        "SOAP/soap.py",
        ("SOAP",),
        in_double(plain(lambda code, groups: code.SOAP(groups, lr=RATE, betas=(0.9, 0.999), precondition_frequency=2))),
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
    known: dict[str, Any] = {"torch": torch, "nn": torch.nn, "optim": torch.optim, "math": math, "deque": deque, "chain": chain}
    # Functions for jax run on numpy's arrays, with gradients that the loop gives them.
    known |= {"jnp": np, "jax": SimpleNamespace(jit=lambda function: function), **vars(typing)}
    with not_compiled():
        exec(compile(ast.Module(list(parts), []), str(path), "exec"), known)
    return SimpleNamespace(**{name: known[name] for name in names})


@contextmanager
def no_rounding() -> Iterator[None]:
    """`Tensor.bfloat16` and `Tensor.float` leave tensors as they are."""
    kept = torch.Tensor.bfloat16, torch.Tensor.float
    torch.Tensor.bfloat16 = torch.Tensor.float = lambda self: self  # type: ignore[assignment, method-assign, return-value]
    try:
        yield
    finally:
        torch.Tensor.bfloat16, torch.Tensor.float = kept  # type: ignore[method-assign]


@contextmanager
def not_compiled() -> Iterator[None]:
    """`torch.compile` returns functions as they are: one of the authors' is compiled, which changes its rounding."""
    kept = torch.compile
    torch.compile = lambda function=None, **kwargs: function or (lambda inner: inner)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = kept


@contextmanager
def one_direction() -> Iterator[None]:
    """`torch.randn` and `torch.randn_like` give every row the same numbers: both sides then project on the same direction."""
    kept = torch.randn, torch.randn_like

    def same(*shape: int, **kwargs: Any) -> torch.Tensor:
        return torch.linspace(-1.0, 2.0, shape[-1], dtype=torch.float64).expand(shape).clone()

    torch.randn, torch.randn_like = same, lambda like, **kwargs: same(*like.shape)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn, torch.randn_like = kept


def commit_of(folder: Path, file: str) -> str:
    where = folder / Path(file).parts[0]
    done = subprocess.run(["git", "-C", str(where), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()
