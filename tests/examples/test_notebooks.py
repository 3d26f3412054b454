"""The notebooks of examples/ run as they stand, and their saved outputs are those of such a run."""

from __future__ import annotations

import re
import shutil
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|opt|var|Users|mnt|private)/|[A-Z]:\\\\")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
MOST_BYTES = 600_000
MOST_LINES = 40  # of text in one cell's output; a progress bar or a log that prints line after line has more

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def outputs(notebook) -> list[list]:
    """The outputs of each code cell."""
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook) -> list[str]:
    """What each code cell prints or returns, each number replaced by `#`; not its progress bars, tables and figures."""
    printed = [
        "".join(out.text if out.output_type == "stream" and out.name == "stdout" else "" for out in cell)
        + "".join(out.data.get("text/plain", "") for out in cell if out.output_type == "execute_result")
        for cell in outputs(notebook)
    ]
    return [NUMBER.sub("#", re.sub(r" at 0x\w+", "", text)) for text in printed]


def kinds(notebook) -> list[set[str]]:
    """The kinds of what each code cell shows: text, picture, table."""
    return [{kind for out in cell for kind in out.get("data", {})} for cell in outputs(notebook)]


@every_notebook
def test_the_start_pages_name_it(file):
    for page in ("README.md", "docs/index.md"):
        assert f"examples/{file.name})" in (ROOT / page).read_text()


@every_notebook
def test_saved_outputs_are_clean(file):
    assert file.stat().st_size < MOST_BYTES
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    assert MACHINE_PATH.search(file.read_text()) is None
    assert not any(cell.source and not cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    for out in (out for cell in outputs(notebook) for out in cell):
        assert out.output_type != "error", out.evalue
        assert out.get("name") != "stderr", out.text  # warnings, and bars that a notebook cannot draw
        assert out.get("text", "").count("\n") <= MOST_LINES
        assert "\r" not in out.get("text", "")
        assert "application/vnd.jupyter.widget-view+json" not in out.get("data", {})


@every_notebook
def test_the_first_cell_says_what_to_install(file):
    first = nbformat.read(file, as_version=4).cells[0]
    assert first.cell_type == "markdown" and "pip install -e" in first.source


@every_notebook
def test_it_is_a_page_of_the_site_with_its_code_and_pictures(file, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    text, pictures = import_module("notebooks").as_markdown(file)
    notebook = nbformat.read(file, as_version=4)
    assert all(cell.source in text for cell in notebook.cells)
    assert len(pictures) == sum("image/png" in kind for kind in kinds(notebook)) >= 1
    assert all(f"]({name})" in text for name in pictures)
    assert f"repository/examples/{file.stem}\n" in (ROOT / "docs/index.md").read_text()


@pytest.mark.slow
@every_notebook
def test_it_runs_and_says_what_is_saved(file, tmp_path):
    saved = nbformat.read(file, as_version=4)
    (tmp_path / "recipes").mkdir()
    shutil.copytree(ROOT / "recipes/results/geometry_study", tmp_path / "recipes/results/geometry_study")
    ran = nbformat.read(file, as_version=4)
    for cell in ran.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(ran, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert texts(ran) == texts(saved)
    assert kinds(ran) == kinds(saved)
