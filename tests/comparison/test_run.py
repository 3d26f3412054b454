"""Runs that share their steps have the same results as single runs, for any drawn options; denormal numbers become zero."""

from __future__ import annotations

import json

import pytest
import torch

from hf_radial.comparison.outcome import RESULT_FILE
from hf_radial.comparison.run import make_run, make_runs, prepare_process
from hf_radial.comparison.run_options import Run, read_run

BASE = {
    "task": "modular",
    "fields": {"operation": "add", "p": 13},
    "train_fraction": 0.6,
    "split_by_seed": True,
    "width": 32,
    "embedding_size": 16,
    "batch_size": 20,
    "epochs": 12,
    "evaluate_every": 2,
    "solved_at": 0.4,
}
DRAWN = [
    {"seed": 1, "learning_rate": 0.01, "weight_decay": 0.1, "warmup_steps": 0, "adam_beta2": 0.98, "max_grad_norm": 1.0},
    {"seed": 2, "learning_rate": 0.02, "weight_decay": 1.0, "warmup_steps": 10, "adam_beta2": 0.999},
    {"seed": 3, "learning_rate": 0.005, "weight_decay": 0.5, "warmup_steps": 30},
]


@pytest.mark.parametrize(
    "methods", [[], ["radial:strength=0.5,radius=initial"], ["layer_norm"], ["layer_norm:layers=last"]], ids=str
)
def test_runs_with_rows_and_numbers_of_their_own_are_those_made_alone(tmp_path, methods):
    options = [{**BASE, **drawn, "interventions": methods} for drawn in DRAWN]
    alone = [make_run(tmp_path / "alone" / str(i), dict(one)) for i, one in enumerate(options)]
    shared = [(tmp_path / "shared" / str(i), one) for i, one in enumerate(options)]
    for folder, _ in shared:
        folder.mkdir(parents=True)
    make_runs(shared)
    for (folder, _), expected in zip(shared, alone, strict=True):
        found = json.loads((folder / RESULT_FILE).read_text())
        assert (found["status"], found["fit"], found["onset"], found["last"]) == (
            expected["status"],
            expected["fit"],
            expected["onset"],
            expected["last"],
        )
        assert found["together"] == 3 and [value for _, value in found["curve"]] == pytest.approx(
            [v for _, v in expected["curve"]], abs=0.04
        )
        assert found["test"] == pytest.approx(expected["test"], abs=0.05)
    splits = {json.dumps(one["curve"]) for one in alone}
    assert len(splits) == 3  # they do differ


def test_denormals_are_flushed_if_asked_for_and_else_kept():
    tiny = torch.tensor(1e-30)
    try:
        prepare_process(True)
        assert (tiny * 1e-10).item() == 0
        prepare_process(False)
        assert (tiny * 1e-10).item() > 0
    finally:
        torch.set_flush_denormal(False)


def test_a_run_may_not_have_options_that_mean_nothing():
    assert read_run({"flush_denormals": False}) == Run(flush_denormals=False)
    with pytest.raises(ValueError, match="unknown option 'lr'"):
        read_run({"lr": 1})
