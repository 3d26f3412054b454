"""Own curvature or a library's: `hf_radial.geometry.curvature` beside curvlinops, by correctness, speed and dependencies.

    python recipes/curvature_choice.py      # 3 minutes; writes recipes/results/curvature_choice.json and .md

The library is measured if it is installed (`pip install curvlinops-for-pytorch`, in an environment of its own: it is no
dependency of this package). *Error* is the largest difference of a product from the exact Hessian times the same vector,
relative to the largest entry of that; the exact Hessian is made row by row in float64. *Seconds* are the median of
`REPEATS`, one thread. A trace is Hutch++ of 30 products with a new operator, as in a measurement during training.
The table is made from the data: `python recipes/curvature_choice.py --table`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_radial.geometry.curvature import Hessian, hessian_trace, trainable
from hf_radial.runs.packages import is_installed, new_packages
from hf_radial.runs.record import describe_environment
from hf_radial.runs.results import write_study

RESULTS = Path(__file__).parent / "results"
PEER = "curvlinops-for-pytorch"
PROBES, REPEATS, SEED = 30, 5, 0


class Logits(nn.Module):
    """A transformers model as the library wants one: a batch to logits, with classes on axis 1 and shifted if it is causal."""

    def __init__(self, model: nn.Module, causal: bool) -> None:
        super().__init__()
        self.model, self.causal = model, causal

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.model(**batch).logits
        return logits[:, :-1].transpose(1, 2) if self.causal else logits


def mlp_case(width: int, modulus: int, rows: int) -> dict[str, Any]:
    from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification

    torch.manual_seed(SEED)
    config = ModularMLPConfig(modulus=modulus, embedding_size=width // 2, hidden_size=width)
    ids = torch.randint(0, modulus, (rows, 2))
    return {
        "model": ModularMLPForSequenceClassification(config).eval(),
        "batch": {"input_ids": ids},
        "labels": ids.sum(1) % modulus,
        "causal": False,
    }


def gpt2_case(width: int, layers: int, rows: int, frozen: bool = False) -> dict[str, Any]:
    """GPT-2 with tied embeddings, a dictionary as batch, and padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(SEED)
    config = GPT2Config(vocab_size=14, n_positions=16, n_embd=width, n_layer=layers, n_head=2, initializer_range=0.1)
    model = GPT2LMHeadModel(config).eval()
    ids, mask = torch.randint(0, 14, (rows, 14)), torch.ones(rows, 14, dtype=torch.long)
    mask[: rows // 2, 10:] = 0
    if frozen:
        model.transformer.wpe.weight.requires_grad_(False)
    labels = ids.masked_fill(mask == 0, -100)
    return {"model": model, "batch": {"input_ids": ids, "attention_mask": mask}, "labels": labels[:, 1:], "causal": True}


SMALL: dict[str, Callable[[], dict[str, Any]]] = {
    "MLP": lambda: mlp_case(12, 7, 40),
    "GPT-2, tied, padded": lambda: gpt2_case(8, 1, 4),
    "GPT-2, tied, padded, a frozen parameter": lambda: gpt2_case(8, 1, 4, frozen=True),
}
LARGE: dict[str, Callable[[], dict[str, Any]]] = {
    "MLP 512-512-97, 512 rows": lambda: mlp_case(512, 97, 512),
    "GPT-2, 3 layers of 128, 64 rows of 14": lambda: gpt2_case(128, 3, 64),
}


def ours(case: dict[str, Any]) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The loss as a closure, and the parameters."""
    logits = Logits(case["model"], case["causal"])
    return lambda: nn.functional.cross_entropy(logits(case["batch"]), case["labels"]), list(case["model"].parameters())


def theirs(case: dict[str, Any]) -> Any:
    """The library's operator of the same loss."""
    from curvlinops import HessianLinearOperator  # type: ignore[import-not-found, unused-ignore]

    model = Logits(case["model"], case["causal"])
    return HessianLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        [p for p in model.parameters() if p.requires_grad],
        [(case["batch"], case["labels"])],
        check_deterministic=False,
        batch_size_fn=lambda batch: len(batch["input_ids"]),
    )


def exact_hessian(case: dict[str, Any]) -> Tensor:
    """Every row by two backward passes of the loss, in float64; the case's model is left in it."""
    case["model"].double()
    loss, parameters = ours(case)
    wanted = trainable(parameters)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss(), wanted, create_graph=True)])
    rows = [torch.autograd.grad(g, wanted, retain_graph=True, materialize_grads=True) for g in gradient]
    return torch.stack([torch.cat([piece.flatten() for piece in row]) for row in rows])


def attempt(measure: Callable[[], float]) -> float | str:
    """The result of a measurement, or the text of its error: the library may refuse a model."""
    try:
        return measure()
    except Exception as error:  # whatever it is, it belongs in the table
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"


def layer_norm_error() -> dict[str, float]:
    """How far three ways to a Hessian-vector product in torch are from double backward, for the weight of one `layer_norm`.

    The library uses the first one, `jvp` of `jacrev`. The comparison shows whether a difference comes from torch or
    from the library.
    """
    from torch.func import grad, jacrev, jvp

    generator = torch.Generator().manual_seed(SEED)
    x, y, weight, v = (torch.randn(n, 8, generator=generator, dtype=torch.float64).squeeze(0) for n in (5, 5, 1, 1))

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return (nn.functional.layer_norm(x, (8,), weight) ** 3).sum()

    vectors = (y, v)
    exact = torch.autograd.functional.hvp(loss, (x, weight), vectors)[1][1]
    step = 1e-5

    def gradient(sign: int) -> Tensor:
        return grad(loss, argnums=1)(x + sign * step * y, weight + sign * step * v)

    products = {
        "jvp of jacrev": jvp(jacrev(loss, argnums=(0, 1)), (x, weight), vectors)[1][1],
        "jvp of grad": jvp(grad(loss, argnums=(0, 1)), (x, weight), vectors)[1][1],
        "finite differences": (gradient(1) - gradient(-1)) / (2 * step),
    }
    return {name: float((product - exact).abs().max() / exact.abs().max()) for name, product in products.items()}


def median_seconds(call: Callable[[], Any]) -> float:
    call()  # allocations and caches
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def correctness(make: Callable[[], dict[str, Any]], peer: bool) -> dict[str, Any]:
    matrix = exact_hessian(make())
    generator = torch.Generator().manual_seed(SEED)
    vectors = torch.randn(len(matrix), 3, generator=generator, dtype=torch.float64)
    expected = matrix @ vectors

    def error(products: Tensor) -> float:
        return float((products.double() - expected).abs().max() / expected.abs().max())

    result: dict[str, Any] = {"parameters": len(matrix)}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        case = make()
        case["model"].to(dtype)
        given = vectors.to(dtype)
        hessian = Hessian(*ours(case))
        result[f"ours_{name}"] = error(torch.stack([hessian.product(v) for v in given.T], dim=1))
        if peer:
            result[f"theirs_{name}"] = attempt(partial(lambda case, given: error(theirs(case) @ given), case, given))
    return result


def speed(make: Callable[[], dict[str, Any]], peer: bool) -> dict[str, Any]:
    case = make()
    loss, parameters = ours(case)
    hessian = Hessian(loss, parameters)
    v = hessian.random_vector(torch.Generator().manual_seed(SEED))
    result: dict[str, Any] = {
        "parameters": hessian.size,
        "ours_product": median_seconds(lambda: hessian.product(v)),
        "ours_trace": median_seconds(lambda: hessian_trace(loss, parameters, PROBES, SEED)),
    }
    if peer:
        from curvlinops import hutchpp_trace  # type: ignore[import-not-found, unused-ignore]

        def product() -> float:
            operator = theirs(case)
            return median_seconds(lambda: operator @ v)

        result["theirs_product"] = attempt(product)
        result["theirs_trace"] = attempt(lambda: median_seconds(lambda: hutchpp_trace(theirs(case), PROBES)))
    return result


def run_all() -> dict[str, Any]:
    """All of it."""
    torch.set_num_threads(1)
    peer = is_installed(PEER)
    with sdpa_kernel(SDPBackend.MATH):
        right = [{"case": name, **correctness(make, peer)} for name, make in SMALL.items()]
        fast = [{"case": name, **speed(make, peer)} for name, make in LARGE.items()]
    return {
        "command": "python recipes/curvature_choice.py",
        "environment": describe_environment(),
        "seed": SEED,
        "probes": PROBES,
        "repeats": REPEATS,
        "peer": {"name": PEER, **new_packages(PEER)} if peer else None,
        "correctness": right,
        "layer_norm": layer_norm_error(),
        "speed": fast,
    }


def markdown(data: dict[str, Any]) -> str:
    """The tables of the data."""
    machine, versions, peer = data["environment"]["machine"], data["environment"]["versions"], data["peer"]

    def cell(result: dict[str, Any], key: str, form: str) -> str:
        value = result.get(key, "not installed")
        return value.replace("|", "/") if isinstance(value, str) else format(value, form)

    lines = [
        "# Own curvature or a library's",
        "",
        f"`{data['command']}` on {machine['device']}, one thread, torch {versions['torch']}, transformers "
        f"{versions['transformers']}, Python {versions['python']}, revision {data['environment']['revision']}, "
        f"seed {data['seed']}.",
        "",
        "Largest error of a Hessian-vector product, relative, against the exact Hessian in float64:",
        "",
        "| model | parameters | ours, float64 | ours, float32 | curvlinops, float64 | curvlinops, float32 |",
        "|---|---|---|---|---|---|",
    ]
    keys = ("ours_float64", "ours_float32", "theirs_float64", "theirs_float32")
    for result in data["correctness"]:
        cells = " | ".join(cell(result, key, ".1e") for key in keys)
        lines.append(f"| {result['case']} | {result['parameters']:,} | {cells} |")
    ways = ", ".join(f"{name} {error:.1e}" for name, error in data["layer_norm"].items())
    lines += [
        "",
        f"curvlinops takes torch's `jvp` of `jacrev`. Through one `layer_norm`, relative to double backward, the rows of its "
        f"weight are off by: {ways}.",
        "",
        f"Seconds, the median of {data['repeats']}; float32; a trace is Hutch++ of {data['probes']} products:",
        "",
        "| model | parameters | ours, a product | curvlinops, a product | ours, a trace | curvlinops, a trace |",
        "|---|---|---|---|---|---|",
    ]
    keys = ("ours_product", "theirs_product", "ours_trace", "theirs_trace")
    for result in data["speed"]:
        cells = " | ".join(cell(result, key, ".3f") for key in keys)
        lines.append(f"| {result['case']} | {result['parameters']:,} | {cells} |")
    if peer:
        added = ", ".join(f"{name} {v}" for name, v in sorted(peer["added"].items()))
        lines += [
            "",
            f"It would add {len(peer['added'])} packages to those of hf_radial, {peer['mb']:.0f} MB: {added}. "
            + (f"Exact pins among them: {'; '.join(peer['pins'])}." if peer["pins"] else ""),
        ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    write_study("curvature_choice", RESULTS, __doc__ or "", run_all, markdown)
