"""The arms of one recipe side by side: a table in Markdown, a figure, and `results.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_radial.report.plots import Log, plot_runs_if_possible
from hf_radial.runs.onset import format_step
from hf_radial.runs.results import RESULTS_FILE
from hf_radial.safe_files import write_text


def write_arms(results: Mapping[str, dict[str, Any]], logs: Mapping[str, Log], folder: Path, title: str) -> str:
    """Write `results.json`, `comparison.md` and `comparison.png`. Returns the table.

    Args:
        results: label of an arm -> what `hf_radial.runs.results.results_of` returns.
        logs: label of an arm -> `log_history`.
        folder: where the files go.
        title: of the figure.
    """
    table = table_of_arms(results)
    write_text(folder / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    write_text(folder / "comparison.md", table + "\n")
    plot_runs_if_possible(logs, folder / "comparison.png", title)
    return table


def table_of_arms(results: Mapping[str, dict[str, Any]]) -> str:
    """The arms side by side, in Markdown; `results` as in `write_arms`."""
    lines = [
        "| arm | test exact match (greedy, saved model) | train at 99 % | held out then | held out stays > 90 % | > 99 % |",
        "|---|---|---|---|---|---|",
    ]
    for label, r in results.items():
        held_out = "" if r["held_out_at_fit"] is None else f"{r['held_out_at_fit']:.1%}"
        steps = [format_step(r[name], r["last_step"]) for name in ("fit_step", "onset_90", "onset_99")]
        lines.append(
            f"| {label} | {r['test']['exact_match']:.2%} of {r['test']['problems']:,} | {steps[0]} | {held_out} "
            f"| {steps[1]} | {steps[2]} |"
        )
    return "\n".join(lines)
