"""One page about runs: `write_report` makes a single HTML file that needs no network.

The page is interactive: `data.py` has its numbers, `catalogue.py` its figures, `answer.py` its first sentences, `assets/` its
script and style. With `static=True` it is the page of still figures (`still.py`). `hf_radial.runs.files` reads the runs' files.
The same files give the same page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from hf_radial.report.answer import Answer, headline
from hf_radial.report.canvas import LIGHT
from hf_radial.report.data import packed, page_data
from hf_radial.report.resources import GLOSSARY, resource
from hf_radial.report.still import drawings_of, make_report
from hf_radial.report.tables import facts, naming, notes, results, title_of
from hf_radial.runs.files import Run, group_runs, read_runs
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, check_metrics
from hf_radial.safe_files import write_bytes, write_text

PAGE = "page.html"
CHARTS = "assets/uPlot.iife.min.js"  # https://github.com/leeoniya/uPlot, MIT: assets/uPlot.LICENSE.txt
SCRIPTS = ("store", "chart", "moment", "controls", "main")
STYLES = ("assets/uPlot.min.css", "assets/report.css")
FIGURES = "figures"
KINDS = ("png", "svg")


def write_report(
    folders: Sequence[str | Path],
    out: str | Path | None = None,
    figures: Sequence[str] = (),
    train_metric: str = TRAIN_METRIC,
    held_out_metric: str = HELD_OUT_METRIC,
    title: str | None = None,
    static: bool = False,
) -> Path:
    """Write the page about the runs in the given folders and return its path.

    Args:
        folders: output directories of runs; see `read_runs`.
        out: a folder, or a file that ends with `.html`. Default: `report` in the run's folder, or in the working directory for
            several runs.
        figures: also write every figure as a file into `figures` beside the page, as `png`, `svg` or both.
        train_metric: name of the accuracy on training rows in the log.
        held_out_metric: the same for held-out rows.
        title: the page's title.
        static: write the page of still figures, which needs no script.

    Raises:
        FileNotFoundError: a folder is no run.
        ValueError: a file cannot be read, no run has a metric that was named, or a kind of figure is not known.
        ImportError: `figures` or `static` is given, and matplotlib is not installed.
    """
    for kind in figures:
        if kind not in KINDS:
            raise ValueError(f"figures={kind!r} must be one of {', '.join(KINDS)}")
    runs = read_runs(folders)
    check_named(runs, train_metric=(train_metric, TRAIN_METRIC), held_out_metric=(held_out_metric, HELD_OUT_METRIC))
    page = _page_path(runs, out)
    if static:
        html, drawings = make_report(runs, train_metric, held_out_metric, title)
    else:
        html = make_page(runs, train_metric, held_out_metric, title)
        drawings = drawings_of(runs, train_metric, held_out_metric) if figures else {}
    write_text(page, html)
    for kind in dict.fromkeys(figures):
        for name, drawing in drawings.items():
            write_bytes(page.parent / FIGURES / f"{name}.{kind}", drawing.render(LIGHT, kind, titled=True))
    return page


def make_page(
    runs: Sequence[Run],
    train_metric: str = TRAIN_METRIC,
    held_out_metric: str = HELD_OUT_METRIC,
    title: str | None = None,
    live: dict[str, Any] | None = None,
) -> str:
    """The interactive page as text.

    Args:
        runs: what `read_runs` gives.
        train_metric: name of the accuracy on training rows in the log.
        held_out_metric: the same for held-out rows.
        title: the page's title.
        live: what the page has to tell its server when it asks for new rows; see `hf_radial.report.live`.

    Raises:
        ValueError: an accuracy is above 1.
    """
    groups = group_runs(runs)
    with naming(runs):
        data = page_data(groups, train_metric, held_out_metric, every_point=live is not None)
        table = results(groups, train_metric, held_out_metric)
    said = notes(runs, train_metric, held_out_metric)
    if data["points"] is not None:
        said.append(f"A line has at most {data['points']} points here; the smallest and largest values are kept.")
    labels = [one["label"] for one in data["runs"]]
    answers = [Answer(**one["answer"]) for one in data["runs"]]
    return Template(resource(PAGE)).substitute(
        title=escape(title or title_of(runs)),
        headline=escape(headline(labels, answers)),
        answers="\n".join(
            f'<li data-run="{i}"><span class="swatch c{one["colour"]}"></span><b>{escape(one["label"])}</b> '
            f"<span>{escape(found.text)}</span></li>"
            for i, (one, found) in enumerate(zip(data["runs"], answers, strict=True))
        ),
        results=table,
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in said),
        facts=facts(groups),
        glossary=resource(GLOSSARY),
        style="\n".join(resource(name) for name in STYLES),
        policy=content_security_policy(live is not None),
        live="" if live is None else "live",
        data=packed(data | (live or {})),
        script=_script(),
    )


def content_security_policy(live: bool) -> str:
    """What a browser lets the page do: run this script, which is named by its hash, and no other, whatever a label says."""
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode("ascii")
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _script() -> str:
    return "\n".join([resource(CHARTS), *(resource(f"assets/{name}.js") for name in SCRIPTS)])


def _page_path(runs: Sequence[Run], out: str | Path | None) -> Path:
    if out is None:
        return (runs[0].folder / "report" if len(runs) == 1 else Path("report")) / "index.html"
    path = Path(out)
    if path.suffix.lower() in (".html", ".htm"):
        if path.is_dir():
            raise ValueError(f"out={str(path)!r} is a folder that is called like a file; name another")
        return path
    if path.is_file():
        raise ValueError(f"out={str(path)!r} is a file; name a folder, or a file that ends with .html")
    return path / "index.html"


def check_named(runs: Sequence[Run], **metrics: tuple[str, str]) -> None:
    """Raise unless a metric that the user named is in the log of at least one run. The default metrics may be missing."""
    for argument, (metric, usual) in metrics.items():
        if metric != usual and not any(metric in logs for run in runs for logs in run.log):
            log = [logs for run in runs for logs in run.log]
            if "/" not in metric:  # without the hundreds of measurements, which would hide the evaluated metrics
                log = [{name: value for name, value in logs.items() if "/" not in name} for logs in log]
            with naming(runs):
                check_metrics(log, **{argument: metric})
