"""Importing the package is cheap and imports no heavy library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys, time
import torch, transformers
before = set(sys.modules)
start = time.process_time()  # of this process: the machine may be busy
import hf_radial
seconds = time.process_time() - start
heavy = {"evaluate", "datasets", "matplotlib", "accelerate", "tensorboard"} & set(sys.modules) - before
print(seconds, sorted(heavy))
"""


def test_importing_costs_under_a_fifth_of_a_second_and_no_heavy_library():
    output = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=600).stdout
    seconds, heavy = output.split(maxsplit=1)
    assert float(seconds) < 0.2
    assert heavy.strip() == "[]"


RECIPE = """
import gc, runpy, sys
import datasets
from transformers import AutoModelForSequenceClassification, HfArgumentParser, Trainer
before = set(sys.modules)
import modular
added = {name for name in set(sys.modules) - before if name.partition(".")[0] not in ("hf_radial", "modular")}
tools = {"matplotlib", "evaluate", "tensorboard", "torch.utils.tensorboard", "sklearn", "IPython", "trl"}
print(sorted(added), sorted(tools & set(sys.modules)))
print(gc.isenabled(), gc.get_freeze_count())
sys.argv = ["modular.py", "--preset", "none"]
try:
    runpy.run_path("modular.py", run_name="__main__")
except SystemExit:  # there is no such preset: this far, and no further
    print(gc.isenabled(), gc.get_freeze_count() > 0)
"""


@pytest.fixture(scope="module")
def imported():
    """What a process says that imports a recipe, and then starts it."""
    recipes = Path(__file__).parents[2] / "recipes"
    result = subprocess.run(
        [sys.executable, "-c", RECIPE], capture_output=True, text=True, timeout=600, cwd=recipes, check=True
    )
    return result.stdout.splitlines()


def test_importing_a_recipe_adds_nothing_to_the_import_of_what_it_is_about(imported):
    """Modules, not seconds. `Trainer` imports `datasets`, and that pandas, and SciPy where it is: not ours to save."""
    assert imported[0] == "[] []"


def test_the_collector_of_garbage_rests_only_while_a_recipe_imports_that_is_a_program(imported):
    assert imported[1] == "True 0"
    assert imported[2] == "True True"


def test_every_public_name_loads_and_is_documented():
    import hf_radial

    for name in hf_radial.__all__:
        assert getattr(hf_radial, name).__doc__, name
    assert set(hf_radial.__all__) <= set(dir(hf_radial))
