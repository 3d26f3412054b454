"""Rivals beside their authors' code: the committed table covers every source, and none is far from ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks import authors  # noqa: E402
from recipes import authors_check  # noqa: E402

WRITTEN = json.loads((ROOT / "recipes/results/authors_check.json").read_text())
# Muon's bfloat16 is taken out, but not its constants of five digits; SOAP updates its eigenbasis in float32.
FURTHER = {"muon": 1e-6, "soap:frequency=2": 1e-5}


def test_every_source_was_run_and_agrees() -> None:
    found = {entry["intervention"]: entry for entry in WRITTEN["entries"]}
    assert list(found) == list(authors.SOURCES) and set(FURTHER) < set(found)
    for text, (repository, commit, *_) in authors.SOURCES.items():
        assert (found[text]["repository"], found[text]["commit"]) == (repository, commit)
        assert found[text]["difference"] < FURTHER.get(text, 1e-12), text


def test_what_the_page_lists() -> None:
    page = (ROOT / "docs/compare.md").read_text().partition("## Are the rivals right?")[2].replace("\n", " ")
    words = {"grokfast": "Grokfast", "weight_norm": "weight norm", "z_loss": "z-loss", "initial_scale": "initial scale"}
    words |= {"sam": "SAM", "jacobian": "Jacobian", "muon": "Muon", "soap": "SOAP", "optim": "GrokAdamW"}
    words["stablemax"] = "StableMax"
    for text in authors.SOURCES:
        name = text.partition(":")[0].removesuffix("_ema").removesuffix("_ma")
        assert words.get(name, name.replace("_", " ").replace("ization", "isation")) in page, text


def test_without_the_authors_code_a_row_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "code").mkdir()
    authors_check.main([str(tmp_path / "code"), "--results", str(tmp_path)])
    rows = {line.split("|")[1].strip(" `"): line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")}
    assert list(rows) == list(authors.SOURCES)
    # This one is a package, which is installed.
    assert [text for text in rows if "not yet run" not in rows[text]] == ["optim:optim=grokadamw"]
