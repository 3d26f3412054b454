"""Grokfast, the orthogonal and the egalitarian gradient and StableMax against float64 written out; Muon's groups."""

from collections import deque

import pytest
import torch
from intervention_runs import make
from transformers import GPT2Config, GPT2LMHeadModel

from hf_radial.interventions.column_normalization import normalised_units
from hf_radial.interventions.egalitarian_gradient import egalitarian
from hf_radial.interventions.grokfast import filter_ema, filter_ma
from hf_radial.interventions.heads import hidden_layers
from hf_radial.interventions.losses import mean_loss
from hf_radial.interventions.muon import MuonAndAdamW
from hf_radial.interventions.orthogonal_gradient import orthogonal
from hf_radial.interventions.stablemax import StableMax, log_stablemax

pytestmark = pytest.mark.quick


def gradients(count=7):
    torch.manual_seed(0)
    return [torch.randn(3, 4, dtype=torch.float64) for _ in range(count)]


def test_grokfast_adds_the_moving_average():
    average, mean = None, None
    for g in gradients():
        mean = g.clone() if mean is None else 0.9 * mean + 0.1 * g
        filtered = g.clone()
        average = filter_ema(filtered, average, 0.9, 3.0)
        torch.testing.assert_close(filtered, g + 3 * mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("warmup", [True, False])
def test_grokfast_adds_the_mean_of_the_window(warmup):
    window, seen = deque(maxlen=3), []
    for g in gradients():
        seen = [*seen, g][-3:]
        filtered = g.clone()
        filter_ma(filtered, window, 2.0, warmup)
        expected = g + 2 * sum(seen) / len(seen) if not warmup or len(seen) == 3 else g
        torch.testing.assert_close(filtered, expected, rtol=1e-12, atol=1e-12)


def test_the_orthogonal_gradient_is_across_and_as_long():
    g, w = gradients(2)
    found = orthogonal(g, w)
    assert abs(float((found * w).sum())) < 1e-12
    assert float(found.norm()) == pytest.approx(float(g.norm()), rel=1e-12)
    assert float((found * g).sum()) > 0
    assert torch.equal(orthogonal(g, torch.zeros_like(w)), g)
    assert orthogonal(torch.zeros_like(g), w).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_orthogonal_gradient_is_finite_and_across_in_half_precision(dtype):
    torch.manual_seed(0)
    g, w = torch.randn(30, 40).to(dtype), torch.randn(30, 40).to(dtype)
    for weight in (w, torch.zeros_like(w), w * 1e-4):
        for gradient in (g, torch.zeros_like(g), g * 1e-4):
            found = orthogonal(gradient, weight)
            assert found.dtype == dtype and found.isfinite().all()
            if gradient.any() and weight.any():  # against float64; what is left is the rounding of the result
                exact = orthogonal(gradient.double(), weight.double())
                torch.testing.assert_close(found.double(), exact, rtol=2e-2, atol=2e-3 * float(gradient.abs().max()))


def test_a_parameter_of_one_number_keeps_its_gradient():
    """What is left across it is rounding, which scaled up to the gradient's length had a sign that was drawn."""
    for w in (0.0, 0.3, -0.7):
        g = torch.tensor([0.123])
        assert torch.equal(orthogonal(g, torch.tensor([w])), g)


@pytest.mark.parametrize("size", [2, 3, 100, 10_000])
def test_a_gradient_along_its_weight_leaves_nothing_and_no_rounding_that_is_scaled_up(size):
    torch.manual_seed(size)
    for _ in range(50):
        w = torch.randn(size)
        assert not orthogonal(torch.randn(()) * w, w).any()
        slightly = w + 1e-3 * torch.randn(size)  # far above rounding: as long as it was
        assert float(orthogonal(slightly, w).norm()) == pytest.approx(float(slightly.norm()), rel=1e-4)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_the_egalitarian_gradient_is_the_inverse_root_times_the_gradient(shape):
    torch.manual_seed(0)
    g = torch.randn(*shape, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(g @ g.T)
    inverse_root = vectors @ torch.diag(torch.where(values > 1e-10, values.clamp(min=1e-30) ** -0.5, 0.0)) @ vectors.T
    torch.testing.assert_close(egalitarian(g), inverse_root @ g, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.linalg.svdvals(egalitarian(g)), torch.ones(3 + (shape == (4, 4)), dtype=torch.float64))


def test_a_direction_without_a_gradient_gets_none_from_rounding():
    """In float32, the singular values that should be 0 are 1e-7 of the largest, and may lie above an absolute floor."""
    torch.manual_seed(0)
    g = 1e3 * torch.randn(20, 1) @ torch.randn(1, 30)
    s = torch.linalg.svdvals(egalitarian(g))
    assert float(s[0]) == pytest.approx(1, rel=1e-4) and float(s[1]) < 0.2
    small = 1e-3 * torch.eye(3)
    torch.testing.assert_close(egalitarian(small, floor=0.01), 0.1 * torch.eye(3))  # below the floor: by the floor
    assert not egalitarian(torch.zeros(2, 3)).any()
    g = torch.randn(8, 6)
    g[2], g[:, 3] = 0.0, 0.0  # units without a gradient: not even rounding, which Adam would scale up
    assert not egalitarian(g)[2].any() and not egalitarian(g)[:, 3].any()
    broken = torch.tensor([[1.0, float("nan")]])
    assert torch.equal(egalitarian(broken).isnan(), broken.isnan())  # the run is lost, but not by an error of the decomposition


def test_each_unit_gets_a_gradient_of_length_one_or_less():
    torch.manual_seed(0)
    g = torch.randn(3, 4, dtype=torch.float64)
    g[1] *= 1e-4
    for axis, matrix in ((1, g), (0, g.T)):
        found = normalised_units(matrix, axis, 0.01)
        rows = found if axis else found.T
        for row, before in zip(rows, g, strict=True):
            torch.testing.assert_close(row, before / max(float(before.norm()), 0.01), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", ["egalitarian_gradient", "column_normalization"])
def test_only_hidden_matrices_get_another_gradient_and_units_are_found_in_a_transformer(text, tmp_path):
    start, sizes = {"learning_rate": 1.0, "optim": "sgd", "max_grad_norm": 0.0, "max_steps": 1}, {}
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11))
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 16
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = make(tmp_path, [text], model=model, rows=rows, **start)
    trainer.train()
    for name, p in model.named_parameters():
        step = (before[name] - p.detach()).double()
        if step.ndim == 2:
            sizes[name] = torch.linalg.svdvals(step) if text == "egalitarian_gradient" else step.norm(dim=0)
    for name in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj"):
        size = sizes[f"transformer.h.0.{name}.weight"]
        assert float(size.max()) == pytest.approx(1, rel=1e-3), name
    assert abs(float(sizes["transformer.wte.weight"].max()) - 1) > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_moving_average_does_not_stand_still_in_half_precision(dtype):
    """In bfloat16, 1 - alpha = 0.02 of a small difference is below half of the distance to the next number."""
    average, exact = None, None
    for i in range(300):
        g = torch.tensor([1.0 if i == 0 else 1.05]).to(dtype)
        exact = g.double() if exact is None else 0.98 * exact + 0.02 * g.double()
        average = filter_ema(g.clone(), average, 0.98, 2.0)
    torch.testing.assert_close(average.double(), exact, rtol=1e-5, atol=0)
    window = deque(maxlen=100)
    for _ in range(100):
        g = torch.tensor([1.0, 1.0078125]).to(dtype)
        filter_ma(g, window, 1.0, True)
    torch.testing.assert_close(g, torch.tensor([2.0, 2.015625]).to(dtype))


def test_stablemax_is_its_definition_and_has_a_gradient_everywhere():
    x = torch.tensor([[3.0, 0.0, -2.0], [1e6, -1e6, 0.5]], dtype=torch.float64, requires_grad=True)
    s = torch.where(x >= 0, x + 1, 1 / (1 - x))
    torch.testing.assert_close(log_stablemax(x), (s / s.sum(-1, keepdim=True)).log(), rtol=1e-12, atol=1e-12)
    mean_loss(x, torch.tensor([2, 1]), [StableMax()]).backward()
    assert x.grad.isfinite().all()
    torch.autograd.gradcheck(log_stablemax, (torch.randn(3, 5, dtype=torch.float64, requires_grad=True),))


def test_muon_has_the_hidden_matrices_and_adamw_the_rest(tmp_path):
    trainer = make(tmp_path, ["muon"], weight_decay=0.5, lr_scheduler_type="linear")
    trainer.create_optimizer()  # as `train()` does
    muon, adamw = trainer.optimizer.parts
    model = trainer.model
    assert {id(p) for g in muon.param_groups for p in g["params"]} == {id(layer.weight) for layer in model.hidden}
    rest = {id(p) for g in adamw.param_groups for p in g["params"]}
    assert rest == {id(p) for p in model.parameters()} - {id(layer.weight) for layer in model.hidden}
    trainer.train()
    rates = {g["lr"] for part in trainer.optimizer.optimizer.parts for g in part.param_groups}
    assert len(rates) == 1 and next(iter(rates)) < 1e-2  # the schedule is that of both
    assert isinstance(trainer.optimizer.optimizer, MuonAndAdamW)


def test_hidden_layers_of_a_transformer_have_neither_embeddings_nor_the_head():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11))
    assert sorted(hidden_layers(model)) == [
        f"transformer.h.0.{n}" for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]


def test_two_optimizers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="optimizer already"):
        make(tmp_path, ["muon", "optim:optim=adafactor"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:optim=adafactor,args=scale_parameter=True", "does not pass 'scale_parameter' on to optim='adafactor'"),
        ("optim:optim=adamw_torch,args=amsgrad=True", "does not pass 'amsgrad' on"),
        ("optim:optim=sgd,args=momentum=0.9;momentun=0.5", "does not pass 'momentun' on"),
        ("optim:optim=sgd,args=momentum", "'momentum', which is no name=value"),
        ("optim:optim=sgd,args=momentum=high", "args='momentum=high' cannot be used: could not convert"),
    ],
)
def test_an_argument_that_the_optimizer_would_not_get_is_refused(text, message, tmp_path):
    """`Trainer` drops it in silence, and the record would name it."""
    with pytest.raises(ValueError, match=message):
        make(tmp_path, [text])


@pytest.mark.parametrize("args", ["momentum=0.0", "momentum=0.9;nesterov=true", "weight_decay=0.1"])
def test_an_argument_that_the_optimizer_gets_is_taken(args, tmp_path):
    trainer = make(tmp_path, [f"optim:optim=sgd,args={args}"])
    trainer.create_optimizer()
    for pair in args.split(";"):
        name, _, value = pair.partition("=")
        expected = value == "true" if name == "nesterov" else float(value)
        assert trainer.optimizer.defaults[name] == expected
