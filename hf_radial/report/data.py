"""The numbers of the interactive page: every line that a figure draws, thinned and rounded, as JSON for the script.

A line is `[number of its steps in "steps", [values], 0]`; lines measured at the same steps share them. A value that is not
finite is null. Values have five digits.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hf_radial.report.accuracy_loss import epochs_per_step
from hf_radial.report.answer import answer
from hf_radial.report.catalogue import INDEXED, catalogue, sources
from hf_radial.report.lines import thinned
from hf_radial.runs.files import Floats, Group, Run, Series, seed, short_names

NUMBERS = 500_000  # points of lines in one page
LEAST, MOST = 60, 1_000  # points of one line
CELLS = 40_000  # numbers of one metric with an index, of one run and site
COLOURS = 6


def page_data(groups: Sequence[Group], train_metric: str, held_out_metric: str, every_point: bool = False) -> dict[str, Any]:
    """Everything that the script needs about the runs, in the order of the groups.

    Args:
        groups: the runs.
        train_metric: name of the accuracy on training rows in the log.
        held_out_metric: the same for held-out rows.
        every_point: leave no point out.

    Raises:
        ValueError: an accuracy is above 1.
    """
    runs = [run for group in groups for run in group.runs]
    questions = catalogue(runs, train_metric, held_out_metric)
    wanted = sources(questions, train_metric, held_out_metric)
    lines = sum(len(list(_lines(run, wanted))) for run in runs)
    points = None if every_point else int(np.clip(NUMBERS / max(lines, 1), LEAST, MOST))
    data = []
    for place, group in enumerate(groups):
        for run, label in labels_of(group):
            data.append(
                {
                    "name": run.name,
                    "label": label,
                    "colour": place % COLOURS,
                    "dash": place // COLOURS,
                    "epochs": epochs_per_step(run),
                    "sites": sites_of(run),
                    "answer": answer(run, train_metric, held_out_metric).as_dict(),
                    **run_lines(run, wanted, points),
                }
            )
    every_site = list(dict.fromkeys(site for one in data for site in one["sites"]))
    thin = any(len(series.steps) > (points or len(series.steps)) for run in runs for _, _, series in _lines(run, wanted))
    return {
        "train": [f"log:{train_metric}", "accuracy"],
        "held_out": [f"log:{held_out_metric}", "held_out_accuracy"],
        "questions": questions,
        "sites": every_site,
        "names": short_names(every_site),
        "points": points if thin else None,
        "runs": data,
    }


def labels_of(group: Group) -> list[tuple[Run, str]]:
    """The runs of a group, and what to call each."""
    if len(group.runs) == 1:
        return [(group.runs[0], group.label)]
    return [(run, f"{group.label}, seed {'?' if seed(run) is None else seed(run)}") for run in group.runs]


def sites_of(run: Run) -> list[str]:
    """The sites of a run whose radius is known."""
    return run.sites("radius_q50") or run.sites("radius_mean")


class Sent:
    """The steps of every line that a page has: what it lacks is what comes after."""

    def __init__(self) -> None:
        self.steps: dict[tuple[str, str], Floats] = {}

    def common(self, source: str, site: str, steps: Floats) -> int:
        """How many of the first steps the page has already; it has all of `steps` afterwards."""
        old = self.steps.get((source, site), steps[:0])
        self.steps[source, site] = steps
        shorter = min(len(old), len(steps))
        other = np.flatnonzero(old[:shorter] != steps[:shorter])
        return int(other[0]) if len(other) else shorter


def run_lines(run: Run, wanted: Iterable[str], points: int | None = None) -> dict[str, Any]:
    """The lines of one run: its `steps`, its `series` by source and site, and its `indexed` metrics."""
    return _rows(run, wanted, points, Sent())


def new_rows(run: Run, sent: Sent, train_metric: str, held_out_metric: str) -> dict[str, Any]:
    """What `run_lines` has now and a page does not, to be appended to its lines; empty if there is nothing.

    A line is `[number of its steps, [values], how many points of the old line stay]`.
    """
    wanted = sources(catalogue([run], train_metric, held_out_metric), train_metric, held_out_metric)
    found = _rows(run, wanted, None, sent)
    return found if found["series"] or found["indexed"] else {}


def _rows(run: Run, wanted: Iterable[str], points: int | None, sent: Sent) -> dict[str, Any]:
    steps = _Steps()
    series: dict[str, dict[str, Any]] = {}
    for source, site, one in _lines(run, wanted):
        known = len(sent.steps.get((source, site), ()))
        common = sent.common(source, site, one.steps)
        if common == len(one.steps) == known:
            continue
        kept: Any = slice(common, None) if points is None else thinned(one.values, points)
        series.setdefault(source, {})[site] = [steps.number(one.steps[kept]), numbers(one.values[kept]), common]
    indexed: dict[str, dict[str, Any]] = {}
    for metric, (decimals, share) in INDEXED.items():
        for site in run.measured.get(metric, {}):
            at, index, values = run.indexed(metric, site)
            if not values.size:
                continue
            known = len(sent.steps.get((metric, site), ()))
            common = sent.common(metric, site, at)
            if common == len(at) == known:
                continue
            kept = slice(common, None) if points is None else _spread(len(at), max(2, CELLS // len(index)))
            at, values = at[kept], values[kept]
            if share:
                with np.errstate(invalid="ignore", divide="ignore"):
                    values = values / np.nansum(values, 1, keepdims=True)
            flat = numbers(np.round(values, decimals).ravel())
            indexed.setdefault(metric, {})[site] = [steps.number(at), numbers(index), flat, common]
    return {"steps": steps.lists, "series": series, "indexed": indexed}


def numbers(values: Floats) -> list[float | int | None]:
    """Numbers for JSON with five digits; `None` for what is not finite.

    >>> numbers(np.array([3.14159265, 2.0, np.nan, -np.inf, 123456.0]))
    [3.1416, 2, None, None, 123460]
    """
    texts = (f"{value:.5g}" if finite else None for value, finite in zip(values, np.isfinite(values), strict=True))
    found = (None if text is None else float(text) for text in texts)
    return [value if value is None or value != int(value) else int(value) for value in found]


def packed(data: dict[str, Any]) -> str:
    """The data as text for a page: JSON, compressed, in base64. It holds no character that HTML could misread."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


class _Steps:
    """Lists of steps, each once."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = []
        self._known: dict[bytes, int] = {}

    def number(self, steps: Floats) -> int:
        whole = steps.astype(np.int64)
        key = whole.tobytes()
        if key not in self._known:
            self._known[key] = len(self.lists)
            self.lists.append(whole.tolist())
        return self._known[key]


def _lines(run: Run, wanted: Iterable[str]) -> Iterable[tuple[str, str, Series]]:
    for source in sorted(wanted):
        if source.startswith("log:"):
            one = run.logged(source.removeprefix("log:"))
            if len(one.steps):
                yield source, "", one
        else:
            for site in run.measured.get(source, {}):
                one = run.series(source, site)
                if len(one.steps):
                    yield source, site, one


def _spread(length: int, most: int) -> Any:
    """At most `most` of `length` places, evenly spread, the first and the last among them."""
    if length <= most:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, most).round().astype(int))
