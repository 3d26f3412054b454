"""Every number of a measurement, recomputed from the files on disk by its definition.

Nothing here uses the functions that measure: the weights are those of the checkpoint, the rows those of the probe's file, and
what is done with them is written out in NumPy and float64. A metric that is in the table and not here is a failure.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hf_radial import RadialTrainer
from hf_radial.callbacks.geometry import GeometryCallback
from hf_radial.callbacks.probe import PROBE_FILE
from hf_radial.geometry.measure import GROUPS, ModularTable
from hf_radial.geometry.reading import TABLE_FILE, read_table
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from runs import arguments

P, EMBEDDING, WIDTH, LAMBDA, RATE = 11, 6, 16, 0.3, 0.02
FIRST, BEFORE, LAST = 0, 30, 40
SITES = ("hidden.0", "hidden.1")
SHAPES = {
    "embedding.weight": (P, EMBEDDING),
    "hidden.0.weight": (WIDTH, 2 * EMBEDDING),
    "hidden.0.bias": (WIDTH,),
    "hidden.1.weight": (WIDTH, WIDTH),
    "hidden.1.bias": (WIDTH,),
    "classifier.weight": (P, WIDTH),
    "classifier.bias": (P,),
}


# The network and its losses, written out -----------------------------------------------------------------------------


def network(w, pairs):
    """`(h_0, h_1, logits)`, and the inputs of both hidden layers."""
    x_0 = w["embedding.weight"][pairs].reshape(len(pairs), -1)
    h_0 = x_0 @ w["hidden.0.weight"].T + w["hidden.0.bias"]
    x_1 = h_0.clamp(min=0)
    h_1 = x_1 @ w["hidden.1.weight"].T + w["hidden.1.bias"]
    return (h_0, h_1, h_1.clamp(min=0) @ w["classifier.weight"].T + w["classifier.bias"]), (x_0, x_1)


def cross_entropy(logits, labels):
    logits = logits - logits.max(-1, keepdims=True)
    picked = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - picked


def torch_loss(logits, labels):
    return (logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]).mean()


def unpack(flat):
    w, at = {}, 0
    for name, shape in SHAPES.items():
        size = math.prod(shape)
        w[name] = flat[at : at + size].reshape(shape)
        at += size
    return w


def hessian(flat, pairs, labels):
    flat = flat.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch_loss(network(unpack(flat), pairs)[0][-1], labels), flat, create_graph=True)
    return torch.stack(
        [torch.autograd.grad(g, flat, retain_graph=True)[0] for g in gradient]
    ).numpy(), gradient.detach().numpy()


# The metrics, written out --------------------------------------------------------------------------------------------


def debiased_cka(a, b):
    """Song et al. 2012, Eq. 5, by its sums."""

    def hsic(k, m):
        n = len(k)
        k, m = (matrix - np.diag(np.diag(matrix)) for matrix in (k, m))
        sums = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(0))
        return (np.sum(k * m) + sums) / (n * (n - 3))

    a, b = (x - x.mean(0) for x in (a[:128], b[:128]))
    k, m = a @ a.T, b @ b.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def overlap(a, b, k=8):
    u, v = (np.linalg.svd(x[:128] - x[:128].mean(0))[2][:k] for x in (a, b))
    return np.sum((u @ v.T) ** 2) / k


@cache
def waves(k):
    """Orthonormal cosine and sine of frequency `k` over the residues."""
    angle = 2 * np.pi * k * np.arange(P) / P
    return np.sqrt(2 / P) * np.stack([np.cos(angle), np.sin(angle)])


FREQUENCIES = range(1, P // 2 + 1)


def neuron_shares(values):
    """Share of each frequency in each neuron over the table `(P, P, n)`: span of {1, cos, sin} x {1, cos, sin} but 1 x 1."""
    centred = values - values.mean((0, 1))
    power = []
    for k in FREQUENCIES:
        basis = np.concatenate([np.full((1, P), P**-0.5), waves(k)])
        found = np.einsum("ia,jb,abn->ijn", basis, basis, centred)
        power.append((found**2).sum((0, 1)) - found[0, 0] ** 2)
    power, total = np.stack(power), (centred**2).sum((0, 1))
    return power, np.where(total > 1e-9, power / np.where(total > 1e-9, total, 1), 0)


def logit_waves(logits):
    """The part of the logits in cos(w_k (a + b)) and sin(w_k (a + b)), for each k: `{k: (P, P, P)}`, by projection."""
    a = np.arange(P)
    parts = {}
    for k in FREQUENCIES:
        angle = 2 * np.pi * k * (a[:, None] + a) / P
        basis = np.sqrt(2) / P * np.stack([np.cos(angle), np.sin(angle)])
        parts[k] = np.einsum("iab,ic->abc", basis, np.einsum("iab,abc->ic", basis, logits))
    return parts


def fourier(w):
    found = {}
    pairs = np.stack(np.meshgrid(np.arange(P), np.arange(P), indexing="ij"), -1).reshape(-1, 2)
    (h_0, h_1, logits), _ = network({n: torch.from_numpy(v) for n, v in w.items()}, torch.from_numpy(pairs))
    answers = ((np.arange(P)[:, None] + np.arange(P)) % P).astype(int)

    def spectrum(site, shares, power, r2):
        found.update({("fourier_power", site, k): share for k, share in zip(FREQUENCIES, shares, strict=True)})
        found["fourier_r2", site, None], found["fourier_largest", site, None] = r2, math.sqrt(max(power))

    table = w["embedding.weight"] - w["embedding.weight"].mean(0)
    power = np.array([np.sum((waves(k) @ table) ** 2) for k in FREQUENCIES])
    spectrum("embedding", power / power.sum(), power, 1.0)
    for site, h in zip(SITES, (h_0, h_1), strict=True):
        power, shares = neuron_shares(h.numpy().reshape(P, P, -1))
        spectrum(site, shares.mean(1), power.sum(1), np.sort(shares.mean(1))[-5:].sum())
        for neuron in range(WIDTH):
            found["neuron_frequency", site, neuron] = 1 + int(shares[:, neuron].argmax())
            found["neuron_selectivity", site, neuron] = shares[:, neuron].max()
        found["neuron_selectivity_mean", site, None] = shares.max(0).mean()

    logits = logits.numpy().reshape(P, P, P)
    centred = logits - logits.mean(2, keepdims=True)
    parts, total = logit_waves(centred), np.sum((centred - centred.mean((0, 1))) ** 2)
    a = np.arange(P)
    difference = (a[:, None, None] + a[:, None] - a) % P
    power = np.array([np.sum(centred * np.cos(2 * np.pi * k * difference / P)) ** 2 * 2 / P**3 for k in FREQUENCIES])
    key = sorted(FREQUENCIES, key=lambda k: -np.sum(parts[k] ** 2))[:5]
    kept = sum(parts[k] for k in key)
    spectrum("logits", power / total, power, np.sum(kept**2) / total)
    found["restricted_loss", "", None] = cross_entropy(centred.mean((0, 1)) + kept, answers).mean()
    found["excluded_loss", "", None] = cross_entropy(centred - kept, answers)[TRAIN_MASK].mean()
    found["full_loss", "", None] = cross_entropy(logits, answers).mean()
    return found


def function(w, pairs, labels, prefix):
    logits = network({n: torch.from_numpy(v) for n, v in w.items()}, torch.from_numpy(pairs))[0][-1].numpy()
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    centred = logits - logits.mean(1, keepdims=True)
    # Both are questions about float32: a softmax is all of its row where the others are below half of its last bit.
    others = np.sort(shares, 1)[:, :-1].sum(1)
    losses = cross_entropy(logits, labels)
    assert not ((others > 1e-8) & (others < 1e-6)).any(), "a row is too close to call"
    values = {
        "loss": losses.mean(),
        "logit_scale": np.linalg.norm(centred, axis=1).mean(),
        "saturated_softmax": (others < 1e-8).mean(),
        "zero_loss": (losses < 1e-8).mean(),
        "confidence": shares.max(1).mean(),
        "accuracy": (logits.argmax(1) == labels).mean(),
    }
    return {(prefix + name, "", None): value for name, value in values.items()}


def sites_of(w, pairs, labels):
    """By site: its vectors, the task loss's gradient at them, that of the weighted penalty, and its inputs."""
    vectors, inputs = network({n: torch.from_numpy(v) for n, v in w.items()}, torch.from_numpy(pairs))
    found = {}
    for i, site in enumerate(SITES):
        h = vectors[i].detach().requires_grad_()
        tail = {n: torch.from_numpy(v) for n, v in w.items()}
        after = h if i == 1 else h.clamp(min=0) @ tail["hidden.1.weight"].T + tail["hidden.1.bias"]
        penalties = [((v.norm(dim=1) - WIDTH**0.5) ** 2).mean() / WIDTH for v in ((h, after) if i == 0 else (h,))]
        logits = after.clamp(min=0) @ tail["classifier.weight"].T + tail["classifier.bias"]
        (g,) = torch.autograd.grad(torch_loss(logits, torch.from_numpy(labels)), h, retain_graph=True)
        (pull,) = torch.autograd.grad(LAMBDA * sum(penalties), h)
        found[site] = [x.detach().numpy() for x in (h, g, pull, inputs[i])]
    return found


def energy(g, h):
    along = np.sum(g * h, 1) / np.linalg.norm(h, axis=1)
    numerator, denominator = h.shape[1] * np.mean(along**2), np.mean(np.sum(g**2, 1))
    return numerator / denominator, numerator, denominator


def radial(site, now, before):
    h, g, pull, _ = now
    r, r_before = (np.linalg.norm(x, axis=1) for x in (h, before))
    turned = np.arccos(np.clip(np.sum(h * before, 1) / r / r_before, -1, 1))
    values = {f"radius_q{q:02d}": np.percentile(r, q) for q in (5, 25, 50, 75, 95)}
    values |= {"radius_mean": r.mean(), "radius_std": r.std(), "radius_target": WIDTH**0.5, "nonfinite": 0}
    values |= {"radius_minus_target": r.mean() - WIDTH**0.5, "radial_energy_total": energy(g + pull, h)[0]}
    values |= dict(zip(("radial_energy", "radial_energy_numerator", "radial_energy_denominator"), energy(g, h), strict=True))
    values |= {"angular_speed": turned.mean(), "radial_speed": np.abs(r - r_before).mean()}
    return {(name, site, None): value for name, value in values.items()}


def spectrum(site, h):
    sigma = np.linalg.svd(h, compute_uv=False)
    p = sigma / sigma.sum()
    values = {("singular_value", site, i): s for i, s in enumerate(sigma[:8])}
    values["sigma_max", site, None] = sigma[0]
    values["stable_rank", site, None] = np.sum(sigma**2) / sigma[0] ** 2
    values["effective_rank", site, None] = math.exp(-np.sum(p * np.log(p)))
    return values


def proposition(site, now, w):
    h, _, _, x = now
    weight = torch.from_numpy(w[f"{site}.weight"]).requires_grad_()
    out = torch.from_numpy(x) @ weight.T + torch.from_numpy(w[f"{site}.bias"])
    (actual,) = torch.autograd.grad(((out.norm(dim=1) - WIDTH**0.5) ** 2).mean() / WIDTH, weight)
    actual, weight = actual.numpy(), weight.detach().numpy()
    sigma = x.T @ x / len(x)
    predicted = 2 / WIDTH * weight @ sigma
    cosine = lambda a, b: np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    values, u = np.linalg.eigh(sigma)
    values, u = values[::-1][:16], u[:, ::-1][:, :16]
    real = values > 1e-12 * values[0]
    found = {
        ("prop1_cosine", site, None): cosine(actual, predicted),
        ("prop1_weight_decay_cosine", site, None): cosine(actual, weight),
        ("prop1_shrink", site, None): np.mean(1 - WIDTH**0.5 / np.linalg.norm(h, axis=1)),
    }
    for k in range(int(real.sum())):
        found["prop1_eigenvalue", site, k] = values[k]
        pull, expected = actual @ u[:, k], predicted @ u[:, k]
        found["prop1_ratio", site, k] = pull @ expected / (expected @ expected)
    return found


def curvature(w, pairs, labels):
    """Exact values; an estimate is compared within the error that it states."""
    flat = torch.from_numpy(np.concatenate([w[name].ravel() for name in SHAPES]))
    pairs, labels = torch.from_numpy(pairs), torch.from_numpy(labels)
    matrix, gradient = hessian(flat, pairs, labels)
    trace, largest, size = np.trace(matrix), np.linalg.eigvalsh(matrix)[-1], float(flat @ flat)
    moved = flat + 0.05 * torch.from_numpy(gradient) / np.linalg.norm(gradient)
    rise = torch_loss(network(unpack(moved), pairs)[0][-1], labels) - torch_loss(network(unpack(flat), pairs)[0][-1], labels)
    values = {"hessian_trace": trace, "hessian_trace_hutchinson": trace, "lambda_max": largest}
    values |= {"normalized_sharpness": largest * size, "sam_sharpness": float(rise), "two_over_lr": 2 / RATE}
    return {(name, "", None): value for name, value in values.items()}


def weight_norms(w):
    norm = lambda *names: math.sqrt(sum(np.sum(w[name] ** 2) for name in names))  # noqa: E731
    found = {("weight_norm", "", None): norm(*SHAPES), ("weight_norm", "embedding", None): norm("embedding.weight")}
    for module in (*SITES, "classifier"):
        found["weight_norm", module, None] = norm(f"{module}.weight", f"{module}.bias")
    return found


# The run -------------------------------------------------------------------------------------------------------------

PAIRS = torch.cartesian_prod(torch.arange(P), torch.arange(P))
ORDER = torch.randperm(P * P, generator=torch.Generator().manual_seed(4))
TRAIN, HELD_OUT = ORDER[:80], ORDER[80:]
TRAIN_MASK = np.zeros(P * P, bool)
TRAIN_MASK[TRAIN.numpy()] = True
TRAIN_MASK = TRAIN_MASK.reshape(P, P)


def rows(of):
    return [{"input_ids": PAIRS[i], "labels": PAIRS[i].sum() % P} for i in of]


def test_every_number_is_the_one_that_its_definition_gives(tmp_path):
    torch.manual_seed(0)
    config = ModularMLPConfig(modulus=P, embedding_size=EMBEDDING, hidden_size=WIDTH)
    table = ModularTable(P, train=torch.from_numpy(TRAIN_MASK))
    options = {"max_steps": LAST, "save_strategy": "steps", "save_steps": 10, "per_device_train_batch_size": 32}
    trainer = RadialTrainer(
        model=ModularMLPForSequenceClassification(config),
        args=arguments(tmp_path, **options, learning_rate=RATE, lr_scheduler_type="constant"),
        radial_lambda=LAMBDA,
        train_dataset=rows(TRAIN),
        eval_dataset=rows(HELD_OUT),
        callbacks=[GeometryCallback(every=BEFORE, metrics=GROUPS, rows=64, modular=table, budget=None)],
    )
    first = {name: p.detach().double().numpy().copy() for name, p in trainer.model.named_parameters()}
    trainer.train()

    def weights(step):
        return {n: v.astype(float) for n, v in load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors").items()}

    probe = load_file(tmp_path / PROBE_FILE)
    pairs, labels = probe["train.input_ids"], probe["train.labels"]
    assert len(pairs) == 64 and (pairs.sum(1) % P == labels).all()
    w, before = weights(LAST), weights(BEFORE)
    assert {name: value.shape for name, value in w.items()} == SHAPES
    now = sites_of(w, pairs, labels)
    expected = {**function(w, pairs, labels, ""), **weight_norms(w), **curvature(w, pairs, labels), **fourier(w)}
    expected |= function(w, probe["held_out.input_ids"], probe["held_out.labels"], "held_out_")
    for site in SITES:
        h, h_before, h_first = now[site][0], *(sites_of(x, pairs, labels)[site][0] for x in (before, first))
        expected |= {**radial(site, now[site], h_before), **spectrum(site, h), **proposition(site, now[site], w)}
        for since, then in (("first", h_first), ("previous", h_before), ("last", h)):
            expected["cka_" + since, site, None] = debiased_cka(h, then)
            expected["overlap_" + since, site, None] = overlap(h, then)

    columns = read_table(tmp_path / TABLE_FILE).columns
    names = ("step", "metric", "site", "index", "value", "standard_error")
    found = {
        (metric, site, index): (value, error)
        for step, metric, site, index, value, error in zip(*(columns[name] for name in names), strict=True)
        if step == LAST and not metric.startswith("seconds")
    }
    assert found.keys() == expected.keys()
    for key, (value, error) in found.items():
        if error is None:
            assert value == pytest.approx(expected[key], rel=2e-5, abs=2e-6), key
        else:  # an estimate; of an eigenvalue the residual bounds the error
            assert abs(value - expected[key]) <= 3 * error + 1e-4 * abs(expected[key]), (key, value, expected[key], error)
            assert error < 0.35 * abs(expected[key]), key
