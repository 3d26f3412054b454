"""Metrics of a model's outputs, against transformers' own losses, logits collapsed by hand, and norms written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.loss.loss_utils import ForCausalLMLoss

from hf_radial.geometry import function
from hf_radial.geometry.function import function_readings, scored_rows, weight_norm_readings

pytestmark = pytest.mark.quick

METRICS = ["loss", "logit_scale", "saturated_softmax", "zero_loss", "confidence", "accuracy"]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def read(logits, labels, **options):
    return {r.metric: r.value for r in function_readings(logits, labels, **options)}


def by_hand(rows, labels):
    """Row by row, in float64."""
    values = {metric: [] for metric in ("loss", "logit_scale", "confidence", "accuracy")}
    for row, label in zip(rows.double().tolist(), labels.tolist(), strict=True):
        top = max(row)
        partition = sum(math.exp(x - top) for x in row)
        mean = sum(row) / len(row)
        values["loss"].append(math.log(partition) + top - row[label])
        values["logit_scale"].append(math.sqrt(sum((x - mean) ** 2 for x in row)))
        values["confidence"].append(1 / partition)
        values["accuracy"].append(row.index(top) == label)
    return {metric: sum(numbers) / len(numbers) for metric, numbers in values.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_means_are_the_definitions_row_by_row(dtype):
    logits, labels = (3 * noise(40, 7)).to(dtype), torch.arange(40) % 7
    values = read(logits, labels)
    assert list(values) == METRICS
    for metric, expected in by_hand(logits, labels).items():
        assert values[metric] == pytest.approx(expected, rel=1e-5), metric
    assert values["saturated_softmax"] == values["zero_loss"] == 0


def test_softmax_collapses_where_float32_rounds_to_one():
    """exp(-x) is lost beside 1 in float32 from x = ln(2^24) = 16.6 on; in float64 none of these rows would be."""
    logits = torch.tensor([[17.0, 0.0], [17.0, 0.0], [16.0, 0.0], [0.0, 17.0]], dtype=torch.float64)
    values = read(logits, torch.tensor([0, 1, 0, 1]))
    assert values["saturated_softmax"] == 0.75  # right or wrong
    assert values["zero_loss"] == 0.5  # right alone
    assert values["accuracy"] == 0.75
    assert values["loss"] == pytest.approx(17 / 4, rel=1e-6)
    weights = logits.float().requires_grad_()
    F.cross_entropy(weights, torch.tensor([0, 1, 0, 1]), reduction="none")[0].backward()
    assert (weights.grad[0, 0] == 0).item()  # why it matters: the right answer is not pulled on any more


def test_scaled_logits_keep_accuracy_and_scale_with_the_factor():
    logits, labels = noise(50, 9), torch.arange(50) % 9
    once, tenfold = read(logits + 5, labels), read(logits * 10, labels)
    assert tenfold["logit_scale"] == pytest.approx(10 * once["logit_scale"], rel=1e-5)
    assert tenfold["accuracy"] == once["accuracy"]
    assert tenfold["confidence"] > once["confidence"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shifted_labels_give_the_loss_that_transformers_computes(dtype):
    logits = noise(4, 9, 23).to(dtype)
    labels = torch.randint(23, (4, 9), generator=torch.Generator().manual_seed(1))
    labels[0, 5:] = labels[1, :4] = labels[3] = -100
    expected = float(ForCausalLMLoss(logits, labels, vocab_size=23))
    assert read(logits, labels, shift=True)["loss"] == pytest.approx(expected, abs=1e-6)
    assert abs(read(logits, labels)["loss"] - expected) > 1e-3  # the shift matters here
    counted = {r.samples for r in function_readings(logits, labels, shift=True)}
    assert counted == {int((labels[:, 1:] != -100).sum())}


def test_a_language_model_is_read_as_it_is_trained():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=31, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    ids = torch.randint(31, (3, 12))
    labels = ids.masked_fill(torch.rand(3, 12) < 0.4, -100)
    with torch.no_grad():
        output = model(input_ids=ids, labels=labels)
    assert read(output.logits, labels, shift=True)["loss"] == pytest.approx(float(output.loss), abs=1e-6)


def test_rows_that_do_not_count_change_nothing():
    logits, labels = noise(10, 5), torch.arange(10) % 5
    padded = torch.cat([logits, torch.full((3, 5), float("nan"))])
    assert function_readings(padded, torch.cat([labels, torch.full((3,), -100)])) == function_readings(logits, labels)


def test_readings_do_not_depend_on_how_many_rows_are_looked_at_together(monkeypatch):
    logits, labels = 5 * noise(33, 6), torch.arange(33) % 6
    whole = read(logits, labels)
    monkeypatch.setattr(function, "_CHUNK", 25)
    assert read(logits, labels) == pytest.approx(whole, rel=1e-6)
    monkeypatch.setattr(function, "_CHUNK", 1)
    assert read(logits, labels) == pytest.approx(whole, rel=1e-6)


def test_each_reading_has_its_prefix_and_the_number_of_rows():
    readings = function_readings(noise(10, 5), torch.arange(10) % 5, prefix="held_out_")
    assert [r.metric for r in readings] == [f"held_out_{metric}" for metric in METRICS]
    assert {(r.site, r.samples, r.index) for r in readings} == {("", 10, None)}


def test_what_is_not_finite_is_reported():
    logits = noise(4, 3)
    logits[2, 1] = float("nan")
    values = read(logits, torch.zeros(4, dtype=torch.long))
    assert all(math.isnan(values[metric]) for metric in ("loss", "logit_scale", "confidence"))


@pytest.mark.parametrize(
    ("logits", "labels", "shift", "error", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.long), False, ValueError, "one label a row"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), False, ValueError, "labels has 2, which is none of the 2 classes"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -1]), False, ValueError, "labels has -1"),
        (torch.zeros(3, 2), torch.full((3,), -100), False, ValueError, "no row that counts"),
        (torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long), True, ValueError, "no row that counts"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), True, ValueError, "shift=True needs"),
        (torch.zeros(3, 2), torch.zeros(3), False, TypeError, "labels has dtype"),
        (torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, dtype=torch.long), False, TypeError, "logits has dtype"),
    ],
)
def test_bad_input_is_named(logits, labels, shift, error, message):
    with pytest.raises(error, match=message):
        function_readings(logits, labels, shift=shift)


def test_scored_rows_are_detached_and_of_any_leading_shape():
    logits = noise(2, 3, 4, 5).requires_grad_()
    rows, targets = scored_rows(logits, torch.ones(2, 3, 4, dtype=torch.int32), shift=False)
    assert rows.shape == (24, 5)
    assert not rows.requires_grad
    assert targets.dtype == torch.int64


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.embed = nn.Embedding(5, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight
        self.register_parameter("codes", nn.Parameter(torch.ones(9, dtype=torch.uint8), requires_grad=False))


def test_norms_count_shared_weights_once_in_the_whole_and_in_each_module_that_has_them():
    torch.manual_seed(0)
    model = Tied()
    model.block[0].requires_grad_(False)
    norms = {r.site: r.value for r in weight_norm_readings(model)}
    assert list(norms) == ["", "embed", "block.0", "head"]

    def by_hand(*parameters):
        return math.sqrt(sum(float(p.detach().double().square().sum()) for p in parameters))

    embed, linear, head = model.embed.weight, model.block[0], model.head
    assert norms["embed"] == pytest.approx(by_hand(embed))
    assert norms["block.0"] == pytest.approx(by_hand(linear.weight, linear.bias))
    assert norms["head"] == pytest.approx(by_hand(head.weight, head.bias))
    assert norms[""] == pytest.approx(by_hand(model.scale, embed, linear.weight, linear.bias, head.bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_norms_of_many_numbers_neither_overflow_nor_stop_growing(dtype):
    """In float32 half a million squares, added one after the other, are off by 4e-4 already."""
    model = nn.Linear(1000, 500, bias=False).to(dtype)
    nn.init.constant_(model.weight, 300.0)
    (whole,) = weight_norm_readings(model)
    assert whole.value == pytest.approx(300 * math.sqrt(500_000), rel=1e-6)


def test_a_model_without_weights_has_norm_zero():
    assert [r.value for r in weight_norm_readings(nn.ReLU())] == [0.0]
