"""A study of a sequence: its file, what each arm's tuning draws, and the runs to make. A run is a row.

In here: `read_study`, `jobs_of`, `run_job`. Not in here: what the rows say (`verdict`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from hf_radial.comparison.grid import bounds
from hf_radial.continual.sequence import Found, train_sequence
from hf_radial.continual.stack import SHARED, Options
from hf_radial.runs.retention import current, retention, retention_over_time, summary
from hf_radial.runs.text_files import read_yaml
from hf_radial.tasks.image_sequence import ImageSequenceConfig
from hf_radial.tasks.splits import random_generator, random_order

STAGES = ("published", "tuning", "judged", "long")
APART, JUDGED, PUBLISHED, LONG = 1000, 100, 500_000, 200  # distances between the seeds of replicates and of stages
TOGETHER = 40  # members of a stack
MATRICES = 10  # times at which all earlier tasks are measured, of a judged run
KEYS = {
    "title", "question", "criteria", "base", "replicates", "trials", "tuning_tasks", "judged_seeds", "least_current", "common",
    "arms", "published", "long",
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """A method: its fixed options, and the ranges of those that are tuned."""

    name: str
    options: dict[str, Any]
    tune: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study file. `arms` are tuned; `published` are run at given settings; `long` says how the best arms run again."""

    title: str
    question: str
    criteria: dict[str, str]
    base: dict[str, Any]
    replicates: int
    trials: int
    tuning_tasks: int
    judged_seeds: int
    least_current: float
    arms: tuple[Arm, ...]
    published: dict[str, Any]
    long: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """Members that are trained together.

    Attributes:
        keys: of each member, what its row is found by: stage, arm, replicate, trial, seed and drawn options.
        options: of each member.
    """

    stage: str
    tasks: int
    keys: tuple[dict[str, Any], ...]
    options: tuple[Options, ...] = field(repr=False)


def read_study(file: Path) -> Study:
    """Read and check a study file.

    Raises:
        ValueError: a key is unknown or missing, an option is none of `Options`, or a range is invalid.
    """
    data = read_yaml(file)
    if not isinstance(data, dict) or set(data) != KEYS:
        raise ValueError(f"{file}: must hold a mapping with the keys {', '.join(sorted(KEYS))}")
    arms = []
    known = {one.name for one in fields(Options)}
    for name, given in data["arms"].items():
        tune = {**data["common"], **given.get("tune", {})}
        for option in {*tune, *given.get("options", {})} - known:
            raise ValueError(f"{file}: arm {name!r}: {option!r} is no option; there are {', '.join(sorted(known))}")
        for option, choice in tune.items():
            kind, _ = bounds(choice, f"{file}: arm {name!r}: {option}")
            if kind != "log" or option in SHARED:
                raise ValueError(f"{file}: arm {name!r}: {option}={choice!r} must be {{log: [low, high]}} of a strength")
        arms.append(Arm(name, given.get("options", {}), tune))
    return Study(**{**{key: value for key, value in data.items() if key != "common"}, "arms": tuple(arms)})


def draws(arm: Arm, replicate: int, trials: int) -> list[dict[str, float]]:
    """A Latin hypercube: each range, on its log scale, is cut into `trials` equal parts, and each part has one draw.

    The draws of every arm and replicate are independent of all others.
    """
    seed = int.from_bytes(sha256(json.dumps([arm.name, replicate]).encode()).digest()[:6], "big")
    rng = random_generator(seed)
    columns = {}
    for name, choice in arm.tune.items():
        low, high = (math.log(end) for end in bounds(choice, name)[1])
        within = rng.integers(0, 2**32, size=trials) / 2**32
        shares = (random_order(rng, trials) + within) / trials
        columns[name] = [float(f"{math.exp(low + share * (high - low)):.4g}") for share in shares]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def score(row: Mapping[str, Any], least_current: float) -> float:
    """A trial's score, larger is better: its retention; below `least_current`, its current accuracy minus 1.

    >>> score({"retention": 0.3, "current": 0.95, "failed": False}, 0.92)
    0.3
    >>> round(score({"retention": 0.3, "current": 0.9, "failed": False}, 0.92), 2)
    -0.1
    """
    if row["failed"]:
        return -1.0
    return float(row["retention"] if row["current"] >= least_current else row["current"] - 1)


def best_trial(study: Study, rows: Sequence[Mapping[str, Any]], arm: str, replicate: int) -> dict[str, Any] | None:
    """The drawn options of the best trial; `None` while trials are missing."""
    own = [r for r in rows if (r["stage"], r["arm"], r["replicate"]) == ("tuning", arm, replicate)]
    if len(own) < study.trials:
        return None
    return dict(max(own, key=lambda row: score(row, study.least_current))["drawn"])


def jobs_of(study: Study, stage: str, rows: Sequence[Mapping[str, Any]], replicates: Sequence[int]) -> Iterator[Job]:
    """The runs of a stage that `rows` does not have, in stacks. A stage needs the rows of the stages before it."""
    done = {identity(row) for row in rows}
    tasks = study.tuning_tasks if stage == "tuning" else study.base["tasks"]
    if stage == "published":
        given = study.published
        for name, options in given["arms"].items():
            keys = [
                {"arm": name, "replicate": 0, "trial": None, "seed": PUBLISHED + i, "drawn": {**options, "learning_rate": rate}}
                for rate in given["learning_rates"]
                for i in range(given["seeds"])
            ]
            yield from _stacked(stage, given["tasks"], keys, {}, done)
        return
    if stage == "long":
        chosen = longest(study, rows)
        tasks = study.long["tasks"]
    for arm in study.arms:
        keys = []
        for replicate in replicates:
            seed = APART * replicate
            if stage == "tuning":
                for trial, drawn in enumerate(draws(arm, replicate, study.trials)):
                    keys.append({"arm": arm.name, "replicate": replicate, "trial": trial, "seed": seed, "drawn": drawn})
                continue
            if stage == "long" and arm.name not in chosen:
                continue
            best = best_trial(study, rows, arm.name, replicate)
            if best is None:
                continue
            first, count = (JUDGED, study.judged_seeds) if stage == "judged" else (LONG, study.long["seeds"])
            keys += [
                {"arm": arm.name, "replicate": replicate, "trial": None, "seed": seed + first + i, "drawn": best}
                for i in range(count)
            ]
        yield from _stacked(stage, tasks, keys, arm.options, done)


def longest(study: Study, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms that run longer: AdamW, and those with the best mean retention of the ones that store no images.

    Arms whose judged runs learn new tasks less well than tuning asked for are left out.
    """
    means = {}
    for arm in study.arms:
        own = [row for row in rows if row["stage"] == "judged" and row["arm"] == arm.name]
        enough = own and float(np.mean([row["current"] for row in own])) >= study.least_current
        if enough and not arm.options.get("replay") and arm.name != study.arms[0].name:
            means[arm.name] = float(np.mean([row["retention"] for row in own]))
    return [study.arms[0].name, *sorted(means, key=lambda name: -means[name])[: study.long["arms"]]]


def _stacked(
    stage: str, tasks: int, keys: Sequence[dict[str, Any]], fixed: Mapping[str, Any], done: Collection[str]
) -> Iterator[Job]:
    every = [{"stage": stage, "tasks": tasks, **key} for key in keys]
    left = [key for key in every if identity(key) not in done]
    for start in range(0, len(left), TOGETHER):
        own = tuple(left[start : start + TOGETHER])
        yield Job(stage, tasks, own, tuple(Options(**{**fixed, **key["drawn"]}) for key in own))


def identity(row: Mapping[str, Any]) -> str:
    """What a run is found by."""
    names = ("stage", "tasks", "arm", "replicate", "trial", "seed", "drawn")
    return json.dumps([row[name] for name in names], sort_keys=True)


def run_job(study: Study, job: Job) -> tuple[list[dict[str, Any]], list[Found]]:
    """Train the members of a job; returns a row and the measurements of each."""
    config = ImageSequenceConfig(change=study.base["change"], tasks=job.tasks)
    full, split = job.stage != "tuning", "validation" if job.stage == "tuning" else "test"
    began, cpu = time.time(), time.process_time()
    found = train_sequence(
        config,
        [(key["seed"], options) for key, options in zip(job.keys, job.options, strict=True)],
        epochs=study.base["epochs"],
        batch_size=study.base["batch_size"],
        hidden_size=study.base["hidden_size"],
        split=split,
        full=full,
        matrix_every=max(1, job.tasks // MATRICES),
    )
    cost = {
        "members": len(found),
        "seconds": round((time.time() - began) / len(found), 2),
        "cpu_seconds": round((time.process_time() - cpu) / len(found), 2),
    }
    rows = [
        {**key, "options": _given(options), "split": split, **numbers(one, full), **cost}
        for key, options, one in zip(job.keys, job.options, found, strict=True)
    ]
    return rows, found


def _given(options: Options) -> dict[str, Any]:
    plain = Options()
    return {name: value for name, value in asdict(options).items() if value != getattr(plain, name)}


def numbers(one: Found, full: bool) -> dict[str, Any]:
    """What a row says of one member. Lists have one number a task (`retention_over_time` from the second task on)."""
    a = one.accuracy
    last = {"current": current(a), "retention": retention(a)}
    row: dict[str, Any] = {name: round(value, 5) for name, value in last.items()}
    row |= {"failed": one.failed, "online": round(float(np.mean(one.online)), 5)}
    if not full:
        return row
    row |= {name: round(value, 5) for name, value in summary(np.nan_to_num(a)).items() if name not in row}
    row |= {"current_of_task": _rounded(np.diag(a)), "kept_of_task": _rounded(a[-1])}
    over_time = [None if np.isnan(a[i + 1, 0]) else value for i, value in enumerate(retention_over_time(np.nan_to_num(a)))]
    row["retention_over_time"] = [None if value is None else round(value, 5) for value in over_time]
    row |= {"online_of_task": _rounded(one.online), "steps_to_90": one.steps_to_level}
    for name in ("dead", "effective_rank", "radius", "weight_norm"):
        row[name] = {where: _rounded(values, 4) for where, values in getattr(one, name).items()}
    return row


def _rounded(values: Sequence[float] | np.ndarray[Any, Any], digits: int = 5) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]
