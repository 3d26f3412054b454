"""Data, page and figures of a study of a sequence, from its rows: `NAME.json`, `NAME.parquet`, `NAME.md` and PNGs.

Tables are functions of the rows, so that `recipes/tables.py` can put them into the documentation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hf_radial.comparison.replicates import at_edge
from hf_radial.comparison.times import range_text
from hf_radial.continual.study import Study
from hf_radial.continual.verdict import Difference, better, compare, direction, values_of
from hf_radial.report.continual import heat_map, over_tasks
from hf_radial.safe_files import replacing, write_bytes, write_text

Row = Mapping[str, Any]
FIRST = LAST = 10  # tasks that "early" and "late" average over
PENALTIES = ("penalty, initial radius", "penalty, paper's radius")
L2 = "L2 to initial weights"
LEVEL = 90


def arms_of(rows: Sequence[Row], stage: str) -> list[str]:
    """Arms with runs of a stage, in the order of their mean retention."""
    arms = dict.fromkeys(row["arm"] for row in rows if row["stage"] == stage)
    return sorted(arms, key=lambda arm: -_mean(rows, stage, arm, "retention"))


def _mean(rows: Sequence[Row], stage: str, arm: str, name: str, **same: Any) -> float:
    found = values_of(rows, stage, arm, name, **same)
    return float(np.mean([np.mean(list(own.values())) for own in found.values()]))


def derived(row: Row) -> dict[str, float]:
    """Plasticity and state of a judged run, as single numbers."""
    current, steps = row["current_of_task"], row["steps_to_90"]
    learned = [step for step in steps if step is not None]
    last = max(row["dead"])  # the last hidden layer
    return {
        "early": float(np.mean(current[1 : FIRST + 1])),
        "late": float(np.mean(current[-LAST:])),
        "learned_share": len(learned) / len(steps),
        "steps": float(np.median([10**9 if step is None else step for step in steps[-LAST:]])),
        "dead_last": float(np.mean(row["dead"][last][-LAST:])),
        "rank_last": float(np.mean(row["effective_rank"][last][-LAST:])),
        "radius_last": float(np.mean(row["radius"][last][-LAST:])),
        "weights_last": float(np.sqrt(sum(norms[-1] ** 2 for norms in row["weight_norm"].values()))),
    }


def with_derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows, the judged ones with the numbers of `derived`."""
    return [{**row, **derived(row)} if "current_of_task" in row else dict(row) for row in rows]


def interval(found: Difference | None, digits: int = 3) -> str:
    """`+0.012 (0.004 to 0.020)`."""
    if found is None:
        return "–"
    return f"{found.value:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"


def judged_table(rows: Sequence[Row], reference: str, stage: str = "judged") -> str:
    """A row an arm: retention, what it is against the reference, current accuracy, plasticity, and the state of the network."""
    head = (
        f"| arm | retention | against {reference} (95 %) | current accuracy | forgetting | first {FIRST} tasks | last {LAST} | "
        f"steps to {LEVEL} %, last {LAST} | dead units | effective rank | radius | replicates |"
    )
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    rows = with_derived(rows)
    for arm in arms_of(rows, stage):
        mean = {name: _mean(rows, stage, arm, name) for name in ("retention", "current", "forgetting", "early", "late")}
        mean |= {name: _mean(rows, stage, arm, name) for name in ("dead_last", "rank_last", "radius_last")}
        all_steps = [value for own in values_of(rows, stage, arm, "steps").values() for value in own.values()]
        steps = float(np.median(all_steps))
        against = "" if arm == reference else interval(compare(rows, stage, arm, reference, "retention"))
        cells = [
            arm,
            f"{mean['retention']:.3f}",
            against,
            *(f"{mean[name]:.3f}" for name in ("current", "forgetting", "early", "late")),
            "never" if steps > 10**8 else f"{steps:.0f}",
            f"{100 * mean['dead_last']:.0f} %",
            f"{mean['rank_last']:.1f}",
            f"{mean['radius_last']:.1f}",
            str(len(values_of(rows, stage, arm, "retention"))),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def published_table(rows: Sequence[Row], study: Study) -> str:
    """A row a learning rate and arm of the settings that are given rather than tuned."""
    names = list(study.published["arms"])
    lines = [
        "| learning rate | arm | retention | against the first (95 %) | current accuracy | dead units | radius | seeds |",
        "|" + "---|" * 8,
    ]
    rows = with_derived(rows)
    for rate in study.published["learning_rates"]:
        for arm in names:
            found = values_of(rows, "published", arm, "retention", learning_rate=rate)
            if not found:
                continue
            mean = {name: _mean(rows, "published", arm, name, learning_rate=rate) for name in ("retention", "current")}
            mean |= {name: _mean(rows, "published", arm, name, learning_rate=rate) for name in ("dead_last", "radius_last")}
            against = (
                "" if arm == names[0] else interval(compare(rows, "published", arm, names[0], "retention", learning_rate=rate))
            )
            seeds = sum(map(len, found.values()))
            lines.append(
                f"| {rate:g} | {arm} | {mean['retention']:.3f} | {against} | {mean['current']:.3f} | "
                f"{100 * mean['dead_last']:.0f} % | {mean['radius_last']:.1f} | {seeds} |"
            )
    return "\n".join(lines) + "\n"


def verdicts(rows: Sequence[Row], study: Study) -> list[dict[str, Any]]:
    """Each question of the study file with its answer and the differences that it rests on."""
    names = list(study.published["arms"])
    found: list[dict[str, Any]] = []
    pairs = []
    for rate in study.published["learning_rates"]:
        both = [compare(rows, "published", names[1], names[0], name, learning_rate=rate) for name in ("retention", "current")]
        if both[0] is not None and both[1] is not None:
            pairs.append((rate, both[0], both[1]))
    if pairs:
        answer = direction([(retention, current) for _, retention, current in pairs])
        for rate, retention, current in pairs:
            found.append(
                _verdict("direction", f"lambda 3e-3, paper's radius, learning rate {rate:g}", answer, retention, current)
            )
    for question, ours, theirs in (
        ("initial", PENALTIES[0], PENALTIES[1]),
        ("against_l2_init", PENALTIES[0], L2),
        ("against_l2_init", PENALTIES[1], L2),
    ):
        more, also = (compare(rows, "judged", ours, theirs, name) for name in ("retention", "current"))
        if more is not None and also is not None:
            found.append(_verdict(question, f"{ours} against {theirs}", better(more, also), more, also))
    return found


def _verdict(question: str, what: str, answer: str, retention: Difference, current: Difference) -> dict[str, Any]:
    return {"question": question, "what": what, "answer": answer, "retention": asdict(retention), "current": asdict(current)}


def answers_table(rows: Sequence[Row], study: Study) -> str:
    """The answers, as a table."""
    lines = ["| question | compared | retention (95 %) | sign-flip p | current accuracy (95 %) | answer |", "|" + "---|" * 6]
    for one in verdicts(rows, study):
        retention, current = Difference(**one["retention"]), Difference(**one["current"])
        p = f"{retention.p_value:.2g}"
        lines.append(
            f"| {one['question']} | {one['what']} | {interval(retention)} | {p} | {interval(current)} | **{one['answer']}** |"
        )
    return "\n".join(lines) + "\n"


def tuned_table(rows: Sequence[Row], study: Study) -> str:
    """What tuning led to in each replicate, how many trials kept to the current accuracy, and values at an end of a range."""
    lines = [
        "| arm | ranges | tuned values, a replicate each | trials with enough current accuracy | at an end |",
        "|" + "---|" * 5,
    ]
    for arm in study.arms:
        judged = [row for row in rows if row["stage"] == "judged" and row["arm"] == arm.name]
        drawn = {row["replicate"]: row["drawn"] for row in judged}
        if not drawn:
            continue
        trials = [row for row in rows if row["stage"] == "tuning" and row["arm"] == arm.name]
        enough = sum(row["current"] >= study.least_current for row in trials)
        ranges = "; ".join(f"{name} {range_text(choice)}" for name, choice in arm.tune.items())
        values = "; ".join(", ".join(f"{value:.2g}" for value in own.values()) for own in drawn.values())
        edges = [edge for own in drawn.values() for edge in at_edge(own, arm.tune)]
        at = ", ".join(f"{edge} ({edges.count(edge)})" for edge in dict.fromkeys(edges)) or "–"
        lines.append(f"| {arm.name} | {ranges} | {values} | {enough} of {len(trials)} | {at} |")
    return "\n".join(lines) + "\n"


def lines_over_tasks(
    rows: Sequence[Row], stage: str, name: str, site: bool = False
) -> dict[str, tuple[list[int], list[float]]]:
    """Arm -> tasks and the mean over its runs of a list in its rows; `site`: of the last hidden layer."""
    found = {}
    for arm in arms_of(rows, stage):
        own = [row for row in rows if row["stage"] == stage and row["arm"] == arm]
        lists = [row[name][max(row[name])] if site else row[name] for row in own]
        values = np.array(lists, dtype=float).mean(0)
        first = 2 if name == "retention_over_time" else 1
        tasks = [first + i for i in range(len(values)) if np.isfinite(values[i])]
        found[arm] = (tasks, [float(value) for value in values[np.isfinite(values)]])
    return found


def figures(rows: Sequence[Row], matrices: Mapping[str, Any], stage: str, names: Sequence[str]) -> list[Any]:
    """Figures of a stage; `names` are the arms of the heat map."""
    made = [
        over_tasks(
            lines_over_tasks(rows, stage, "retention_over_time"),
            f"{stage}_retention",
            "What is kept of earlier tasks",
            "mean accuracy on earlier tasks",
            "Means over replicates and seeds. Chance is 0.1.",
        ),
        over_tasks(
            {
                arm: (tasks, _smooth(values))
                for arm, (tasks, values) in lines_over_tasks(rows, stage, "current_of_task").items()
            },
            f"{stage}_current",
            "How well a new task is learned",
            "accuracy on a task right after it",
            "Means over replicates and seeds, and over five neighbouring tasks. A line that falls is a loss of plasticity.",
        ),
        over_tasks(
            lines_over_tasks(rows, stage, "dead", site=True),
            f"{stage}_dead",
            "Units that never answer",
            "share of dead units, last hidden layer",
            "Means over replicates and seeds.",
        ),
    ]
    shown = {arm: matrices[arm] for arm in names if arm in matrices}
    return [*made, heat_map(shown)] if shown else made


def _smooth(values: Sequence[float], width: int = 5) -> list[float]:
    half = width // 2
    return [float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]


def matrices_in(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The accuracy matrix of every run that was measured in full, by the run's `identity`."""
    import pyarrow.parquet as pq

    found = {}
    if (folder / "matrices.parquet").is_file():
        for row in pq.read_table(folder / "matrices.parquet").to_pylist():
            matrix = np.full((row["tasks"], row["tasks"]), np.nan)
            matrix[row["after"], row["task"]] = row["accuracy"]
            found[row["run"]] = matrix
    if (folder / "matrices.jsonl").is_file():  # of runs since the table was written
        for line in (folder / "matrices.jsonl").read_text().splitlines():
            data = json.loads(line)
            matrix = np.full((len(data["accuracy"]), len(data["accuracy"])), np.nan)
            for i, own in enumerate(data["accuracy"]):
                matrix[i, : i + 1] = [np.nan if a is None else a for a in own]
            found[data["run"]] = matrix
    return found


def first_matrices(folder: Path, stage: str, tasks: int) -> dict[str, np.ndarray[Any, Any]]:
    """Arm -> the matrix of its first run in a stage."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for run, matrix in matrices_in(folder).items():
        where, length, arm = json.loads(run)[:3]
        if (where, length) == (stage, tasks):
            found.setdefault(arm, matrix)
    return found


def page(study: Study, rows: Sequence[Row], environment: Mapping[str, Any]) -> str:
    """The page of a study."""
    counts = {stage: sum(row["stage"] == stage for row in rows) for stage in dict.fromkeys(row["stage"] for row in rows)}
    cpu = sum(row["cpu_seconds"] for row in rows)
    reference = study.arms[0].name
    base = study.base
    tasks = base["tasks"]
    lines = [
        f"# {study.title}",
        "",
        study.question,
        "",
        f"Each task: the 1,797 digits of scikit-learn (1,200 to train on, 297 for validation, 300 to test on), their pixels "
        f"in a new order, {base['epochs']} epochs in batches of {base['batch_size']}; an MLP with two hidden layers of "
        f"{base['hidden_size']}, one AdamW throughout, constant learning rate, no name of the task. {tasks} tasks. Definitions "
        "of the numbers: `hf_radial.runs.retention`.",
        "",
        f"Each arm is tuned {study.replicates} times, each time with {study.trials} draws of a Latin hypercube on the first "
        f"{study.tuning_tasks} tasks: the most retention on validation images among trials with a current accuracy of at least "
        f"{study.least_current}. {study.judged_seeds} new seeds judge each tuning, on test images. Differences are over pairs "
        "of runs of one seed; their intervals resample replicates and seeds.",
        "",
        *_fewer(rows, study),
        "Runs: " + ", ".join(f"{count} {stage}" for stage, count in counts.items()) + f"; {cpu / 60:.0f} CPU minutes.",
        "",
        "## Answers",
        "",
        *(f"- **{name}**: {text}" for name, text in study.criteria.items()),
        "",
        answers_table(rows, study),
        f"## Tuned, {tasks} tasks",
        "",
        judged_table(rows, reference),
        "![retention](judged_retention.png)",
        "![current accuracy](judged_current.png)",
        "![dead units](judged_dead.png)",
        "![tasks by time](judged_task_by_time.png)",
        "",
        "## Given settings",
        "",
        published_table(rows, study),
    ]
    if counts.get("long"):
        lines += [
            f"## {study.long['tasks']} tasks",
            "",
            judged_table(rows, reference, "long"),
            "![retention](long_retention.png)",
            "",
        ]
    lines += ["## Tuning", "", tuned_table(rows, study)]
    lines += [f"Made on {environment['machine']}, {environment['versions']}.", ""]
    return "\n".join(lines)


def _fewer(rows: Sequence[Row], study: Study) -> list[str]:
    """What was not made, in words."""
    made = {arm: len(values_of(rows, "judged", arm, "retention")) for arm in arms_of(rows, "judged")}
    few = [f"{arm} ({count})" for arm, count in made.items() if count < study.replicates]
    none = [arm.name for arm in study.arms if arm.name not in made]
    lines = [f"Fewer replicates, for want of time: {', '.join(few)}."] if few else []
    lines += [f"Not made, for want of time: {', '.join(none)}."] if none else []
    return [*lines, ""] if lines else []


def write_page(study: Study, rows: Sequence[Row], folder: Path) -> None:
    """Write data, page and figures. The tidy table has a row for each number that a judged run has for each task."""
    environment = json.loads((folder / "environment.json").read_text())
    text = {"title": study.title, "verdicts": verdicts(rows, study), "environment": environment, "runs": len(rows)}
    write_text(folder.with_suffix(".json"), json.dumps(text, indent=1) + "\n")
    write_text(folder.with_suffix(".md"), page(study, rows, environment).replace("](", f"]({folder.name}/"))
    _write_tidy(rows, folder)
    _write_matrices(folder)
    for stage, tasks in (("judged", study.base["tasks"]), ("long", study.long["tasks"])):
        if any(row["stage"] == stage for row in rows):
            names = [arm.name for arm in study.arms][:4]
            for figure in figures(rows, first_matrices(folder, stage, tasks), stage, names):
                name = f"{stage}_{figure.name}" if figure.name == "task_by_time" else figure.name
                write_bytes(folder / f"{name}.png", figure.render(titled=True))


def _write_tidy(rows: Sequence[Row], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {
        name: [] for name in ("stage", "arm", "replicate", "seed", "learning_rate", "metric", "site", "task", "value")
    }
    names = {"current_of_task": "current", "kept_of_task": "kept", "steps_to_90": "steps_to_90", "online_of_task": "online"}
    for row in rows:
        if "current_of_task" not in row:
            continue
        series = [(short, "", row[name]) for name, short in names.items()]
        series += [
            (name, site, values)
            for name in ("dead", "effective_rank", "radius", "weight_norm")
            for site, values in row[name].items()
        ]
        for metric, site, values in series:
            for task, value in enumerate(values):
                given = (
                    row["stage"],
                    row["arm"],
                    row["replicate"],
                    row["seed"],
                    row["drawn"]["learning_rate"],
                    metric,
                    site,
                    task,
                )
                for column, one in zip(columns.values(), (*given, None if value is None else float(value)), strict=True):
                    column.append(one)
    with replacing(folder.with_suffix(".parquet")) as new:
        pq.write_table(pa.table(columns), new, compression="zstd")


def _write_matrices(folder: Path) -> None:
    """One row a run, with the measured entries as lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for run, matrix in matrices_in(folder).items():
        after, task = np.nonzero(np.isfinite(matrix))
        numbers = {"after": after.tolist(), "task": task.tolist(), "accuracy": matrix[after, task].tolist()}
        rows.append({"run": run, "tasks": len(matrix), **numbers})
    with replacing(folder / "matrices.parquet") as new:
        pq.write_table(pa.Table.from_pylist(rows), new, compression="zstd")
