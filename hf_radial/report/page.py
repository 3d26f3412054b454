"""One page about runs: `write_report` makes a single HTML file that holds all figures and needs neither network nor scripts.

`hf_radial.runs.files` reads the runs' files, `hf_radial.runs.onset` summarises them, and `figures.py` draws them. The page
leaves out missing parts, and names them. The same files give the same page.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from hf_radial.report.canvas import DARK, DPI, LIGHT, Drawing
from hf_radial.report.compared import comparisons
from hf_radial.report.figures import figures_of
from hf_radial.runs.files import STATE_FILE, Group, Run, group_runs, read_runs, seed
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, check_metrics, format_step, summarise
from hf_radial.safe_files import write_bytes, write_text

PAGE = "report.html"
FIGURES = "figures"
KINDS = ("png", "svg")
DETAILED = 6  # groups of runs with their own figures; with more, the page is too large to send
CSS_PIXELS = 96


def write_report(
    folders: Sequence[str | Path],
    out: str | Path | None = None,
    figures: Sequence[str] = (),
    train_metric: str = TRAIN_METRIC,
    held_out_metric: str = HELD_OUT_METRIC,
    title: str | None = None,
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

    Raises:
        FileNotFoundError: a folder is no run.
        ValueError: a file cannot be read, no run has a metric that was named, or a kind of figure is not known.
        ImportError: matplotlib is not installed.
    """
    for kind in figures:
        if kind not in KINDS:
            raise ValueError(f"figures={kind!r} must be one of {', '.join(KINDS)}")
    runs = read_runs(folders)
    _check_named(runs, train_metric=(train_metric, TRAIN_METRIC), held_out_metric=(held_out_metric, HELD_OUT_METRIC))
    page = _page_path(runs, out)
    html, drawings = make_report(runs, train_metric, held_out_metric, title)
    write_text(page, html)
    for kind in dict.fromkeys(figures):
        for name, drawing in drawings.items():
            write_bytes(page.parent / FIGURES / f"{name}.{kind}", drawing.render(LIGHT, kind, titled=True))
    return page


def make_report(
    runs: Sequence[Run],
    train_metric: str = TRAIN_METRIC,
    held_out_metric: str = HELD_OUT_METRIC,
    title: str | None = None,
) -> tuple[str, dict[str, Drawing]]:
    """The page as text, and its figures by name; raises as `write_report`."""
    groups = group_runs(runs)
    sections: list[tuple[str, str, list[tuple[str, list[Drawing]]]]] = []  # heading, a note, figures by heading
    try:
        if len(runs) > 1:
            compared = comparisons(groups, train_metric, held_out_metric)
            sections.append(("All runs compared", "", [("", compared)] if compared else []))
        for group in groups[:DETAILED]:
            run = group.runs[0]
            heading = "Figures" if len(runs) == 1 else f"In detail: {group.label}"
            of = (
                f"Drawn from the run {run.name}, one of {len(group.runs)} that differ only in their seed."
                if group.runs[1:]
                else ""
            )
            sections.append((heading, of, figures_of(run, train_metric, held_out_metric)))
        rows = [_results_row(run, group, train_metric, held_out_metric) for group in groups for run in group.runs]
    except ValueError as error:
        raise ValueError(f"{', '.join(str(run.folder) for run in runs)}: {error}") from error

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
            for drawing in found:
                name = _file_name(drawing.name if i == 0 else f"{i}_{drawing.name}", drawings)
                drawings[name] = drawing
                body.append(_figure(name, drawing))
            body.append("</div>")
        if not parts:
            body.append('<p class="note">Nothing was logged or measured that could be drawn.</p>')
        body.append("</section>")
    contents = [("results", "When it grokked"), ("facts", "What was run")]
    contents += [(f"figures-{i}", heading) for i, (heading, _, _) in enumerate(sections)]
    contents.append(("glossary", "Glossary"))
    html = Template(files("hf_radial.report").joinpath(PAGE).read_text(encoding="utf-8")).substitute(
        title=escape(title or f"Report: {', '.join(run.name for run in runs[:4])}{' ...' if len(runs) > 4 else ''}"),
        contents="".join(f'<li><a href="#{place}">{escape(text)}</a></li>' for place, text in contents),
        results=_table(RESULTS if len(groups) < len(runs) or len(runs) > 1 else [n for n in RESULTS if n != "settings"], rows),
        notes=_notes(runs, groups, train_metric, held_out_metric),
        facts=_facts(groups),
        figures="\n".join(body),
    )
    return html, drawings


RESULTS = [
    "run",
    "settings",
    "seed",
    "fit (training 99 %)",
    "held-out at the fit",
    "onset at 90 %",
    "onset at 99 %",
    "delay (to 90 %)",
    "training, last",
    "held-out, last",
]


def _results_row(run: Run, group: Group, train_metric: str, held_out_metric: str) -> dict[str, tuple[str, bool]]:
    """One run's row of the results: cell -> (text, whether it is a number). `?` marks what the log does not tell."""
    train, held_out = run.logged(train_metric), run.logged(held_out_metric)
    row = dict.fromkeys(RESULTS, ("not logged", False))
    row |= {
        "run": (run.name, False),
        "settings": (group.label, False),
        "seed": ("?" if seed(run) is None else str(seed(run)), True),
    }
    # Each metric is enough for its half of the summary.
    summary: dict[str, Any] = {}
    if len(train.steps) or len(held_out.steps):
        one = train_metric if len(train.steps) else held_out_metric
        other = held_out_metric if len(held_out.steps) else train_metric
        summary = summarise(run.log, one, other)
    if len(train.steps):
        row["fit (training 99 %)"] = (format_step(summary["fit_step"], train.steps[-1]), True)
        row["training, last"] = (_percent(train.values[-1]), True)
    if len(held_out.steps):
        for percent in (90, 99):
            row[f"onset at {percent} %"] = (format_step(summary[f"onset_{percent}"], summary["last_step"]), True)
        row["held-out, last"] = (_percent(summary["last_held_out"]), True)
    if len(train.steps) and len(held_out.steps):
        at_fit, delay = summary["held_out_at_fit"], summary["delay_90"]
        row["held-out at the fit"] = ("?" if at_fit is None else _percent(at_fit), True)
        if delay is not None:
            told = f"{delay:,} steps"
            if summary["delay_90_epochs"] is not None:
                told += f" ({summary['delay_90_epochs']:,.4g} epochs)"
        elif summary["fit_step"] is not None:
            told = f"more than {summary['last_step'] - summary['fit_step']:,} steps"
        else:
            told = "no fit"
        row["delay (to 90 %)"] = (told, True)
    return row


def _percent(fraction: float) -> str:
    """Accuracy for a table: never rounded up to 100 %.

    >>> _percent(0.99996), _percent(1.0), _percent(0.5)
    ('99.99 %', '100.00 %', '50.00 %')
    """
    return f"{int(fraction * 10_000 + 1e-6) / 100:.2f} %"


def _table(columns: Sequence[str], rows: Sequence[dict[str, tuple[str, bool]]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = []
    for row in rows:
        cells = [f'<th scope="row">{escape(row[columns[0]][0])}</th>']
        for name in columns[1:]:
            text, number = row[name]
            cells.append(f'<td class="number">{escape(text)}</td>' if number else f"<td>{escape(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="results"><thead><tr>{head}</tr></thead>\n<tbody>{"".join(lines)}</tbody></table>'


def _facts(groups: Sequence[Group]) -> str:
    """The facts about the runs, one column per group; common facts appear once."""
    told = {name: [_told(get, group) for group in groups] for name, get in FACTS.items()}
    lines = []
    if len(groups) > 1:
        lines.append("<tr><th></th>" + "".join(f'<th scope="col">{escape(group.label)}</th>' for group in groups) + "</tr>")
    for name, values in told.items():
        if not any(values):
            continue
        if len(set(values)) == 1:
            span = f' colspan="{len(groups)}"' if len(groups) > 1 else ""
            cells = f"<td{span}>{escape(values[0])}</td>"
        else:
            cells = "".join(f"<td>{escape(value or 'not recorded')}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def _told(get: Callable[[Run], Any], group: Group) -> str:
    values = [value for value in map(get, group.runs) if value not in (None, "")]
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _of(part: str, name: str) -> Callable[[Run], Any]:
    def get(run: Run) -> Any:
        value = run.record.get(part, {}).get(name)
        return f"{value:g}" if isinstance(value, float) else value

    return get


def _task(run: Run) -> str:
    facts = run.record.get("facts", {})
    return ", ".join(str(facts[name]) for name in ("task", "config", "dataset") if facts.get(name))


def _model(run: Run) -> str:
    model = run.record.get("model", {})
    parameters = model.get("parameters")
    return f"{model.get('class', '')}{f', {parameters:,} parameters' if isinstance(parameters, int) else ''}"


def _versions(run: Run) -> str:
    environment = run.record.get("environment", {})
    found = [f"{name} {version}" for name, version in (environment.get("versions") or {}).items() if version]
    return ", ".join(found)


def _machine(run: Run) -> str:
    machine = run.record.get("environment", {}).get("machine") or {}
    return ", ".join(str(machine[name]) for name in ("device", "system") if machine.get(name))


def _duration(run: Run) -> str:
    seconds = next((logs["train_runtime"] for logs in reversed(run.log) if "train_runtime" in logs), None)
    if not isinstance(seconds, (int, float)):
        return ""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} hours" if hours >= 2 else f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.0f} seconds"


def _steps(run: Run) -> str:
    return f"{max(logs['step'] for logs in run.log):,}" if run.log else ""


FACTS: dict[str, Callable[[Run], Any]] = {
    "model": _model,
    "task": _task,
    "trainer": lambda run: run.record.get("trainer"),
    "penalty lambda": _of("radial", "radial_lambda"),
    "penalty variant": _of("radial", "variant"),
    "weight decay": _of("training_args", "weight_decay"),
    "optimizer": _of("training_args", "optim"),
    "learning rate": _of("training_args", "learning_rate"),
    "schedule": _of("training_args", "lr_scheduler_type"),
    "batch size": _of("training_args", "per_device_train_batch_size"),
    "accumulation": _of("training_args", "gradient_accumulation_steps"),
    "processes": lambda run: run.record.get("processes"),
    "seeds": seed,
    "last step": _steps,
    "duration": _duration,
    "machine": _machine,
    "versions": _versions,
    "revision": _of("environment", "revision"),
    "folder": lambda run: run.name,
}


def _notes(runs: Sequence[Run], groups: Sequence[Group], train_metric: str, held_out_metric: str) -> str:
    notes = [f"Training accuracy is {train_metric}, held-out accuracy {held_out_metric}, each at evaluations only."]
    for run in runs:
        if not run.log:
            notes.append(f"{run.name} has no {STATE_FILE} yet, so that only its geometry is shown.")
            continue
        missing = [name for name in (train_metric, held_out_metric) if not any(name in logs for logs in run.log)]
        if missing:
            has = sorted({name for logs in run.log for name in logs if name.startswith("eval_")} - _NO_METRICS)
            others = f" It has {', '.join(has[:12])}; name others with --train_metric and --held_out_metric." if has else ""
            notes.append(f"The log of {run.name} lacks {' and '.join(missing)}.{others}")
    foreign = [run.name for run in runs if run.foreign_record]
    if foreign:
        notes.append(
            f"The run.json of {', '.join(foreign)} is of another run in the same folder: it tells of a RadialTrainer, whose "
            "radial_lambda the log lacks. Its settings are left out; give every run a folder of its own."
        )
    unrecorded = [run.name for run in runs if not run.record and not run.foreign_record]
    if unrecorded:
        notes.append(f"No run.json, as hf_radial writes it, and so no settings: {', '.join(unrecorded)}.")
    if not any(run.measured for run in runs):
        notes.append("No geometry was measured; add GeometryCallback to a Trainer to see it here.")
    if len(groups) > DETAILED:
        rest = "; ".join(group.label for group in groups[DETAILED:])
        notes.append(f"Figures in detail are of the first {DETAILED} settings; make reports of their own for: {rest}.")
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


_NO_METRICS = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


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


def _file_name(name: str, taken: dict[str, Drawing]) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique


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


def _check_named(runs: Sequence[Run], **named: tuple[str, str]) -> None:
    """Raise unless a metric that the user named is in the log of at least one run. The default metrics may be missing."""
    for argument, (metric, usual) in named.items():
        if metric != usual and not any(metric in logs for run in runs for logs in run.log):
            log = [logs for run in runs for logs in run.log]
            if "/" not in metric:  # without the hundreds of measurements, which would hide the evaluated metrics
                log = [{name: value for name, value in logs.items() if "/" not in name} for logs in log]
            try:
                check_metrics(log, **{argument: metric})
            except ValueError as error:
                raise ValueError(f"{', '.join(str(run.folder) for run in runs)}: {error}") from None
