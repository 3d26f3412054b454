"""Importing the package is cheap and drags nothing in."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, time
import torch, transformers
before = set(sys.modules)
start = time.perf_counter()
import hf_radial
seconds = time.perf_counter() - start
heavy = {"evaluate", "datasets", "matplotlib", "accelerate", "tensorboard"} & set(sys.modules) - before
print(seconds, sorted(heavy))
"""


def test_importing_costs_under_a_fifth_of_a_second_and_no_heavy_library():
    output = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=300).stdout
    seconds, heavy = output.split(maxsplit=1)
    assert float(seconds) < 0.2
    assert heavy.strip() == "[]"


def test_every_public_name_loads_and_is_documented():
    import hf_radial

    for name in hf_radial.__all__:
        assert getattr(hf_radial, name).__doc__, name
    assert set(hf_radial.__all__) <= set(dir(hf_radial))
