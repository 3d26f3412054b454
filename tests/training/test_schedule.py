"""`radial_schedule`: its values, its log and record, and its continuation in a resumed run."""

from __future__ import annotations

import functools
import json
from math import cos, pi

import pytest
import torch
from transformers import HfArgumentParser

from hf_radial import RadialArguments, RadialCallback
from hf_radial.penalty.config import RadialConfig
from runs import DOORS, make_trainer, training_logs

STEPS = 6
COSINE = [0.5 * (1 + cos(pi * step / (STEPS - 1))) for step in range(STEPS)]


def every_other_step(step):
    return 2.0 * (step % 2)


class Falling:
    def __call__(self, step):
        return 1 / (step + 1)


# options besides radial_lambda -> the factor in each step, and the name in run.json
SCHEDULES = {
    "default": ({}, [1] * STEPS, "constant", "paper"),
    "constant": ({"radial_schedule": "constant"}, [1] * STEPS, "constant", "paper"),
    "warm-up": ({"radial_warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1], "constant", "warm-up 4"),
    "cosine": ({"radial_schedule": "cosine"}, COSINE, "cosine", "cosine"),
    "warm-up and cosine": (
        {"radial_schedule": "cosine", "radial_warmup_steps": 2},
        [0.5, *(0.5 * (1 + cos(pi * step / 4)) for step in range(5))],
        "cosine",
        "warm-up 2, cosine",
    ),
    "function": (
        {"radial_schedule": every_other_step},
        [0, 2, 0, 2, 0, 2],
        "test_schedule.every_other_step",
        "schedule test_schedule.every_other_step",
    ),
    "warm-up and object": (
        {"radial_schedule": Falling(), "radial_warmup_steps": 2},
        [0.5, *(1 / (step + 1) for step in range(1, STEPS))],
        "test_schedule.Falling",
        "warm-up 2, schedule test_schedule.Falling",
    ),
}


ACCUMULATED = {"gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run with each schedule through each door, that logs every step and saves step 3; made when first asked for."""

    @functools.cache
    def run(door, case):
        folder = tmp_path_factory.mktemp("whole")
        options = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 2, **ACCUMULATED}
        trainer = make_trainer(door, folder, SCHEDULES[case][0], logging_steps=1, **options)
        trainer.train()
        return folder, trainer

    return run


@pytest.mark.parametrize("case", SCHEDULES)
@pytest.mark.parametrize("door", DOORS)
def test_each_step_has_its_lambda_and_a_log_has_their_mean(door, case, whole_run, tmp_path):
    options, factors, name, variant = SCHEDULES[case]
    in_pairs = make_trainer(door, tmp_path, options, logging_steps=2, **ACCUMULATED)
    in_pairs.train()
    for window, trainer in ((1, whole_run(door, case)[1]), (2, in_pairs)):
        means = [sum(factors[i : i + window]) / window for i in range(0, STEPS, window)]
        assert [logs["radial_lambda"] for logs in training_logs(trainer)] == pytest.approx([0.2 * f for f in means])
    record = json.loads((tmp_path / "run.json").read_text())["radial"]
    assert (record["radial_schedule"], record["variant"]) == (name, variant)


def test_the_logged_loss_has_the_lambda_of_the_step(tmp_path):
    trainer = make_trainer("trainer", tmp_path, {"radial_schedule": every_other_step}, logging_steps=1)
    trainer.train()
    for logs in training_logs(trainer):
        weighted = logs["radial_lambda"] * logs["radial_penalty"]
        assert logs["loss"] == pytest.approx(logs["task_loss"] + weighted, rel=1e-5)


@pytest.mark.parametrize("case", SCHEDULES)
@pytest.mark.parametrize("door", DOORS)
def test_a_resumed_run_goes_on_with_its_schedule(door, case, whole_run, tmp_path):
    folder, whole = whole_run(door, case)
    resumed = make_trainer(door, tmp_path, SCHEDULES[case][0], logging_steps=1, **ACCUMULATED)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    logged = [[logs["radial_lambda"] for logs in training_logs(trainer)] for trainer in (whole, resumed)]
    assert logged[0] == logged[1] and len(logged[0]) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_the_cosine_needs_room_after_the_warm_up():
    """As long as the warm-up lasts there is nothing to fall from; a run of one step has its full lambda."""
    assert RadialConfig(0.4, radial_schedule="cosine").lambda_at(0, 1) == 0.4
    config = RadialConfig(0.4, radial_warmup_steps=4, radial_schedule="cosine")
    assert [config.lambda_at(step, 4) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [config.lambda_at(step, 5) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.0])


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (lambda step: -1.0, ValueError, r"radial_schedule: .*<lambda>\(0\) returned -1.0.*not negative"),
        (lambda step: float("nan"), ValueError, r"radial_schedule: .*returned nan.*finite"),
        (lambda step: float("inf"), ValueError, r"radial_schedule: .*returned inf.*finite"),
        (lambda step: None, TypeError, r"radial_schedule: .*returned None.*must return a number"),
        (lambda step: "1", TypeError, r"radial_schedule: .*returned '1'.*must return a number"),
        ("linear", ValueError, r"radial_schedule='linear' is unknown; choose one of 'constant', 'cosine'"),
        (0.5, TypeError, r"radial_schedule=0.5 must be one of 'constant', 'cosine' or a function"),
    ],
)
@pytest.mark.parametrize("door", DOORS)
def test_a_bad_schedule_is_refused_in_the_first_step(door, schedule, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make_trainer(door, tmp_path, {"radial_schedule": schedule}).train()
    assert not (tmp_path / "checkpoint-1").exists()


def test_without_a_penalty_no_schedule_is_asked(tmp_path):
    options = {"radial_lambda": 0.0, "radial_schedule": lambda step: 1 / 0}
    trainer = make_trainer("trainer", tmp_path, options)
    trainer.train()
    assert {logs["radial_lambda"] for logs in training_logs(trainer)} == {0.0}


def test_the_command_line_has_the_named_schedules(tmp_path, capsys):
    parser = HfArgumentParser(RadialArguments)
    words = ["--output_dir", str(tmp_path), "--radial_lambda", "0.1"]
    (args,) = parser.parse_args_into_dataclasses([*words, "--radial_schedule", "cosine"])
    assert args.radial_config().radial_schedule == "cosine"
    assert parser.parse_args_into_dataclasses(words)[0].radial_config().radial_schedule == "constant"
    with pytest.raises(SystemExit):
        parser.parse_args_into_dataclasses([*words, "--radial_schedule", "linear"])
    assert "--radial_schedule" in capsys.readouterr().err
    with pytest.raises(TypeError, match=r"radial_schedule: arguments are written to files.*RadialTrainer or RadialCallback"):
        RadialArguments(output_dir=str(tmp_path), radial_lambda=0.1, radial_schedule=every_other_step)


def test_what_is_no_function_is_named_by_its_class():
    assert RadialConfig(0.1, radial_schedule=functools.partial(every_other_step)).schedule_name == "functools.partial"
    assert RadialCallback(0.1, radial_schedule=Falling()).config.to_dict()["radial_schedule"] == "test_schedule.Falling"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radial_schedule": "cosine", "radial_warmup_steps": 2}, "growing from 0 over the first 2 steps, falling to 0 at the"),
        ({"radial_schedule": every_other_step}, "`radial_lambda = 0.2`, times `test_schedule.every_other_step(step)`."),
    ],
)
def test_the_card_tells_the_schedule(options, words, tmp_path):
    trainer = make_trainer("trainer", tmp_path, options)
    trainer.train()
    trainer.create_model_card()
    assert words in " ".join((tmp_path / "README.md").read_text().split())
