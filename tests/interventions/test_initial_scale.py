"""The initial scale is applied once, before anything is measured, and not again in a run that goes on."""

import pytest
import torch
from intervention_runs import Ours, make, same, seeded_model, weights

from hf_radial.interventions.weight_norm import total_norm

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_all_weights_are_multiplied_before_the_first_step(factor, tmp_path):
    trainer = make(tmp_path, [f"initial_scale:factor={factor}"], model=seeded_model(), max_steps=1, learning_rate=0.0)
    before = weights(trainer)
    trainer.train()
    assert all(torch.equal(value, factor * before[name]) for name, value in weights(trainer).items())


def test_a_run_that_goes_on_is_not_scaled_again(tmp_path):
    given, options = ["initial_scale:factor=0.5"], {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make(tmp_path, given, model=seeded_model(), **options)
    whole.train()
    resumed = make(tmp_path, given, model=seeded_model(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(weights(resumed), weights(whole))


def test_the_initial_radius_is_that_of_the_scaled_weights(tmp_path):
    targets = []
    for given in ([], ["initial_scale:factor=0.5"]):
        given = [*given, "radial:strength=1,radius=initial"]
        trainer = make(tmp_path, given, Ours, model=seeded_model(), max_steps=1, learning_rate=0.0)
        trainer.train()
        targets.append(trainer.state.log_history[0]["radius_target/hidden.0"])
        assert trainer.state.log_history[0]["radius/hidden.0"] == pytest.approx(targets[-1], rel=0.1)
    assert targets[1] < 0.6 * targets[0]
    assert float(total_norm(list(trainer.model.parameters()))) == pytest.approx(
        0.5 * float(total_norm(list(seeded_model().parameters()))), rel=1e-6
    )
