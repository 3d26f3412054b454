"""Fourier structure: planted frequencies, a network that solves the task by construction, and the DFT written out as a sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_radial.geometry.fourier import fourier_readings, neuron_power, wave_power

pytestmark = pytest.mark.quick

WHOLE = ("restricted_loss", "excluded_loss", "full_loss")


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def answers_of(p, sign=1):
    residue = torch.arange(p)
    return (residue[:, None] + sign * residue) % p


def wave(p, k, *coefficients, phase=0.0):
    """cos(w_k (c0 a + c1 b + ...) + phase) over the grid of residues."""
    axes = torch.meshgrid(*[torch.arange(p, dtype=torch.float64)] * len(coefficients), indexing="ij")
    return torch.cos(2 * math.pi * k / p * sum(c * axis for c, axis in zip(coefficients, axes, strict=True)) + phase)


def read(logits, sign=1, **options):
    """Value by (site, metric), or by (site, metric, index)."""
    readings = fourier_readings(logits, answers_of(len(logits), sign), **options)
    names = [(r.site, r.metric) if r.index is None else (r.site, r.metric, r.index) for r in readings]
    assert len(set(names)) == len(names)
    return dict(zip(names, (r.value for r in readings), strict=True))


def coefficient(table, *frequencies):
    """The DFT of a table of any number of residues by its definition, over the square root of its size."""
    p, total = len(table), 0j
    for place in np.ndindex(table.shape):
        angle = 2 * math.pi / p * sum(k * x for k, x in zip(frequencies, place, strict=True))
        total += float(table[place]) * complex(math.cos(angle), -math.sin(angle))
    return total / p ** (table.ndim / 2)


def power_by_hand(table, components):
    """Power in the components and their conjugates, each once."""
    p = len(table)
    distinct = {tuple(s * k % p for k in component) for component in components for s in (1, -1)}
    return sum(abs(coefficient(table, *component)) ** 2 for component in distinct)


@pytest.mark.parametrize("p", [2, 3, 7, 8])
def test_powers_of_waves_are_the_definitions_and_add_up_to_the_variance(p):
    signal = noise(p, 3) + 5
    expected = [[power_by_hand(signal[:, c], [(k,)]) for c in range(3)] for k in range(1, p // 2 + 1)]
    torch.testing.assert_close(wave_power(signal), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(wave_power(signal).sum(0), signal.var(0, correction=0) * p)


@pytest.mark.parametrize("p", [2, 3, 7, 8])
def test_powers_of_neurons_are_the_definitions(p):
    values = noise(p, p, 2) + 3
    power, total = neuron_power(values)
    expected = [
        [power_by_hand(values[:, :, n], [(k, 0), (0, k), (k, k), (k, -k)]) for n in range(2)] for k in range(1, p // 2 + 1)
    ]
    torch.testing.assert_close(power, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(total, values.flatten(0, 1).var(0, correction=0) * p * p)
    # With p = 2 and 3 no other component exists.
    assert (power.sum(0) <= total * (1 + 1e-12)).all()
    if p <= 3:
        torch.testing.assert_close(power.sum(0), total)


@pytest.mark.parametrize("p", [5, 6])
@pytest.mark.parametrize("operation", ["add", "sub"])
def test_logits_are_as_least_squares_on_the_basis_written_out(p, operation):
    sign = 1 if operation == "add" else -1
    logits = noise(p, p, p) + 2 * wave(p, 2, 1, sign, -1) + 3
    values = read(logits, sign, operation=operation, best=1)
    centred = logits - logits.mean(2, keepdim=True)
    about = centred - centred.mean((0, 1))

    def projected(target, columns):
        basis = torch.stack(columns, dim=1)
        return basis @ torch.linalg.lstsq(basis, target, driver="gelsd").solution

    by_frequency, components = [], []
    for k in range(1, p // 2 + 1):
        direction = wave(p, k, 1, sign, -1).reshape(-1)
        share = projected(about.reshape(-1, 1), [direction]).square().sum() / about.square().sum()
        assert values["logits", "fourier_power", k] == pytest.approx(float(share))
        waves = [wave(p, k, 1, sign).reshape(-1), wave(p, k, 1, sign, phase=math.pi / 2).reshape(-1)]
        components.append(projected(about.reshape(-1, p), waves).reshape(p, p, p))
        by_frequency.append(float(components[-1].square().sum()))
    key = int(np.argmax(by_frequency))
    assert values["logits", "fourier_r2"] == pytest.approx(by_frequency[key] / float(about.square().sum()))
    labels = answers_of(p, sign).reshape(-1)
    restricted = (centred.mean((0, 1)) + components[key]).reshape(-1, p)
    assert values["", "restricted_loss"] == pytest.approx(float(F.cross_entropy(restricted, labels)))
    excluded = (logits - components[key]).reshape(-1, p)
    assert values["", "excluded_loss"] == pytest.approx(float(F.cross_entropy(excluded, labels)))
    assert values["", "full_loss"] == pytest.approx(float(F.cross_entropy(logits.reshape(-1, p), labels)))


@pytest.mark.parametrize("p", [11, 12])
def test_planted_frequencies_are_found(p):
    phases = noise(6, seed=3)
    embedding = torch.stack([wave(p, k, 1, phase=float(f)) for k, f in zip([2, 2, 5, 5, 5, 5], phases, strict=True)], dim=1) + 4
    neurons = [
        wave(p, 1, 1, 1),
        wave(p, 3, 1, 0) * wave(p, 3, 0, 1, phase=0.4),
        wave(p, p // 2, 1, -1) + 0.3 * wave(p, 1, 0, 1),
    ]
    values = read(noise(p, p, p), embedding=embedding, sites={"hidden.0": torch.stack(neurons, dim=2) - 7}, best=2)
    powers = {k: values["embedding", "fourier_power", k] for k in range(1, p // 2 + 1)}
    assert powers[2] == pytest.approx(1 / 3)
    assert powers[5] == pytest.approx(2 / 3)
    assert values["embedding", "fourier_r2"] == pytest.approx(1)
    assert values["embedding", "fourier_largest"] == pytest.approx(math.sqrt(p / 2 * 4))
    assert [values["hidden.0", "neuron_frequency", n] for n in range(3)] == [1, 3, p // 2]
    assert values["hidden.0", "neuron_selectivity", 0] == pytest.approx(1)
    assert values["hidden.0", "neuron_selectivity", 1] == pytest.approx(1)
    assert 0.8 < values["hidden.0", "neuron_selectivity", 2] < 1
    means = [values["hidden.0", "fourier_power", k] for k in range(1, p // 2 + 1)]
    assert sum(means) == pytest.approx(1)  # of these neurons; a square of a cosine would not be in it
    assert values["hidden.0", "fourier_r2"] == pytest.approx(sum(sorted(means)[-2:]))
    assert values["hidden.0", "neuron_selectivity_mean"] == pytest.approx(
        sum(values["hidden.0", "neuron_selectivity", n] for n in range(3)) / 3
    )


def test_waves_of_no_single_frequency_count_for_none():
    power, total = neuron_power(wave(11, 1, 1, 2)[:, :, None])
    assert power.sum() < 1e-20 * total.sum()


@pytest.mark.parametrize("operation", ["add", "sub"])
def test_a_network_that_adds_by_waves_is_all_structure(operation):
    p, sign = 13, 1 if operation == "add" else -1
    logits = sum(a * wave(p, k, 1, sign, -1) for k, a in {1: 8.0, 4: 4.0, 6: 2.0}.items())
    shifted = logits + noise(p, p, 1)  # softmax does not see what a row's logits have in common
    values = read(shifted, sign, operation=operation, best=3)
    assert values["logits", "fourier_r2"] == pytest.approx(1)
    assert [values["logits", "fourier_power", k] for k in (1, 2, 4, 6)] == pytest.approx([64 / 84, 0, 16 / 84, 4 / 84])
    assert values["logits", "fourier_largest"] == pytest.approx(8 * math.sqrt(p**3 / 2))
    assert values["", "restricted_loss"] == pytest.approx(values["", "full_loss"])
    assert values["", "full_loss"] < 0.01
    assert values["", "excluded_loss"] == pytest.approx(math.log(p))
    fewer = read(shifted, sign, operation=operation, best=2)
    assert fewer["logits", "fourier_r2"] == pytest.approx(80 / 84)
    assert fewer["", "restricted_loss"] > values["", "restricted_loss"]
    assert fewer["", "excluded_loss"] < values["", "excluded_loss"]


def test_the_other_operation_sees_nothing_of_it():
    p = 13
    adds = wave(p, 4, 1, 1, -1)
    values = read(adds, -1, operation="sub")
    assert values["logits", "fourier_r2"] < 1e-20


def test_random_outputs_have_no_coherence():
    """Shares are about the dimensions they may fill: of p^2 - 1, ten for the logits, 40 for a site."""
    p = 31
    values = read(noise(p, p, p), embedding=noise(p, 64), sites={"h": noise(p, p, 50)}, best=5)
    assert values["logits", "fourier_r2"] < 0.015
    assert max(values["logits", "fourier_power", k] for k in range(1, 16)) < 0.001
    assert values["embedding", "fourier_r2"] < 0.45
    assert values["h", "fourier_r2"] < 0.06
    assert values["h", "neuron_selectivity_mean"] < 0.03
    assert values["", "restricted_loss"] == pytest.approx(math.log(p), abs=0.1)
    assert values["", "excluded_loss"] == pytest.approx(values["", "full_loss"], abs=0.05)


def test_a_memorised_table_keeps_its_loss_where_the_frequencies_are_excluded():
    """Logits that are high at the training rows' answers alone: what restricted and excluded loss were made to tell apart."""
    p = 31
    train = torch.rand(p, p, generator=torch.Generator().manual_seed(0)) < 0.3
    memory = 20.0 * F.one_hot(answers_of(p), p) * train[:, :, None]
    values = read(memory, train=train)
    assert values["", "excluded_loss"] < 0.01
    assert values["", "restricted_loss"] > 1.5
    everywhere = read(memory)
    assert everywhere["", "excluded_loss"] > 2  # rows outside of the mask count again
    assert everywhere["", "restricted_loss"] == values["", "restricted_loss"]


def test_products_of_residues_are_sums_in_the_order_of_logarithms():
    p, generator = 11, 2
    order = torch.tensor([pow(generator, e, p) for e in range(p - 1)])
    logits = torch.zeros(p, p, p, dtype=torch.float64)
    log = {int(x): e for e, x in enumerate(order)}
    for a in range(1, p):
        for b in range(1, p):
            for c in range(1, p):
                logits[a, b, c] = math.cos(2 * math.pi * 3 / (p - 1) * (log[a] + log[b] - log[c]))
    values = read(logits[order][:, order][:, :, order], best=1)
    assert values["logits", "fourier_r2"] == pytest.approx(1)
    assert values["logits", "fourier_power", 3] == pytest.approx(1)


@pytest.mark.parametrize("p", [9, 10])
def test_shares_ignore_scale_and_offset_and_follow_a_permutation_of_neurons(p):
    logits, embedding, site, order = noise(p, p, p), noise(p, 5), noise(p, p, 6), torch.tensor([3, 1, 5, 0, 2, 4])
    before = read(logits, embedding=embedding, sites={"h": site}, best=2)
    after = read(logits * 3 + 1, embedding=embedding * 5 - 2, sites={"h": site[:, :, order] * 100 + 9}, best=2)
    for name, value in before.items():
        if name[1] == "fourier_largest":
            value *= {"logits": 3, "embedding": 5, "h": 100}[name[0]]
        if name[1] in ("neuron_frequency", "neuron_selectivity"):
            name = (*name[:2], order.tolist().index(name[2]))
        if name[1] not in WHOLE:
            assert after[name] == pytest.approx(value), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dead_neurons_have_no_frequency_and_are_in_no_mean(dtype):
    """0.1 is no binary fraction: its sums over the table round, and must not be read as waves."""
    p = 11
    alive = wave(p, 2, 1, 1)
    wobbling = torch.full((p, p), 0.1, dtype=dtype)
    wobbling[3, 4] = torch.nextafter(wobbling[3, 4], torch.tensor(1.0, dtype=dtype))
    site = torch.stack([torch.zeros(p, p, dtype=dtype), alive.to(dtype), torch.full((p, p), 0.1, dtype=dtype), wobbling], dim=2)
    values = read(noise(p, p, p), sites={"h": site}, embedding=torch.full((p, 3), 0.1, dtype=dtype))
    assert [values["h", "neuron_frequency", n] for n in range(4)] == [0, 2, 0, 0]
    assert [values["h", "neuron_selectivity", n] for n in range(4)] == pytest.approx([0, 1, 0, 0], abs=1e-4)
    assert values["h", "neuron_selectivity_mean"] == pytest.approx(1, abs=1e-4)
    assert values["h", "fourier_power", 2] == pytest.approx(1, abs=1e-4)
    assert values["embedding", "fourier_r2"] == 0
    all_dead = read(torch.full((p, p, p), 0.1, dtype=dtype), sites={"h": site[:, :, [0, 2]]})
    assert all_dead["h", "neuron_selectivity_mean"] == all_dead["h", "fourier_r2"] == all_dead["h", "fourier_largest"] == 0
    assert all_dead["logits", "fourier_r2"] == 0
    assert all_dead["logits", "fourier_largest"] < 1e-12
    assert all(all_dead["", metric] == pytest.approx(math.log(p)) for metric in WHOLE)


def test_the_mean_over_neurons_says_how_many_live():
    site = torch.cat([torch.zeros(5, 5, 2), noise(5, 5, 3, dtype=torch.float32)], dim=2)
    readings = fourier_readings(noise(5, 5, 5), answers_of(5), sites={"h": site})
    assert {r.samples for r in readings if r.metric == "neuron_selectivity_mean"} == {3}


def test_what_is_not_finite_is_reported_and_breaks_nothing():
    p = 7
    site = noise(p, p, 3)
    site[2, 3, 1] = float("nan")
    logits = noise(p, p, p)
    logits[1, 1, 1] = float("inf")
    values = read(logits, sites={"h": site})
    assert math.isnan(values["h", "neuron_selectivity_mean"])
    assert math.isnan(values["h", "neuron_selectivity", 1])
    assert values["h", "neuron_frequency", 1] == 0
    assert values["h", "neuron_selectivity", 0] > 0
    assert math.isnan(values["logits", "fourier_r2"])
    assert not math.isfinite(values["", "full_loss"])


def test_low_precision_input_is_computed_in_float64():
    """An offset of 1000 leaves float32 four digits of a variance computed in it."""
    p = 17
    site = (1000 + noise(p, p, 4, dtype=torch.float64)).float()
    power, total = neuron_power(site)
    exact, exact_total = neuron_power(site.double())
    torch.testing.assert_close(power, exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(total, exact_total, rtol=1e-12, atol=0)


def test_arrays_are_as_good_as_tensors_and_nothing_is_changed():
    p = 7
    logits, site, train = noise(p, p, p), noise(p, p, 2), torch.rand(p, p) < 0.5
    copies = logits.clone(), site.clone()
    given = {"embedding": noise(p, 3, dtype=torch.float32).requires_grad_(), "sites": {"h": site}, "train": train}
    arrays = {"embedding": given["embedding"].detach().numpy(), "sites": {"h": site.numpy()}, "train": train.numpy()}
    tensors = fourier_readings(logits, answers_of(p), **given)
    assert fourier_readings(logits.numpy(), answers_of(p).numpy(), **arrays) == tensors
    assert torch.equal(logits, copies[0])
    assert torch.equal(site, copies[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operation": "mul"}, "order of the logarithms"),
        ({"operation": "sub"}, r"\(a - b\) mod 7"),
        ({"answers": answers_of(7).T + 1}, "answers must be"),
        ({"answers": answers_of(6)}, "answers must be"),
        ({"logits": torch.zeros(7, 7, 8)}, "select those of the residues"),
        ({"embedding": torch.zeros(8, 2)}, "one row a residue"),
        ({"sites": {"h": torch.zeros(49, 5)}}, r"sites\['h'\] has shape"),
        ({"sites": {"logits": torch.zeros(7, 7, 5)}}, "must not name a module"),
        ({"train": torch.zeros(7, 7)}, "training row"),
        ({"train": torch.ones(49)}, "training row"),
        ({"best": 0}, "best=0"),
    ],
)
def test_bad_input_is_named(changes, message):
    given = {"logits": noise(7, 7, 7), "answers": answers_of(7), **changes}
    with pytest.raises(ValueError, match=message):
        fourier_readings(given.pop("logits"), given.pop("answers"), **given)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="embedding has dtype"):
        fourier_readings(noise(7, 7, 7), answers_of(7), embedding=torch.zeros(7, 2, dtype=torch.long))
