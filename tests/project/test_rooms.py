"""The contract of `make lint`: a room imports only from those below it, and no imports run in a circle."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

pytest.importorskip("importlinter")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path):
    """The package's code and its contract, where it may be spoilt."""
    shutil.copytree(ROOT / "hf_radial", tmp_path / "hf_radial", ignore=lambda folder, names: [n for n in names if "cache" in n])
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder):
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def append(file, code):
    file.write_text(file.read_text() + code)


def test_the_package_keeps_its_contract(copy):
    code, output = lint(copy)
    assert code == 0, output


@pytest.mark.parametrize(
    "code",
    [
        "\nimport hf_radial.training.mixin\n",
        "\nif TYPE_CHECKING:\n    from hf_radial.training.mixin import RadialMixin\n",
        "\ndef late():\n    from hf_radial.training.mixin import RadialMixin\n",
    ],
    ids=["plain", "for typing", "in a function"],
)
def test_an_import_that_runs_upward_is_found(copy, code):
    append(copy / "hf_radial/sites/site.py", code)
    code, output = lint(copy)
    assert code != 0 and "hf_radial.sites.site -> hf_radial.training.mixin" in output


def test_a_circle_within_a_room_is_found(copy):
    append(copy / "hf_radial/geometry/precision.py", "\nfrom hf_radial.geometry import measure\n")
    code, output = lint(copy)
    assert code != 0 and "No cycles are allowed in hf_radial.geometry" in output


def test_a_room_without_a_place_in_the_contract_is_found(copy):
    (copy / "hf_radial/attic").mkdir()
    (copy / "hf_radial/attic/__init__.py").touch()
    code, output = lint(copy)
    assert code != 0 and "attic" in output


def test_every_folder_of_the_package_is_a_package_and_none_of_its_files_is_ignored_by_git(copy):
    folders = {file.parent for file in (copy / "hf_radial").rglob("*.py") if "metrics" not in file.parts}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
    files = [str(file) for file in (ROOT / "hf_radial").rglob("*.py")]
    if (ROOT / ".git").exists():
        ignored = subprocess.run(["git", "check-ignore", "--no-index", *files], cwd=ROOT, capture_output=True, text=True)
        assert ignored.stdout == ""


def test_the_page_of_the_rooms_names_them_in_the_contracts_order():
    contract = re.search(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE).group(1)
    layers = re.findall(r'^    "(\w+)",', contract, re.MULTILINE)
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+?)(?:/|\.py)` \|", page, re.MULTILINE) == layers


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.])((?:[\w.-]+/)+[\w-]*(?:\.\w+)?|\w+\.(?:py|md))(?![\w<])", text)) - {"hf_radial/"}
    assert len(named) > 5
    named = {name for name in named if not name.startswith("build/")}  # made by a command of the page
    assert [n for n in sorted(named) if not any((root / n).exists() for root in (ROOT, ROOT / "hf_radial"))] == []
