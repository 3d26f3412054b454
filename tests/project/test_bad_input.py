"""Bad input is refused before the first step, with a message that names the argument and says what to do."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from reference import tiny_gpt2, token_rows
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_radial import (
    GeometryCallback,
    GrokkingCallback,
    RadialArguments,
    RadialCallback,
    RadialPenalty,
    RadialTrainer,
    find_sites,
)
from hf_radial.runs.onset import onset_step, summarise
from hf_radial.runs.resume import last_complete_checkpoint
from hf_radial.runs.start import choose_run_folder
from hf_radial.tasks.digits import DigitsConfig
from hf_radial.tasks.load import load_task

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]


def recipe():
    """recipes/addition.py as a module; recipes are scripts, not a package."""
    spec = importlib.util.spec_from_file_location("addition_recipe", ROOT / "recipes" / "addition.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class CountSteps(TrainerCallback):
    steps = 0

    def on_step_end(self, *args, **kwargs):
        CountSteps.steps += 1


def train(folder, model=None, arguments=None, **options):
    args = TrainingArguments(
        output_dir=str(folder), max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True, **(arguments or {})
    )
    rows = token_rows(8, False)
    trainer = RadialTrainer(model=model or tiny_gpt2(), args=args, train_dataset=rows, callbacks=[CountSteps()], **options)
    trainer.train()


class WholeNumbers(nn.Module):
    """Sits in a block and returns whole numbers."""

    def forward(self, x):
        return x.long()


def gpt2_with_whole_numbers():
    model = tiny_gpt2()
    model.transformer.h[0].counts = WholeNumbers()

    def count(block, args):
        block.counts(args[0])

    model.transformer.h[0].register_forward_pre_hook(count)
    return model


def reentrant_by_hand():
    model = tiny_gpt2()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    return model


BAD_TRAINING = {
    "negative lambda": ({"radial_lambda": -0.1}, ValueError, "radial_lambda=-0.1"),
    "nan lambda": ({"radial_lambda": float("nan")}, ValueError, "radial_lambda=nan"),
    "infinite lambda": ({"radial_lambda": float("inf")}, ValueError, "radial_lambda=inf"),
    "lambda as text": ({"radial_lambda": "0.1"}, TypeError, "radial_lambda='0.1'"),
    "no lambda": ({}, ValueError, "radial_lambda is missing"),
    "negative radius": ({"radial_lambda": 0.1, "radial_radius": -1.0}, ValueError, "radius=-1.0"),
    "a negative multiple": (
        {"radial_lambda": 0.1, "radial_radius": "-1*initial"},
        ValueError,
        "'-1\\*initial' must be a finite",
    ),
    "a multiple of nothing": ({"radial_lambda": 0.1, "radial_radius": "2*start"}, ValueError, "as in '2\\*initial'"),
    "unknown radius": ({"radial_lambda": 0.1, "radial_radius": "sqrt"}, ValueError, "radius='sqrt'.*'sqrt_d', 'initial'"),
    "unknown side": ({"radial_lambda": 0.1, "radial_side": "inside"}, ValueError, "radial_side='inside'.*both, above"),
    "radius of another kind": ({"radial_lambda": 0.1, "radial_radius": [1]}, TypeError, r"radius=\[1\]"),
    "warm-up as text": ({"radial_lambda": 0.1, "radial_warmup_steps": "10"}, TypeError, "radial_warmup_steps='10'"),
    "negative warm-up": ({"radial_lambda": 0.1, "radial_warmup_steps": -1}, ValueError, "radial_warmup_steps=-1"),
    "pattern without a match": (
        {"radial_lambda": 0.1, "radial_sites": ["*.o_proj"]},
        ValueError,
        r"sites.*'\*\.o_proj'.*c_attn",
    ),
    "patterns as one text": (
        {"radial_lambda": 0.1, "radial_sites": "*.c_proj"},
        TypeError,
        r"sites='\*\.c_proj' must be a list",
    ),
    "no pattern": ({"radial_lambda": 0.1, "radial_sites": []}, ValueError, r"sites=\[\]"),
    "no site": ({"radial_lambda": 0.1, "model": nn.Linear(3, 3)}, ValueError, r"no site found.*sites=\["),
    "reentrant checkpointing": (
        {
            "radial_lambda": 0.1,
            "arguments": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        },
        ValueError,
        "use_reentrant",
    ),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_training_is_refused(case, tmp_path):
    options, error, message = BAD_TRAINING[case]
    CountSteps.steps = 0
    with pytest.raises(error, match=message):
        train(tmp_path, **options)
    assert CountSteps.steps == 0


def test_a_site_whose_output_is_not_floating_point(tmp_path):
    CountSteps.steps = 0
    with pytest.raises(TypeError, match=r"transformer\.h\.0\.counts.*torch\.int64.*floating point"):
        train(tmp_path, model=gpt2_with_whole_numbers(), radial_lambda=0.1, radial_sites=["*.counts"])
    assert CountSteps.steps == 0


def test_a_model_set_to_reentrant_checkpointing_by_hand(tmp_path):
    CountSteps.steps = 0
    with pytest.raises(ValueError, match="use_reentrant"):
        train(tmp_path, model=reentrant_by_hand(), radial_lambda=0.1)
    with pytest.raises(ValueError, match="use_reentrant"):
        RadialPenalty(reentrant_by_hand(), 0.1).attach()
    assert CountSteps.steps == 0


def test_two_doors_at_once(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True)
    trainer = RadialTrainer(
        model=tiny_gpt2(), args=args, radial_lambda=0.1, train_dataset=token_rows(8, False), callbacks=[RadialCallback(0.1)]
    )
    with pytest.raises(ValueError, match="not both"):
        trainer.train()


def test_two_callbacks_are_named_as_such(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True)
    callbacks = [RadialCallback(0.1), RadialCallback(0.2)]
    trainer = Trainer(model=tiny_gpt2(), args=args, train_dataset=token_rows(8, False), callbacks=callbacks)
    with pytest.raises(ValueError, match=r"^Trainer has two RadialCallbacks"):
        trainer.train()
    assert type(trainer) is Trainer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: RadialCallback(-1.0), "radial_lambda=-1.0"),
        (lambda path: RadialArguments(output_dir=str(path), radial_lambda=-1.0), "radial_lambda=-1.0"),
        (lambda path: RadialPenalty(tiny_gpt2(), 0.1, side="inside"), "side='inside'"),
        (lambda path: DigitsConfig(digits=0), "digits"),
        (lambda path: DigitsConfig(digits=21), "digits"),
        (lambda path: DigitsConfig(digits=1, train_size=101, validation_size=0, test_size=1), "only 100"),
        (lambda path: recipe().main(["--preset", "addition_gpu"]), "preset='addition_gpu' is unknown.*addition_cpu"),
        (lambda path: recipe().main([str(path / "none.yaml")]), "does not exist"),
        (lambda path: recipe().main(["--arms", "both"]), "arms="),
        (lambda path: recipe().main(["--digits", "21", "--output_dir", str(path)]), "digits"),
        (lambda path: recipe().main(["--resume_from_checkpoint", "true"]), "resume_from_checkpoint needs --output_dir"),
        (lambda path: recipe().main(["--resume_from_checkpoint", "a/checkpoint-5"]), "must be true or false"),
        (lambda path: recipe().main(["--validation_size", "0"]), "validation_size=0"),
        (lambda path: recipe().main(["--window", "64", "--max_steps", "-1"]), "max_steps=-1"),
        (
            lambda path: recipe().main([str(ROOT / "recipes/configs/addition_cpu.yaml"), "--preset", "addition_nanogpt"]),
            "not both",
        ),
    ],
)
def test_options_are_refused(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


def test_a_misspelt_option_in_a_yaml_file_is_named_with_its_neighbour(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train_sise: 10\n")
    with pytest.raises(ValueError, match="'train_sise'; did you mean 'train_size'"):
        recipe().main([str(file)])


def test_an_output_directory_that_holds_another_run(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"output_dir=.*holds another run.*--resume_from_checkpoint"):
        choose_run_folder(str(tmp_path), False, "runs/x")
    assert choose_run_folder(str(tmp_path), True, "runs/x") == tmp_path


def test_several_gpus_in_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match=r"DataParallel.*accelerate launch"):
        RadialTrainer(
            model=tiny_gpt2(),
            args=TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True),
            radial_lambda=0.1,
            train_dataset=token_rows(8, False),
        )


def test_a_checkpoint_that_was_cut_while_it_was_saved_is_not_resumed_from(tmp_path):
    for step, content in ((2, '{"log_history": []}'), (4, ""), (10, '{"log_his')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(content)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


@pytest.mark.parametrize("sites", [["!*"], ["*.o_proj"], ["re:("]])
def test_a_trainer_names_its_own_argument(sites, tmp_path):
    with pytest.raises(ValueError, match=r"radial_sites[=:]") as raised:
        train(tmp_path, radial_lambda=0.1, radial_sites=sites)
    assert " sites=" not in str(raised.value)


def test_a_number_of_numpy_is_a_number(tmp_path):
    config = RadialCallback(np.float32(0.5), radial_radius=np.float32(2.0)).config
    assert json.dumps(config.to_dict())
    assert (config.radial_lambda, config.radial_radius) == (0.5, 2.0)


LOG = [{"step": 1, "eval_train_exact_match": 0.5, "eval_validation_exact_match": 0.5}]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GrokkingCallback(stop_threshold="x", stop_evaluations=2), "stop_threshold='x' must be an accuracy"),
        (lambda: GrokkingCallback(train_metric=5), "train_metric=5 must be the name of a metric"),
        (lambda: GeometryCallback(metrics=5), "metrics=5 must be a list of groups"),
        (lambda: GeometryCallback(budget="x"), "budget='x' must be a share"),
        (lambda: GeometryCallback(seed=-1), "seed=-1 must be a whole number from 0"),
        (lambda: GeometryCallback(sites="*.c_proj"), r"sites='\*\.c_proj' must be a list"),
        (lambda: GeometryCallback(loss=5), "loss=5 must be a function"),
        (lambda: GeometryCallback(modular=5), "modular=5 must be a table"),
        (lambda: GeometryCallback(sites=5), "sites=5 must be a list"),
        (lambda: RadialCallback(0.1, radial_sites="*.c"), r"radial_sites='\*\.c' must be a list"),
        (lambda: RadialCallback(0.1, radial_sites=[]), r"radial_sites=\[\] names no module"),
        (lambda: RadialCallback(0.1, radial_sites={"a": 1}), "radial_sites={'a': 1} must be a list"),
        (lambda: RadialCallback(0.1, radial_radius=float("nan")), "radial_radius=nan must be a finite number .* 'initial'"),
        (lambda: RadialCallback(0.1, radial_radius="-1"), "radial_radius='-1' must be a finite number of at least 0"),
        (lambda: find_sites(None), r"model=None must be a torch\.nn\.Module, such as"),
        (lambda: RadialPenalty("gpt2", 0.1), r"model='gpt2' must be a torch\.nn\.Module"),
        (lambda: find_sites(tiny_gpt2(), sites=5), "sites=5 must be a list of module name patterns"),
        (lambda: find_sites(tiny_gpt2(), sites=["re:("]), r"the pattern 're:\(' is no regular expression"),
        (lambda: load_task("modular", cache_dir=5), "cache_dir=5 must be a path"),
        (lambda: load_task("modular", streaming="yes"), "streaming must be True or False, got 'yes'"),
        (lambda: summarise(None), "log_history is a NoneType, not a list of dictionaries"),
        (lambda: summarise({"log_history": LOG}), "log_history is a dict, .*; give its 'log_history'"),
        (lambda: onset_step([{"step": "x", "eval_validation_exact_match": 0.5}]), "has the step 'x', which is no number"),
        (lambda: onset_step([{"step": float("nan"), "eval_validation_exact_match": 0.5}]), "has the step nan"),
        (lambda: onset_step(LOG, threshold="x"), "threshold='x' must be an accuracy"),
        (lambda: onset_step(LOG, metric=5), "metric=5 must be the name of a metric"),
    ],
)
def test_an_argument_of_another_type_is_named_with_what_was_expected(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_an_intervention_that_is_no_list_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"intervention='dropout' must be a list, such as \['dropout'\]"):
        RadialArguments(output_dir=str(tmp_path), radial_lambda=0.1, intervention="dropout")
    with pytest.raises(ValueError, match=r"intervention=5 must be a list, such as \['dropout:p=0.1'\]"):
        RadialArguments(output_dir=str(tmp_path), radial_lambda=0.1, intervention=5)
