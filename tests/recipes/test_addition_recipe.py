"""recipes/addition.py as a user launches it: real processes, real files."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
import two_processes
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from warm import WarmProcess, kill_at_a_checkpoint, run_python

from hf_radial import RadialArguments
from hf_radial.runs.start import parse_options

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "addition.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = {
    "digits": 2,
    "train_size": 64,
    "validation_size": 20,
    "test_size": 50,
    "layers": 1,
    "width": 32,
    "max_steps": 6,
    "eval_steps": 3,
    "logging_steps": 2,
    "save_steps": 3,
    "per_device_train_batch_size": 16,
}


def flags(folder, **options):
    return [
        word
        for name, value in {**SMALL, "output_dir": folder, **options}.items()
        for word in (f"--{name}", *str(value).split())
    ]


def launch(config, *arguments, **options):
    """Run under `accelerate launch`, which starts a new interpreter for the recipe."""
    command = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes" / "accelerate" / config, RECIPE]
    return run_python(*command, *arguments, env=ENVIRONMENT, check=True, **options)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """A run started from an empty folder: nothing may depend on the working directory."""
    folder = tmp_path_factory.mktemp("run")
    result = launch("cpu.yaml", *flags(folder / "out", dropout=0.1), cwd=folder)
    return folder / "out", result


def test_it_says_where_everything_is_and_everything_is_there(one_process):
    folder, result = one_process
    named = re.findall(rf"{re.escape(str(folder))}[^\s,]*", result.stdout)
    assert len(named) >= 2 * 5 + 3
    assert all(Path(name).exists() for name in named)
    for arm in ("none", "penalty"):
        for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md", "curves.png", "run.json"):
            assert (folder / arm / name).stat().st_size > 0
    assert "held-out=" in result.stderr and "train=" in result.stderr  # on the progress bar


def test_the_arms_differ_in_the_penalty_and_in_nothing_else(one_process):
    folder, _ = one_process
    runs = {arm: json.loads((folder / arm / "run.json").read_text()) for arm in ("none", "penalty")}
    none, penalty = (runs[arm]["training_args"] for arm in ("none", "penalty"))
    assert {name for name in none if none[name] != penalty[name]} <= {"radial_lambda", "output_dir", "logging_dir"}
    assert runs["none"]["radial"]["variant"] == "none"
    results = json.loads((folder / "results.json").read_text())
    assert [r["arm"] for r in results.values()] == ["none", "penalty"]
    # The first log is of weights that are still nearly equal: same seed, same rows.
    logs = [json.loads((folder / arm / "trainer_state.json").read_text())["log_history"] for arm in ("none", "penalty")]
    assert logs[0][0]["task_loss"] == pytest.approx(logs[1][0]["task_loss"], abs=0.05)


def test_the_card_is_true_and_its_snippet_runs(one_process):
    folder, _ = one_process
    card = (folder / "penalty" / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    result = next(r for r in json.loads((folder / "results.json").read_text()).values() if r["arm"] == "penalty")
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == round(result["test"]["exact_match"], 5)
    assert f"{result['test']['exact_match']:.2%} of 50 held-out problems" in card
    assert "arm **penalty**" in card and "transformer.h.0.mlp.c_proj" in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.S)
    run = run_python("-c", snippet)
    assert run.returncode == 0, run.stderr[-2000:]
    assert re.match(r"\d\d\+\d\d=", run.stdout)


def test_the_saved_model_is_plain_transformers(one_process):
    folder, _ = one_process
    model, tokenizer = (cls.from_pretrained(folder / "penalty") for cls in (AutoModelForCausalLM, AutoTokenizer))
    written = model.generate(**tokenizer("12+34=", return_tensors="pt"), do_sample=False, max_new_tokens=5)
    assert tokenizer.decode(written[0]).startswith("12+34=")
    assert type(model).__name__ == "GPT2LMHeadModel"


def test_two_processes_train_and_write_one_result(tmp_path):
    said = two_processes.launch(RECIPE, *flags(tmp_path / "out", per_device_train_batch_size=8, arms="penalty"))
    record = json.loads((tmp_path / "out" / "penalty" / "run.json").read_text())
    assert record["processes"] == 2
    assert said.count("both side by side") == 1
    assert json.loads((tmp_path / "out" / "results.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        {"zero_pad": "false", "sampling": "balanced", "reverse": "false", "digits": 3, "measure_precision": "true"},
        {"preset": "addition_nanogpt", "digits": 3, "window": 64, "heads": 2, "arms": "paper none"},
    ],
    ids=["padded rows", "windows"],
)
def test_the_other_ways_to_spell_and_feed_rows(options, tmp_path):
    run_python(RECIPE, *flags(tmp_path / "out", **{"arms": "penalty", **options}), env=ENVIRONMENT, check=True)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [r["arm"] for r in results.values()] == options.get("arms", "penalty").split()
    if "measure_precision" in options:  # the faster one, and the run was made in it
        found = json.loads((tmp_path / "out" / "precision.json").read_text())
        seconds = found["seconds_a_step"]
        assert found["precision"] == ("float32" if seconds["float32"] <= seconds["bfloat16"] else "bfloat16")
        record = json.loads((tmp_path / "out" / "penalty" / "run.json").read_text())
        assert record["training_args"]["bf16"] == (found["precision"] == "bfloat16")


def test_a_run_killed_and_resumed_ends_with_the_same_weights(one_process, tmp_path):
    """SIGKILL after the first checkpoint; bit for bit on the CPU, dropout included."""
    whole, _ = one_process
    command = [str(RECIPE), *flags(tmp_path / "out", dropout=0.1, max_steps=6)]
    process = WarmProcess(*command, env=ENVIRONMENT)
    # In the second arm: the first one is finished then, and must not be trained again.
    checkpoint = tmp_path / "out" / "penalty" / "checkpoint-3" / "trainer_state.json"
    kill_at_a_checkpoint(process, tmp_path / "out" / "penalty")
    assert checkpoint.exists(), "the run ended before its checkpoint"
    finished = (tmp_path / "out" / "none" / "model.safetensors").stat().st_mtime_ns
    command += ["--resume_from_checkpoint", "true"]
    changed = [*command, "--radial_lambda", "0.5"]
    refused = run_python(*changed, env=ENVIRONMENT)
    assert refused.returncode != 0 and "radial_lambda was" in refused.stderr
    resumed = run_python(*command, env=ENVIRONMENT)
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    log = json.loads((tmp_path / "out" / "penalty" / "trainer_state.json").read_text())["log_history"]
    seconds = [entry["cpu_seconds"] for entry in log]
    assert seconds == sorted(seconds) and seconds[0] > 0  # a resumed run goes on counting
    for arm in ("none", "penalty"):
        ours, theirs = (load_file(folder / arm / "model.safetensors") for folder in (tmp_path / "out", whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (tmp_path / "out" / "none" / "model.safetensors").stat().st_mtime_ns == finished


def test_presets_parse_and_are_what_they_say(tmp_path):
    sys.path.insert(0, str(RECIPE.parent))
    try:
        import addition
    finally:
        sys.path.pop(0)
    for file in addition.CONFIGS.glob("addition_*.yaml"):
        task, args = parse_options((addition.AdditionArguments, RadialArguments), [str(file)], addition.CONFIGS, "addition_cpu")
        assert task.preset == file.stem
        tokenizer = addition.character_tokenizer("0123456789+=\n")
        parameters = addition.build_model(task, tokenizer).num_parameters()
        if task.preset == "addition_nanogpt":
            assert parameters == pytest.approx(10.7e6, rel=0.02)
            assert (task.layers, task.heads, task.width, task.paper_lambda) == (6, 6, 384, 0.01)
    # The command line wins over the file.
    task, args = parse_options(
        (addition.AdditionArguments, RadialArguments),
        [str(addition.CONFIGS / "addition_nanogpt.yaml"), "--layers", "3", "--learning_rate", "0.5"],
        addition.CONFIGS,
        "addition_cpu",
    )
    assert (task.layers, task.width, args.learning_rate) == (3, 384, 0.5)
