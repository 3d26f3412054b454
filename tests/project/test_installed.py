"""What a user has after `pip install hf_radial` and a plug-in, without a checkout: the wheel, and the example package.

Both are built and installed into a new environment that has nothing of this repository. It has the libraries of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from warm import run_python

from hf_radial.cli.main import main as command_line

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "example_package"
PARTS = ("hf_radial", "recipes", "model_cards", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
LEFT_OUT = {"__pycache__", "results", "build", "dist"}
TINY = ["--embedding_size", "8", "--hidden_size", "16", "--save_every", "0"]


def python(*words, cwd, **more):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=600, **more)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def copied(source, target):
    """Copy what is built: no results but the compared rows, and nothing that an earlier build left."""
    if source.is_dir():
        target.mkdir()
        for each in source.iterdir():
            if each.name not in LEFT_OUT and not each.name.endswith(".egg-info"):
                copied(each, target / each.name)
    else:
        target.write_bytes(source.read_bytes())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the wheel and the sdist, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("source")
    for name in PARTS:
        copied(ROOT / name, folder / name)
    compared = folder / "recipes" / "results" / "compare"
    compared.mkdir(parents=True)
    for file in (ROOT / "recipes" / "results" / "compare").glob("*.json"):
        copied(file, compared / file.name)
    python("-m", "build", "--no-isolation", ".", cwd=folder)  # the sdist, and from it the wheel
    python("-m", "build", "--no-isolation", "--wheel", "--outdir", "direct", ".", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    """The folder of the programs of a new environment with the wheel and the example package."""
    folder = tmp_path_factory.mktemp("environment")
    python("-m", "venv", "--without-pip", folder, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Only the paths: what is installed there for editing stays invisible.
    (packages / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    example = tmp_path_factory.mktemp("example")
    copied(EXAMPLE, example / "package")
    python("-m", "build", "--no-isolation", "--wheel", "--outdir", example, example / "package", cwd=example)
    wheels = [*(built / "dist").glob("*.whl"), *example.glob("*.whl")]
    assert len(wheels) == 2
    install = ["install", "--quiet", "--no-index", "--no-deps", *wheels]
    python("-m", "pip", "--python", folder / "bin" / "python", *install, cwd=folder)
    return folder / "bin"


@pytest.fixture
def run(environment, tmp_path):
    """Run the new environment's Python, or a program of it, in an empty folder; gives what it says."""

    def start(program, *words):
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        script = [] if program == "python" else [environment / program]
        done = run_python(*script, *words, cwd=tmp_path, env=env, check=True, merge=True, python=environment / "python")
        return done.stdout

    return start


@pytest.fixture
def run_recipe(run, environment):
    """Run a recipe as `hf-radial run` has it run; test_run_verb.py has what is passed on to the file."""
    (folder,) = environment.parent.glob("lib/python*/site-packages/hf_radial/recipes")

    def start(name, *words):
        return run("python", folder / f"{name}.py", *words)

    return start


def contents(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_sdist_builds_the_same_wheel_which_is_small_and_passes_twine(built):
    (wheel,), (sdist,), (direct,) = (list(built.glob(pattern)) for pattern in ("dist/*.whl", "dist/*.tar.gz", "direct/*.whl"))
    ours, others = contents(wheel), contents(direct)
    assert ours == others
    assert wheel.stat().st_size < 1_500_000 and sdist.stat().st_size < 2_500_000
    python("-m", "twine", "check", "--strict", wheel, sdist, cwd=built)
    with tarfile.open(sdist) as file:
        assert not [name for name in file.getnames() if "test_" in name or name.endswith(".png")]
    recipes = sorted(name for name in ours if name.startswith("hf_radial/recipes/") and name.count("/") == 2)
    assert recipes == [f"hf_radial/recipes/{name}.py" for name in ("addition", "compare", "modular", "sweep")]
    for folder in ("configs", "accelerate"):
        shipped = {Path(name).name for name in ours if name.startswith(f"hf_radial/recipes/{folder}/")}
        assert shipped == {file.name for file in (ROOT / "recipes" / folder).iterdir() if file.is_file()}


def test_the_committed_comparisons_read_the_same_without_the_curves(built, tmp_path, capsys):
    (wheel,) = (built / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path, [name for name in file.namelist() if "results/compare" in name])
    folder = tmp_path / "hf_radial" / "recipes" / "results" / "compare"
    names = sorted(file.stem for file in folder.glob("*.json"))
    assert names == sorted(file.stem for file in (ROOT / "recipes" / "results" / "compare").glob("*.json"))
    for name in ["lines", "tuned", "paired", "transformer_replicated"]:  # settings, tuned, not tuned, and tuned again and again
        assert command_line(["compare", name, "--results", str(folder)]) == 0
        compact = capsys.readouterr().out
        assert command_line(["compare", name]) == 0
        assert capsys.readouterr().out == compact


def test_the_new_environment_has_nothing_of_the_checkout(environment, tmp_path):
    code = "import hf_radial, sys; print(hf_radial.__file__, *sys.path, sep='\\n')"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [environment / "python", "-c", code]
    said = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "site-packages" in said[0] and str(ROOT) not in said[0]
    assert not [path for path in said[1:] if path == str(ROOT) or path.startswith(f"{ROOT}/recipes")]


def test_recipe_modular_runs_with_an_intervention_and_a_metric_of_the_example_package(run, tmp_path):
    words = ["--p", "7", *TINY, "--num_train_epochs", "4", "--output_dir", "runs/one", "--intervention", "sign_noise:p=0.1"]
    words += ["--geometry_every", "2", "--geometry_metrics", "radial", "radius_ratio", "--report_to", "none"]
    said = run("hf-radial", "run", "--config_file", "cpu", "modular", *words)
    assert "test: " in said and (tmp_path / "runs" / "one" / "model.safetensors").is_file()
    record = json.loads((tmp_path / "runs" / "one" / "run.json").read_text())
    assert "sign_noise:p=0.1" in json.dumps(record)
    assert record["environment"]["versions"]["radial-example"] == "1.2" and record["environment"]["revision"] is None
    log = json.loads((tmp_path / "runs" / "one" / "trainer_state.json").read_text())["log_history"]
    ratios = [logs["geometry/hidden.0/radius_ratio"] for logs in log if "geometry/hidden.0/radius_ratio" in logs]
    assert len(ratios) == 3 and min(ratios) > 1


def test_recipe_compare_runs_a_grid_of_the_example_packages_model_data_task_and_intervention(run, run_recipe, tmp_path):
    base = {"epochs": 2, "evaluate_every": 1, "batch_size": 16}
    ours = {"task": "squares", "fields": {"p": 7}, "train_fraction": 0.6, "width": 16, "embedding_size": 8}
    own = {"task": "radial_example.grid:make_rows", "fields": {"bits": 5}, "split_by_seed": True}
    own |= {"model": "radial_example.grid:make_model", "model_options": {"width": 8}}
    arms = {"AdamW": {}, "noise": {"options": {"interventions": ["sign_noise:p=0.1"]}}}
    grid = {"title": "Tiny", "base": base, "axes": {"cell": [ours, own]}, "arms": arms, "seeds": [0]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(grid))
    said = run_recipe("compare", "tiny.yaml", "--jobs", "0", "--runs", "runs")
    assert "runs/tables/tiny.md" in said
    data = json.loads((tmp_path / "runs" / "tables" / "tiny.json").read_text())
    assert data["missing"] == 0 and [row["status"] for row in data["rows"]] == ["censored"] * 4
    record = json.loads((tmp_path / "runs" / data["rows"][-1]["run"] / "run.json").read_text())
    assert [one["place"] for one in record["facts"]["own"]] == [own["task"], own["model"]]
    assert "Tiny" in run("hf-radial", "compare", "tiny", "--results", "runs/tables")


def test_recipes_sweep_and_addition_run(run, run_recipe, tmp_path):
    sweep = ["--p", "7", *TINY, "--num_train_epochs", "2", "--seeds", "0", "1", "--output_dir", "runs/sweep"]
    run("hf-radial", "run", "sweep", *sweep, "--report_to", "none")
    assert len(list((tmp_path / "runs" / "sweep").glob("*/results.json"))) == 2
    addition = ["--digits", "1", "--train_size", "40", "--validation_size", "20", "--test_size", "20", "--max_steps", "2"]
    addition += ["--arms", "penalty", "--output_dir", "runs/addition", "--report_to", "none"]
    run_recipe("addition", *addition)
    assert (tmp_path / "runs" / "addition" / "results.json").is_file()


def test_the_command_line_knows_the_example_package(run):
    said = run("hf-radial", "tasks", "squares")
    assert "A square and a multiple mod p" in said and "from: the package radial-example 1.2" in said and "c=3" in said
    said = run("hf-radial", "methods", "sign_noise")
    assert "# Sign noise: `sign_noise`" in said and "radial-example 1.2" in said and "Probability of a turned sign" in said
