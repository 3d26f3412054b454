"""The page of still figures: `make_report` draws every figure with matplotlib into one HTML file without scripts.

`hf-radial report --static` writes it. `figures.py` and `compared.py` say which figures there are. The page leaves out missing
parts, and names them. The same files give the same page.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from string import Template

from hf_radial.report.canvas import DARK, DPI, LIGHT, Drawing
from hf_radial.report.compared import comparisons
from hf_radial.report.figures import figures_of
from hf_radial.report.resources import GLOSSARY, resource
from hf_radial.report.tables import facts, naming, notes, results, title_of
from hf_radial.runs.files import Group, Run, group_runs
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC

PAGE = "still.html"
DETAILED = 6  # groups of runs with their own figures; with more, the page is too large to send
CSS_PIXELS = 96


def make_report(
    runs: Sequence[Run],
    train_metric: str = TRAIN_METRIC,
    held_out_metric: str = HELD_OUT_METRIC,
    title: str | None = None,
) -> tuple[str, dict[str, Drawing]]:
    """The page of still figures as text, and its figures by name.

    Raises:
        ValueError: an accuracy is above 1.
        ImportError: matplotlib is not installed.
    """
    groups = group_runs(runs)
    sections = _sections(runs, groups, train_metric, held_out_metric)
    with naming(runs):
        table = results(groups, train_metric, held_out_metric)
    drawings: dict[str, Drawing] = {}
    body = []
    for i, (heading, of, parts) in enumerate(sections):
        body.append(f'<section id="figures-{i}">\n<h2>{escape(heading)}</h2>')
        if of:
            body.append(f'<p class="note">{escape(of)}</p>')
        for part, found in parts:
            if part:
                body.append(f"<h3>{escape(part)}</h3>")
            body.append('<div class="grid">')
            body += [_figure(name, drawing) for name, drawing in found.items()]
            body.append("</div>")
            drawings |= found
        if not parts:
            body.append('<p class="note">Nothing was logged or measured that could be drawn.</p>')
        body.append("</section>")
    contents = [("results", "When it grokked"), ("facts", "What was run")]
    contents += [(f"figures-{i}", heading) for i, (heading, _, _) in enumerate(sections)]
    contents.append(("glossary", "Glossary"))
    said = notes(runs, train_metric, held_out_metric)
    if len(groups) > DETAILED:
        rest = "; ".join(group.label for group in groups[DETAILED:])
        said.append(f"Figures in detail are of the first {DETAILED} settings; make reports of their own for: {rest}.")
    html = Template(resource(PAGE)).substitute(
        title=escape(title or title_of(runs)),
        contents="".join(f'<li><a href="#{place}">{escape(text)}</a></li>' for place, text in contents),
        results=table,
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in said),
        facts=facts(groups),
        figures="\n".join(body),
        glossary=resource(GLOSSARY),
    )
    return html, drawings


def drawings_of(
    runs: Sequence[Run], train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC
) -> dict[str, Drawing]:
    """The figures of that page by name, undrawn; raises as `make_report`."""
    drawings: dict[str, Drawing] = {}
    for _, _, parts in _sections(runs, group_runs(runs), train_metric, held_out_metric):
        for _, found in parts:
            drawings |= found
    return drawings


Parts = list[tuple[str, dict[str, Drawing]]]  # figures by heading


def _sections(
    runs: Sequence[Run], groups: Sequence[Group], train_metric: str, held_out_metric: str
) -> list[tuple[str, str, Parts]]:
    """Heading, a note, and the figures of every section."""
    made: list[tuple[str, str, list[tuple[str, list[Drawing]]]]] = []
    with naming(runs):
        if len(runs) > 1:
            compared = comparisons(groups, train_metric, held_out_metric)
            made.append(("All runs compared", "", [("", compared)] if compared else []))
        for group in groups[:DETAILED]:
            run = group.runs[0]
            heading = "Figures" if len(runs) == 1 else f"In detail: {group.label}"
            of = f"Drawn from the run {run.name}, one of {len(group.runs)} that differ only in their seed."
            made.append((heading, of if group.runs[1:] else "", figures_of(run, train_metric, held_out_metric)))
    taken: set[str] = set()
    sections: list[tuple[str, str, Parts]] = []
    for i, (heading, of, parts) in enumerate(made):
        named: Parts = []
        for part, drawings in parts:
            found = {_file_name(drawing.name if i == 0 else f"{i}_{drawing.name}", taken): drawing for drawing in drawings}
            named.append((part, found))
        sections.append((heading, of, named))
    return sections


def _figure(name: str, drawing: Drawing) -> str:
    sources = []
    for theme in (LIGHT, DARK):
        image = drawing.render(theme)
        sources.append("data:image/png;base64," + base64.b64encode(image).decode("ascii"))
    width, height = (int.from_bytes(image[i : i + 4], "big") * CSS_PIXELS // DPI for i in (16, 20))  # PNG's header has its size
    return (
        f'<figure id="{escape(name)}">\n<h4>{escape(drawing.title)}</h4>\n<picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{sources[1]}">'
        f'<img src="{sources[0]}" alt="{escape(drawing.alt)}" width="{width}" height="{height}" decoding="sync"></picture>\n'
        f"<figcaption>{escape(drawing.caption)}</figcaption>\n</figure>"
    )


def _file_name(name: str, taken: set[str]) -> str:
    """A name for a file and a link that is not yet taken; it is taken then."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    taken.add(unique)
    return unique
