"""Wrong options, presets and files of a recipe: one line names the fault, before any file is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_radial import RadialArguments
from hf_radial.runs.resume import check_same_options
from hf_radial.runs.start import at_least, choose_run_folder, parse_options
from hf_radial.runs.text_files import read_text, read_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipes() -> Any:
    sys.path.insert(0, str(ROOT))
    try:
        from recipes import addition, modular, sweep
    finally:
        sys.path.pop(0)
    return {"addition": addition.AdditionArguments, "modular": modular.ModularArguments, "sweep": sweep.SweepArguments}


def parse(recipes: Any, folder: Path, preset: str | bytes, *words: str, recipe: str = "addition") -> Any:
    file = folder / "mine.yaml"
    file.write_bytes(preset.encode() if isinstance(preset, str) else preset)
    words = (str(file), "--output_dir", str(folder / "out"), *words)
    return parse_options((recipes[recipe], RadialArguments), words, ROOT / "recipes" / "configs", "addition_cpu")


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("layers: [", "mine.yaml is not YAML: .*line 1"),
        (b"\xff\xfe", "mine.yaml is not YAML"),
        ("[1]", "must hold lines of the form"),
        ("digits: 3\ndigits: 4", "the key 'digits' is there twice.*line 2"),
        ("digits: 3.5", "mine.yaml: digits=3.5 must be a whole number, such as 3"),
        ("digits: three", "argument --digits: invalid int value: 'three'"),
        ("digits: true", "digits=True must be a whole number"),
        ("digits: [3]", r"digits=\[3\] must be a whole number"),
        ("digits:", "digits=None must be a whole number"),
        ("reverse: 3", "reverse=3 must be true or false"),
        ("reverse: maybe", "reverse"),
        ("arms: none", r"arms='none' must be a list, such as \[none\]"),
        ("intervention: dropout", r"intervention='dropout' must be a list"),
        ("learning_rate: fast", "learning_rate"),
        ("learning_rate: .nan", "learning_rate=nan must be finite"),
        ("max_steps: 10.5", "max_steps=10.5 must be a whole number"),
        ("model:\n  layers: 2", "unknown option 'model'"),
    ],
)
def test_a_preset_that_means_nothing_is_refused(recipes: Any, tmp_path: Path, preset: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(recipes, tmp_path, preset)


def test_a_number_that_yaml_reads_as_text_is_a_number(recipes: Any, tmp_path: Path) -> None:
    assert parse(recipes, tmp_path, "learning_rate: 1e-3")[1].learning_rate == 1e-3


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("addition", "--digts 3", "'--digts' is no option.*did you mean --digits"),
        ("addition", "extra", "'extra' is no option and no value of one; --help"),
        ("addition", "--digits x", "argument --digits: invalid int value: 'x'; --help lists the options"),
        ("addition", "--digits", "--digits"),
        ("addition", "--eval_strategy never", "invalid choice: 'never'"),
        ("addition", "--layers 0", "layers=0 must be at least 1"),
        ("addition", "--width 0", "width=0 must be at least 1"),
        ("addition", "--heads 3", "width=128 must be a multiple of heads=3"),
        ("addition", "--dropout 2", "dropout=2.0 must be below 1"),
        ("addition", "--dropout nan", "dropout=nan must be at least 0"),
        ("addition", "--dropout=-0.1", "dropout=-0.1 must be at least 0"),
        ("addition", "--solved_at nan", "solved_at=nan"),
        ("addition", "--solved_evaluations 0", "solved_evaluations=0 must be at least 1"),
        ("addition", "--paper_lambda=-1", "paper_lambda=-1.0 must be at least 0"),
        ("addition", "--paper_lambda inf", "paper_lambda=inf must be finite"),
        ("addition", "--weight_decay nan", "weight_decay=nan must be finite"),
        ("modular", "--hidden_layers 0", "hidden_layers=0 must be at least 1"),
        ("modular", "--embedding_size=-1", "embedding_size=-1 must be at least 1"),
        ("modular", "--solved_at 5", "solved_at=5.0 must be above 0 and at most 1"),
        ("modular", "--solved_at nan", "solved_at=nan must be above 0"),
        ("sweep", "--seeds 0 -1", r"seeds=\[0, -1\] must be at least 0"),
        ("sweep", "--weight_decays=-1", r"weight_decays=\[-1.0\] must be at least 0"),
        ("sweep", "--learning_rates nan", r"learning_rates=\[nan\] must be at least 0"),
        ("sweep", "--radial_lambdas inf", r"radial_lambdas=\[inf\] must be finite"),
    ],
)
def test_an_option_out_of_range_is_refused(recipes: Any, tmp_path: Path, recipe: str, words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(recipes, tmp_path, "", *words.split(), recipe=recipe)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "run.json is not JSON"),
        ("{}", "run.json has no 'radial'"),
        ("[]", "holds a list"),
        ('{"radial": {}}', "no 'facts'"),
    ],
)
def test_a_run_whose_record_cannot_be_read_is_not_resumed(tmp_path: Path, record: str, message: str) -> None:
    (tmp_path / "run.json").write_text(record)
    with pytest.raises(ValueError, match=message):
        check_same_options(tmp_path, {"radial": {}, "facts": {}})


def test_a_file_is_no_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match=r"output_dir=.*is a file; give a folder"):
        choose_run_folder(str(tmp_path / "out"), False, "runs/x")


def test_a_text_in_no_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"text.txt is not text in UTF-8"):
        read_text(tmp_path / "text.txt")


def test_yaml_may_merge_and_repeat_keys_of_other_mappings(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_yaml(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


def test_at_least_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="seed=nan must be at least 0"):
        at_least(type("Options", (), {"seed": float("nan")})(), 0, "seed")


def test_a_mistake_is_one_line_and_an_error_of_a_library_keeps_its_traceback(tmp_path: Path) -> None:
    script = tmp_path / "recipe.py"
    script.write_text(
        "import json\nfrom hf_radial.runs.script import run_recipe\n"
        "def main(argv):\n    if argv == ['ours']:\n        raise ValueError('layers=0 must be at least 1')\n"
        "    json.loads('{')\n"
        "run_recipe(main)\n"
    )
    found = [
        subprocess.run([sys.executable, str(script), word], capture_output=True, text=True, check=False)
        for word in ("ours", "theirs")
    ]
    assert [one.returncode for one in found] == [1, 1]
    assert found[0].stderr == "recipe.py: error: layers=0 must be at least 1\n"
    assert "Traceback" in found[1].stderr and "JSONDecodeError" in found[1].stderr
