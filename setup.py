"""What setup.cfg cannot say: the list of packages, and what of `recipes/` is installed. Everything else is in setup.cfg.

`recipes/` and `model_cards/` stay where they are. In a wheel they are `hf_radial/recipes` and `hf_radial/model_cards`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

RECIPES = ("addition", "compare", "modular", "sweep")  # hf_radial/runs/shipped.py; the others are studies of this repository
DATA = ("recipes", "recipes.accelerate", "recipes.configs", "recipes.results", "recipes.results.compare", "model_cards")
ONLY_JUDGED = {"run", "test", "held_out_at_fit"}  # what pages say of judged runs only


def _slim(row: dict[str, Any]) -> dict[str, Any]:
    left_out = {"curve"} if row["stage"] == "judged" else {"curve"} | ONLY_JUDGED
    kept = {key: value for key, value in row.items() if key not in left_out}
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in kept.items()}


def _slim_comparisons(folder: Path) -> None:
    for file in folder.glob("*.json"):
        data = json.loads(file.read_text())
        data["rows"] = [_slim(row) for row in data["rows"]]
        file.unlink()  # it may be a hard link to the file of the checkout
        file.write_text(json.dumps(data, separators=(",", ":")) + "\n")


class BuildPackage(build_py):
    """Installs the recipes without the studies, and the committed comparisons without the curves of their runs.

    Numbers of a run have six digits there, more than any page prints. Only judged runs have their test accuracy, the accuracy
    when they fitted, and the name of their folder, which `compare --again` needs. The source distribution has the same.
    """

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if package != "hf_radial.recipes" or module[1] in RECIPES]

    def build_package_data(self) -> None:
        super().build_package_data()
        _slim_comparisons(Path(self.build_lib, "hf_radial/recipes/results/compare"))


class SourceDistribution(sdist):
    """As the base class, with the comparisons as a wheel has them."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        _slim_comparisons(Path(base_dir, "recipes/results/compare"))


setup(
    packages=[*find_packages(include=["hf_radial", "hf_radial.*"]), *(f"hf_radial.{name}" for name in DATA)],
    cmdclass={"build_py": BuildPackage, "sdist": SourceDistribution},
)
