"""The words and tables of a report: results of every run, what was run, and notes on what is missing. No figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from math import isfinite
from typing import Any

from hf_radial.runs.files import STATE_FILE, Group, Run, seed
from hf_radial.runs.onset import format_step, summarise

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


@contextmanager
def naming(runs: Sequence[Run]) -> Iterator[None]:
    """Put the runs' folders in front of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{', '.join(str(run.folder) for run in runs)}: {error}") from error


def title_of(runs: Sequence[Run]) -> str:
    """The title of a page about the runs."""
    return f"Report: {', '.join(run.name for run in runs[:4])}{' ...' if len(runs) > 4 else ''}"


def results(groups: Sequence[Group], train_metric: str, held_out_metric: str) -> str:
    """The table of fit, onset and delay as HTML, a row per run.

    Raises:
        ValueError: an accuracy is above 1.
    """
    rows = [_results_row(run, group, train_metric, held_out_metric) for group in groups for run in group.runs]
    return _table(RESULTS if len(rows) > 1 else [name for name in RESULTS if name != "settings"], rows)


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
        row["training, last"] = (percent(train.values[-1]), True)
    if len(held_out.steps):
        for threshold in (90, 99):
            row[f"onset at {threshold} %"] = (format_step(summary[f"onset_{threshold}"], summary["last_step"]), True)
        row["held-out, last"] = (percent(summary["last_held_out"]), True)
    if len(train.steps) and len(held_out.steps):
        at_fit, delay = summary["held_out_at_fit"], summary["delay_90"]
        row["held-out at the fit"] = ("?" if at_fit is None else percent(at_fit), True)
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


def percent(fraction: float) -> str:
    """Accuracy for a table: never rounded up to 100 %.

    >>> percent(0.99996), percent(1.0), percent(float("nan"))
    ('99.99 %', '100.00 %', 'not a number')
    """
    return f"{int(fraction * 10_000 + 1e-6) / 100:.2f} %" if isfinite(fraction) else "not a number"


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


def facts(groups: Sequence[Group]) -> str:
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


def notes(runs: Sequence[Run], train_metric: str, held_out_metric: str) -> list[str]:
    """What a reader has to know about the metrics, and which files are missing."""
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
    return notes


_NO_METRICS = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
