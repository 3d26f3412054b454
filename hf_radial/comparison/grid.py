"""A grid file: which runs a comparison has, and how each method is tuned.

    title: What the penalty adds to tuned weight decay
    base: {task: modular, learning_rate: 1.0e-3, epochs: 300}     # options of every run
    axes: {train_fraction: [0.3, 0.5]}                            # every combination is a setting, judged by itself
    arms:                                                         # the methods: options, and what is tuned of each
      AdamW: {}
      penalty: {options: {interventions: ["radial:strength={strength}"]}, tune: {strength: {log: [1.0e-3, 1.0]}}}
    seeds: [0, 1, 2, 3, 4]                                        # judged on these
    published: [{where: Table 2, setting: {train_fraction: 0.5}, arm: penalty, onset: 2460}]     # printed beside ours
    tuning:                                                       # the same budget for every arm; leave out to tune nothing
      trials: 20                                                  # each on `seeds`
      seeds: [100]
      finalists: 3                                                # so many of the best are run on these seeds, too
      finalist_seeds: [101, 102]
      sampler_seed: 0                                             # of the draws; another one for a tuning to be made again
      common: {weight_decay: {log: [0.05, 5.0]}}                  # of every arm, unless its own `tune` has a range or null

With `replicates: 8` beside `tuning`, everything of an arm and a setting is made that often from the start. Replicate r has its
own seeds, and so splits: r thousand above the given ones. Each search has its own sampler seed, made of task, arm and
replicate. No search begins at another's result, and finalists are chosen by their restricted mean time.

A second design, `paired`, tunes nothing and has no winner's curse: random draws of what all arms share, each with a fresh seed,
and every arm at each draw. It has `design` and `paired` in the place of `seeds` and `tuning`:

    design: paired
    paired:
      draws: 40                                                   # for each setting, with a sampler seed of its own
      common: {learning_rate: {log: [1.0e-3, 0.1]}}
      cross: false                                                # true: every combination of choices, each `draws` times
      also_against: [LayerNorm]                                   # beside the reference
      first_seed: 1000                                            # draw i has seed first_seed + i
      sampler_seed: 0

The values of an axis named `cell` are several options at once: `cell: [{task: modular, epochs: 300}, {task: groups}]`.
A setting's options take the place of the base's, and an arm's those of both, interventions too; only `fields` are put together.
An arm that `follows` another has in `{followed}` the folder of that arm's run on the same seed, which is made first.

In here: the file and its checks. `{name}` in an arm's interventions stands for what is tuned of it. Not in here: what is drawn
(`tuning`), what an option means (`run`) and how runs are made (`jobs`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from hf_radial.runs.text_files import read_yaml

KEYS = (
    "title",
    "question",
    "base",
    "axes",
    "arms",
    "seeds",
    "tuning",
    "replicates",
    "design",
    "paired",
    "reference",
    "published",
)
TUNING_KEYS = ("trials", "seeds", "finalists", "finalist_seeds", "sampler_seed", "common")


@dataclass(frozen=True)
class Tuning:
    """The budget of every arm: so many trials, each on all of these seeds, of which none is judged.

    The best `finalists` of them are run on `finalist_seeds` as well, and the best of these by the median over all is judged: a
    trial that had luck on one seed is found out.
    """

    trials: int
    seeds: tuple[int, ...]
    common: dict[str, Any]
    finalists: int = 1
    finalist_seeds: tuple[int, ...] = ()
    sampler_seed: int = 0


@dataclass(frozen=True)
class Paired:
    """A design that tunes nothing: so many draws of what all arms share, each with a seed of its own."""

    draws: int
    common: dict[str, Any]
    first_seed: int = 1000
    sampler_seed: int = 0
    also_against: tuple[str, ...] = ()  # arms to compare with, beside the grid's reference
    cross: bool = False  # every combination of the choices in `common`, `draws` times each, instead of random draws


@dataclass(frozen=True)
class Arm:
    """One method: its options on top of the base's, and the ranges of what is tuned of it."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    tune: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """A comparison.

    Attributes:
        settings: the axes' combinations; of a grid without axes, one that is empty.
        reference: the arm to which the others are compared.
        published: what others report: `where`, `setting` (options that tell it), `arm`, and `onset`, a number or words.
    """

    name: str
    title: str
    question: str
    base: dict[str, Any]
    settings: tuple[dict[str, Any], ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    tuning: Tuning | None
    reference: str
    published: tuple[dict[str, Any], ...] = ()
    paired: Paired | None = None
    replicates: int = 0  # 0: one tuning, whose searches share the sampler's seed
    replicate: int | None = None  # which one this is, of a grid made by `replicate_of`


APART = 1000  # seeds of one replicate and those of the next


def replicate_of(grid: Grid, replicate: int) -> Grid:
    """The grid of one replicate: its own seeds, to tune on and to judge. A grid without replicates is its only one.

    >>> grid = Grid("x", "", "", {}, ({},), (Arm("a"),), (0, 1), Tuning(2, (9,), {}), "a", replicates=3)
    >>> replicate_of(grid, 2).seeds, replicate_of(grid, 2).tuning.seeds
    ((2000, 2001), (2009,))
    """
    if not grid.replicates or grid.tuning is None:
        return grid
    more = APART * replicate
    tuning = replace(
        grid.tuning,
        seeds=tuple(seed + more for seed in grid.tuning.seeds),
        finalist_seeds=tuple(seed + more for seed in grid.tuning.finalist_seeds),
    )
    return replace(grid, seeds=tuple(seed + more for seed in grid.seeds), tuning=tuning, replicate=replicate)


def replicates_of(grid: Grid) -> list[Grid]:
    """All replicates of a grid."""
    return [replicate_of(grid, i) for i in range(max(1, grid.replicates))]


def sampler_seed(grid: Grid, setting: str, arm: str) -> int:
    """The seed of one search's draws: the grid's, or of a replicate one of its own for each task and arm."""
    given = 0 if grid.tuning is None else grid.tuning.sampler_seed
    if grid.replicate is None:
        return given
    text = json.dumps([given, setting, arm, grid.replicate])
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big")


def read_grid(file: Path) -> Grid:
    """Read and check a grid file.

    Raises:
        ValueError: it does not exist, has a key that means nothing, no arms or seeds, seeds that are both tuned on and judged,
            or a range that is none; the message names it.
    """
    if not file.is_file():
        raise ValueError(f"the grid file {str(file)!r} {'is a folder' if file.is_dir() else 'does not exist'}")
    data = read_yaml(file)
    if not isinstance(data, dict):
        raise ValueError(f"{file}: must hold a mapping with {', '.join(KEYS)}")
    _known(file, "", data, KEYS)
    paired = _paired(data, file)
    seeds = () if paired else _seeds(file, "seeds", data.get("seeds"))
    arms = []
    for name, given in _mapping(file, "arms", data.get("arms")).items():
        given = _mapping(file, f"arm {name!r}", given)
        _known(file, f"arm {name!r}: ", given, ("options", "tune"))
        options, tune = (_mapping(file, f"arm {name!r}: {key}", given.get(key)) for key in ("options", "tune"))
        arms.append(Arm(str(name), options, tune))
    if not arms:
        raise ValueError(f"{file}: arms is empty; name at least one method")
    axes = {name: _list(file, f"axes: {name}", values) for name, values in _mapping(file, "axes", data.get("axes")).items()}
    for values in axes.get("cell", ()):
        _mapping(file, "axes: a value of cell", values)
    settings = tuple(_spread(dict(zip(axes, values, strict=True))) for values in product(*axes.values()))
    tuning = None
    if data.get("tuning"):
        given = _mapping(file, "tuning", data["tuning"])
        _known(file, "tuning: ", given, TUNING_KEYS)
        tuning = Tuning(
            _count(file, "tuning: trials", given.get("trials")),
            _seeds(file, "tuning: seeds", given.get("seeds")),
            _mapping(file, "tuning: common", given.get("common")),
            _count(file, "tuning: finalists", given.get("finalists", 1)),
            _seeds(file, "tuning: finalist_seeds", given["finalist_seeds"]) if given.get("finalist_seeds") else (),
            _count(file, "tuning: sampler_seed", given.get("sampler_seed", 0), low=0),
        )
        all_seeds = [*tuning.seeds, *tuning.finalist_seeds]
        both = sorted(set(all_seeds) & set(seeds))
        if both or tuning.trials < 1 or not tuning.seeds or len(set(all_seeds)) < len(all_seeds):
            raise ValueError(
                f"{file}: tuning needs a trial and a seed, each seed once, and none that is judged: seeds in both are {both}"
            )
        if not 1 <= tuning.finalists <= tuning.trials:
            raise ValueError(f"{file}: tuning: finalists={tuning.finalists} must be from 1 to the number of trials")
        for ranges in (tuning.common, *(arm.tune for arm in arms)):
            for name, choice in ranges.items():
                if choice is not None:
                    bounds(choice, f"{file}: {name}")
        for arm in arms:
            for name in sorted(
                set(ranges_of(arm, tuning)) & {*arm.options, *(name for setting in settings for name in setting)}
            ):
                raise ValueError(
                    f"{file}: {name} is tuned for arm {arm.name!r}, but its options or an axis say what it is; "
                    f"give the arm tune: {{{name}: null}}, or take {name} out of tuning"
                )
    elif any(arm.tune for arm in arms):
        raise ValueError(f"{file}: an arm has something to tune, but there is no tuning with trials and seeds")
    replicates = int(data.get("replicates") or 0)
    if replicates:
        every = [*seeds, *(tuning.seeds + tuning.finalist_seeds if tuning else ())]
        if tuning is None or replicates < 2 or max(every) - min(every) >= APART:
            raise ValueError(
                f"{file}: replicates={replicates} must be at least 2, beside a tuning whose seeds are less than {APART} apart"
            )
    reference = data.get("reference", arms[0].name)
    if reference not in [arm.name for arm in arms]:
        raise ValueError(f"{file}: reference={reference!r} is no arm; there are {', '.join(arm.name for arm in arms)}")
    published = tuple(_list(file, "published", data["published"])) if data.get("published") else ()
    for item in published:
        if not isinstance(item, dict) or set(item) != {"where", "setting", "arm", "onset"}:
            raise ValueError(f"{file}: published: {item!r} must have where, setting, arm and onset")
        if item["arm"] not in [arm.name for arm in arms]:
            raise ValueError(f"{file}: published: {item['arm']!r} is no arm; there are {', '.join(arm.name for arm in arms)}")
    return Grid(
        file.stem.removeprefix("compare_"),
        _text(file, "title", data.get("title", file.stem)),
        _text(file, "question", data.get("question", "")),
        _mapping(file, "base", data.get("base")),
        settings,
        tuple(arms),
        seeds,
        tuning,
        reference,
        published,
        paired,
        replicates,
    )


def _paired(data: Mapping[str, Any], file: Path) -> Paired | None:
    """The paired design of a grid file, checked; `None` if it has none."""
    design, given = data.get("design", "tuned"), data.get("paired")
    if design not in ("tuned", "paired") or (design == "paired") is not bool(given):
        raise ValueError(f"{file}: design={design!r} must be 'paired', with a mapping `paired`, or be left out, without one")
    if not given:
        return None
    given = _mapping(file, "paired", given)
    _known(file, "paired: ", given, list(Paired.__dataclass_fields__))
    _count(file, "paired: draws", given.get("draws"))
    _mapping(file, "paired: common", given.get("common"))
    for key in ("seeds", "tuning"):
        if data.get(key):
            raise ValueError(f"{file}: {key} has no meaning in design='paired', whose draws have their own seeds; leave it out")
    paired = Paired(**{"common": {}, **given, "also_against": tuple(given.get("also_against") or ())})
    for name in paired.also_against:
        if name not in (data.get("arms") or {}):
            raise ValueError(f"{file}: paired: also_against: {name!r} is no arm; there are {', '.join(data.get('arms') or {})}")
    if not paired.common:
        raise ValueError(f"{file}: paired: common is empty; name what is drawn, such as learning_rate: {{log: [1.0e-3, 0.1]}}")
    for name, choice in paired.common.items():
        kind, _ = bounds(choice, f"{file}: {name}")
        if paired.cross and kind != "choices":
            raise ValueError(f"{file}: paired: cross needs {{choices: [...]}} for {name}, which has {choice!r}")
    for name, arm in (data.get("arms") or {}).items():
        both = sorted(set(paired.common) & set((arm or {}).get("options") or {}))
        if both or (arm or {}).get("tune"):
            raise ValueError(f"{file}: arm {name!r} has {both or 'tune'}, but in design='paired' all arms share what is drawn")
    return paired


def _known(file: Path, where: str, given: Mapping[Any, Any], keys: Sequence[str]) -> None:
    for key in given:
        if key not in keys:
            near = get_close_matches(str(key), keys, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ";"
            raise ValueError(f"{file}: {where}unknown key {key!r}{meant} there are {', '.join(keys)}")


def _mapping(file: Path, name: str, value: Any) -> dict[str, Any]:
    """A mapping whose keys are texts; an empty one for nothing."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{file}: {name}={value!r} must be a mapping, such as {{name: value}}, whose names are texts")
    return dict(value)


def _text(file: Path, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{file}: {name}={value!r} must be a text; put it in quotes")
    return value


def _list(file: Path, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{file}: {name}={value!r} must be a list of at least one value")
    return value


def _count(file: Path, name: str, value: Any, low: int = 1) -> int:
    if type(value) is not int or value < low:
        raise ValueError(f"{file}: {name}={value!r} must be a whole number of at least {low}")
    return value


def _seeds(file: Path, name: str, value: Any) -> tuple[int, ...]:
    seeds = value if isinstance(value, list) else []
    whole = all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"{file}: {name}={value!r} must be a list of at least one seed, each once, such as [0, 1, 2]: whole numbers from 0 "
            "to 2**32 - 1"
        )
    return tuple(seeds)


def _spread(setting: dict[str, Any]) -> dict[str, Any]:
    """A setting whose axis `cell`, several options at once, is those options."""
    inner = setting.pop("cell", None) or {}
    return {**setting, **inner}


def ranges_of(arm: Arm, tuning: Tuning) -> dict[str, Any]:
    """What is tuned of an arm: what is tuned of every arm, unless its own `tune` has another range or null, and its own."""
    return {name: choice for name, choice in {**tuning.common, **arm.tune}.items() if choice is not None}


def bounds(choice: Any, name: str) -> tuple[str, list[Any]]:
    """The kind of a range, and its ends or values.

    Raises:
        ValueError: it is none; the message has its `name`.

    >>> bounds({"log": [0.1, 10]}, "weight_decay")
    ('log', [0.1, 10.0])
    """
    kind, values = next(iter(choice.items())) if isinstance(choice, Mapping) and len(choice) == 1 else (None, None)
    if kind == "choices" and isinstance(values, list) and values:
        return kind, values
    if kind in ("log", "linear") and isinstance(values, list) and len(values) == 2:
        numbers = [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(numbers) == 2 and -math.inf < numbers[0] < numbers[1] < math.inf and (kind == "linear" or numbers[0] > 0):
            return kind, numbers
    raise ValueError(
        f"{name}: {choice!r} must be {{log: [low, high]}} with 0 < low < high, {{linear: [low, high]}} with low < high, or "
        "{choices: [...]}; YAML reads 1e-3 as text, so write 1.0e-3"
    )


# Runs -----------------------------------------------------------------------------------------------------------------


def run_options(grid: Grid, setting: Mapping[str, Any], arm: Arm, drawn: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The options of one run: base, setting, arm, what was drawn, and the seed.

    Raises:
        ValueError: something in braces was not drawn, or `follows` names no arm that can be followed.
    """
    options = {**grid.base, **setting, **arm.options, "seed": seed}
    if "fields" in options:
        options["fields"] = {
            name: value for part in (grid.base, setting, arm.options) for name, value in part.get("fields", {}).items()
        }
    if "follows" in options:
        options["follows"] = _followed(grid, setting, arm, options["follows"], seed)
    used = set()

    def fill(match: re.Match[str]) -> str:
        if match[1] == "followed" and "follows" in options:
            return match[0]  # a folder, which is not known before the run
        if match[1] not in drawn:
            raise ValueError(f"arm {arm.name!r}: {match[0]} is not tuned; give it a range under tune")
        used.add(match[1])
        return str(drawn[match[1]])

    if "interventions" in options:
        options["interventions"] = [re.sub(r"\{(\w+)\}", fill, text) for text in options["interventions"]]
    return {**options, **{name: value for name, value in drawn.items() if name not in used}}


def _followed(grid: Grid, setting: Mapping[str, Any], arm: Arm, name: str, seed: int) -> str:
    """The run of arm `name` on the same seed."""
    other = next((one for one in grid.arms if one.name == name), None)
    if other is None or "follows" in other.options or grid.tuning is not None:
        raise ValueError(
            f"arm {arm.name!r}: follows={name!r} must name an arm that follows none itself, in a grid without tuning"
        )
    return run_name(run_options(grid, setting, other, {}, seed))


def run_name(options: Mapping[str, Any]) -> str:
    """The name of a run's folder: the same for the same options, whatever grid asks for them.

    >>> run_name({"task": "modular", "seed": 3})
    'modular-s3-f3466ea1b3'
    """
    text = json.dumps(options, sort_keys=True, default=str)
    return f"{options.get('task', 'run')}-s{options['seed']}-{sha256(text.encode()).hexdigest()[:10]}"
