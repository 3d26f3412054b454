"""Figures of the metrics that other packages add: titles and captions come from the functions' docstrings."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import getdoc

from hf_radial.geometry.groups import METRICS
from hf_radial.runs.files import Run

Caption = tuple[str, str, tuple[float, str] | None, str]


def added_captions(runs: Sequence[Run]) -> dict[str, Caption]:
    """Title, axis, line to compare with and caption of each such metric that a run has; as in `captions.SITE_LINES`.

    A metric of a package that is not installed here, or fails, is left out.
    """
    added = dict(METRICS.loaded(ours=False))
    found: dict[str, Caption] = {}
    for metric in dict.fromkeys(metric for run in runs for metric in run.measured):
        for name, function in added.items():
            if f"{metric}_".startswith(f"{name}_"):
                words = metric.replace("_", " ")
                title, _, rest = (getdoc(function) or words).partition("\n")
                more = "" if metric == name else f": {words.removeprefix(name.replace('_', ' ')).strip()}"
                caption = " ".join(rest.split()) or f"A metric of {METRICS.source(name).package}."
                found[metric] = (title.rstrip(".") + more, words, None, caption)
    return found
