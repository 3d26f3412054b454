"""Projections, weight norms and replays, against their definitions in float64 by hand."""

import json
from math import sqrt

import pytest
import torch
from intervention_runs import ROWS, make, same, weights

from hf_radial.interventions.projection import project_to_sphere
from hf_radial.interventions.replay import FILE
from hf_radial.interventions.weight_norm import total_norm, trained

ALL = {"per_device_train_batch_size": 49}  # every step sees every row


@pytest.mark.parametrize("dim", [-1, 1])
def test_the_two_projections_differ_in_their_gradient_alone(dim):
    torch.manual_seed(0)
    h, g = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    r = h.norm(dim=1, keepdim=True)
    unit = h / r
    expected = {"tangential": sqrt(8) / r * (g - (g * unit).sum(1, keepdim=True) * unit), "straight_through": g}
    for mode, gradient in expected.items():
        x = h.clone().requires_grad_()
        y = project_to_sphere(x, mode=mode, dim=dim)
        torch.testing.assert_close(y, sqrt(8) * unit)
        y.backward(g)
        torch.testing.assert_close(x.grad, gradient)
    x = h.clone().requires_grad_()
    torch.autograd.gradcheck(lambda x: project_to_sphere(x, 3.0), (x,))


def test_a_zero_vector_has_a_projection_and_a_gradient():
    x = torch.zeros(1, 4, requires_grad=True)
    y = project_to_sphere(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(1, 4))
    assert x.grad.isfinite().all()


def test_a_projected_model_is_on_the_sphere_in_training_and_evaluation(tmp_path):
    trainer = make(tmp_path, ["projection:radius=2"])
    seen = []
    for layer in trainer.model.hidden:
        layer.register_forward_hook(lambda module, args, output: seen.append(output.detach().norm(dim=-1)))
    trainer.train()
    trainer.model.eval()
    trainer.model(**ROWS.first(10).columns)
    assert len(seen) == 14
    for radii in seen:
        torch.testing.assert_close(radii, torch.full_like(radii, 2.0))


@pytest.mark.parametrize("text, factor", [("weight_norm:factor=0.5", 0.5), ("weight_norm:factor=2", 2.0)])
def test_weights_are_as_long_as_asked(text, factor, tmp_path):
    trainer = make(tmp_path, [text])
    before = total_norm(trained(trainer.model))
    trainer.train()
    assert float(total_norm(trained(trainer.model)) / before) == pytest.approx(factor, rel=1e-6)


def test_weights_are_rescaled_before_the_first_step_too(tmp_path):
    """Else the optimizer would begin with a gradient at weights that no later step sees."""
    trainer = make(tmp_path / "ours", ["weight_norm:factor=0.5"], optim="adamw_torch", max_grad_norm=0.0, **ALL)
    model = make(tmp_path / "by hand").model
    start = total_norm(trained(model))
    trainer.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(7):
        with torch.no_grad():
            factor = 0.5 * start / total_norm(trained(model))
            for p in model.parameters():
                p.mul_(factor)
        if step < 6:
            optimizer.zero_grad()
            model(**ROWS.columns).loss.backward()
            optimizer.step()
    for name, value in weights(trainer).items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_clamp_leaves_shorter_weights_alone(tmp_path):
    free = make(tmp_path / "free")
    free.train()
    clamped = make(tmp_path / "clamped", ["weight_norm:factor=5,only_above=true"])
    clamped.train()
    assert same(weights(clamped), weights(free))


def recorded(folder, **options):
    trainer = make(folder, ["record"], **ALL, **options)
    trainer.train()
    return trainer, json.loads((folder / FILE).read_text())


def test_what_is_recorded_is_what_there_was(tmp_path):
    model = make(tmp_path / "first", **ALL).model
    batch = {name: value for name, value in ROWS.columns.items() if name != "labels"}
    seen = {}
    for i, layer in enumerate(model.hidden):
        layer.register_forward_hook(lambda module, args, output, i=i: seen.update({i: output.detach().norm(dim=-1).mean()}))
    logits = model(**batch).logits.detach()
    trainer, rows = recorded(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["logit_scale"] == pytest.approx(float(logits.norm(dim=-1).mean()), rel=1e-5)
    radii = [value for name, value in rows[0].items() if name.startswith("radius/")]
    assert radii == pytest.approx([float(seen[i]) for i in sorted(seen)], rel=1e-5)
    assert rows[-1]["weight_norm"] == pytest.approx(float(total_norm(trained(trainer.model))), rel=1e-12)


@pytest.mark.parametrize("what", ["weight_norm", "logit_scale", "radius"])
def test_a_run_held_to_itself_is_itself(what, tmp_path):
    trainer, _ = recorded(tmp_path / "run")
    again = make(tmp_path / "again", [f"replay:what={what},file={tmp_path}/run/{FILE}"], **ALL)
    again.train()
    for name, value in weights(trainer).items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("what", ["weight_norm", "logit_scale", "radius"])
def test_a_run_is_held_to_the_other(what, tmp_path):
    _, rows = recorded(tmp_path / "run", learning_rate=5e-2)
    text = f"replay:what={what},file={tmp_path}/run/{FILE}"
    trainer = make(tmp_path / "held", [text, "record"], **ALL)
    trainer.train()
    held = json.loads((tmp_path / "held" / FILE).read_text())
    free = recorded(tmp_path / "free")[1]
    names = [name for name in rows[0] if name.startswith(what)]
    assert names
    for name in names:
        expected = [row[name] for row in rows]
        assert [row[name] for row in held] == pytest.approx(expected, rel=1e-4)
        assert [row[name] for row in free] != pytest.approx(expected, rel=1e-2)
