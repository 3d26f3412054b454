"""A grid file: the runs of a comparison, and how each method is tuned.

    title: What the penalty adds to tuned weight decay
    base: {task: modular, learning_rate: 1.0e-3, epochs: 300}     # options of every run
    axes: {train_fraction: [0.3, 0.5]}                            # every combination is a setting with its own results
    arms:                                                         # the methods: options, and the ranges to tune
      AdamW: {}
      penalty: {options: {interventions: ["radial:strength={strength}"]}, tune: {strength: {log: [1.0e-3, 1.0]}}}
      "ceiling of {radius}":                                      # one arm for each combination of `each`, named by it
        {each: {radius: [initial, sqrt_d]}, options: {interventions: ["radial:strength=1,side=above,radius={radius}"]}}
    seeds: [0, 1, 2, 3, 4]                                        # the judged seeds
    published: [{where: Table 2, setting: {train_fraction: 0.5}, arm: penalty, onset: 2460}]     # printed next to ours
    tuning:                                                       # the same budget for every arm; leave out to tune nothing
      trials: 20                                                  # each on `seeds`
      seeds: [100]
      finalists: 3                                                # this many of the best are also run on these seeds
      finalist_seeds: [101, 102]
      sampler_seed: 0                                             # of the draws; change it for an independent tuning
      common: {weight_decay: {log: [0.05, 5.0]}}                  # for every arm, unless its own `tune` has a range or null

With `replicates: 8` next to `tuning`, each arm is tuned and judged that many times at each setting, independently. Replicate r
has its own seeds, and so splits: the given seeds plus r thousand. Each search has its own sampler seed, derived from task, arm
and replicate. No search starts from another's result, and finalists are compared by their restricted mean time.

A second design, `paired`, tunes nothing, so it has no winner's curse. It draws the numbers that all arms share at random, with
a new seed for each draw, and runs every arm at each draw. It has `design` and `paired` instead of `seeds` and `tuning`:

    design: paired
    paired:
      draws: 40                                                   # for each setting, with a sampler seed of its own
      common: {learning_rate: {log: [1.0e-3, 0.1]}}
      cross: false                                                # true: every combination of choices, each `draws` times
      also_against: [LayerNorm]                                   # arms to compare with, besides the reference
      first_seed: 1000                                            # draw i has seed first_seed + i
      sampler_seed: 0

The values of an axis named `cell` set several options at once: `cell: [{task: modular, epochs: 300}, {task: groups}]`. A
setting's options replace the base's, and an arm's options replace both, also for interventions. Only `fields` are merged. If an
arm `follows` another, `{followed}` is the folder of that arm's run on the same seed, which is made first.

`{name}` in an arm's interventions stands for a tuned value.

In here: the file, and what must fit together in it. Not in here: the checks of single values (`grid_checks`), the draws
(`tuning`), the meaning of options (`run`) and how runs are made (`jobs`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from hf_radial.comparison.grid_checks import bounds, check_options, mapping, seeds_of, text, values_of, whole_number
from hf_radial.runs.text_files import check_known, read_yaml

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
    """The budget of every arm: `trials` trials, each on all of `seeds`. None of these seeds is judged.

    The best `finalists` are also run on `finalist_seeds`. The one with the best median over all seeds is judged. This reveals a
    trial that was lucky on one seed.
    """

    trials: int
    seeds: tuple[int, ...]
    common: dict[str, Any]
    finalists: int = 1
    finalist_seeds: tuple[int, ...] = ()
    sampler_seed: int = 0


@dataclass(frozen=True)
class Paired:
    """A design that tunes nothing: `draws` draws of the numbers that all arms share, each with its own seed."""

    draws: int
    common: dict[str, Any]
    first_seed: int = 1000
    sampler_seed: int = 0
    also_against: tuple[str, ...] = ()  # arms to compare with, besides the grid's reference
    cross: bool = False  # every combination of the choices in `common`, `draws` times each, instead of random draws


@dataclass(frozen=True)
class Arm:
    """One method: its options, which replace the base's, and the ranges to tune."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    tune: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """A comparison.

    Attributes:
        settings: the combinations of the axes; a single empty one for a grid without axes.
        reference: the arm that the others are compared with.
        published: published results: `where`, `setting` (options that identify it), `arm`, and `onset`, a number or words.
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
    replicates: int = 0  # 0: one tuning, and all searches use the grid's sampler seed
    replicate: int | None = None  # the number of this replicate, for a grid made by `replicate_of`


APART = 1000  # distance between the seeds of consecutive replicates


def replicate_of(grid: Grid, replicate: int) -> Grid:
    """The grid of one replicate, with its own seeds for tuning and judging. A grid without replicates is returned unchanged.

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
    """The seed of one search's draws: the grid's seed; for a replicate, one that depends on task, arm and replicate."""
    given = 0 if grid.tuning is None else grid.tuning.sampler_seed
    if grid.replicate is None:
        return given
    text = json.dumps([given, setting, arm, grid.replicate])
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big")


def read_grid(file: Path) -> Grid:
    """Read and check a grid file.

    Raises:
        ValueError: the file does not exist, or has an unknown key, no arms, no seeds, seeds that are both tuned on and judged,
            or an invalid range. The message names it.
    """
    if not file.is_file():
        raise ValueError(f"the grid file {str(file)!r} {'is a folder' if file.is_dir() else 'does not exist'}")
    data = read_yaml(file)
    if not isinstance(data, dict):
        raise ValueError(f"{file}: must hold a mapping with {', '.join(KEYS)}")
    check_known(data, KEYS, f"{file}: ", "key {}")
    paired = _paired(data, file)
    seeds = () if paired else seeds_of(file, "seeds", data.get("seeds"))
    base, arms = mapping(file, "base", data.get("base")), []
    for name, given in _arms(file, data).items():
        check_known(given, ("options", "tune"), f"{file}: arm {name!r}: ", "key {}")
        options, tune = (mapping(file, f"arm {name!r}: {key}", given.get(key)) for key in ("options", "tune"))
        arms.append(Arm(str(name), options, tune))
    if not arms:
        raise ValueError(f"{file}: arms is empty; name at least one method")
    axes = {name: values_of(file, f"axes: {name}", values) for name, values in mapping(file, "axes", data.get("axes")).items()}
    for name, values in axes.items():
        if twice := [value for value in values if values.count(value) > 1]:
            raise ValueError(f"{file}: axes: {name} has {twice[0]!r} {values.count(twice[0])} times; give each value once")
    for where, options in [("base", base), *((f"arm {arm.name!r}: options", arm.options) for arm in arms)]:
        mapping(file, f"{where}: fields", options.get("fields"))
    for values in axes.get("fields", ()):
        mapping(file, "axes: a value of fields", values)
    for values in axes.get("cell", ()):
        mapping(file, "axes: a value of cell", values)
    check_options(file, data, base, axes, arms)
    settings = tuple(_spread(dict(zip(axes, values, strict=True))) for values in product(*axes.values()))
    tuning = None
    if data.get("tuning"):
        given = mapping(file, "tuning", data["tuning"])
        check_known(given, TUNING_KEYS, f"{file}: tuning: ", "key {}")
        tuning = Tuning(
            whole_number(file, "tuning: trials", given.get("trials")),
            seeds_of(file, "tuning: seeds", given.get("seeds")),
            mapping(file, "tuning: common", given.get("common")),
            whole_number(file, "tuning: finalists", given.get("finalists", 1)),
            seeds_of(file, "tuning: finalist_seeds", given["finalist_seeds"]) if given.get("finalist_seeds") else (),
            whole_number(file, "tuning: sampler_seed", given.get("sampler_seed", 0), low=0),
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
                    f"{file}: {name} is tuned for arm {arm.name!r}, but its options or an axis already set it; "
                    f"give the arm tune: {{{name}: null}}, or take {name} out of tuning"
                )
    elif any(arm.tune for arm in arms):
        raise ValueError(f"{file}: an arm has something to tune, but there is no tuning with trials and seeds")
    replicates = whole_number(file, "replicates", data.get("replicates") or 0, low=0)
    if replicates:
        every = [*seeds, *(tuning.seeds + tuning.finalist_seeds if tuning else ())]
        if tuning is None or replicates < 2 or max(every) - min(every) >= APART:
            raise ValueError(
                f"{file}: replicates={replicates} must be at least 2, next to a tuning whose seeds are less than {APART} apart"
            )
    reference = data.get("reference", arms[0].name)
    if reference not in [arm.name for arm in arms]:
        raise ValueError(f"{file}: reference={reference!r} is not an arm; there are {', '.join(arm.name for arm in arms)}")
    published = tuple(values_of(file, "published", data["published"])) if data.get("published") else ()
    for item in published:
        if not isinstance(item, dict) or set(item) != {"where", "setting", "arm", "onset"}:
            raise ValueError(f"{file}: published: {item!r} must have where, setting, arm and onset")
        if item["arm"] not in [arm.name for arm in arms]:
            raise ValueError(
                f"{file}: published: {item['arm']!r} is not an arm; there are {', '.join(arm.name for arm in arms)}"
            )
    return Grid(
        file.stem.removeprefix("compare_"),
        text(file, "title", data.get("title", file.stem)),
        text(file, "question", data.get("question", "")),
        base,
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
    design, given = data.get("design"), data.get("paired")
    if design not in (None, "tuned", "paired"):
        raise ValueError(
            f"{file}: design={design!r} is unknown; give 'paired', or 'tuned', which is what a grid has without it"
        )
    if design == "paired" and not given:
        raise ValueError(
            f"{file}: design='paired' needs a section `paired` that says what is drawn, and it is "
            f"{'empty' if 'paired' in data else 'missing'}; for example "
            "paired: {draws: 20, common: {learning_rate: {log: [1.0e-3, 0.1]}}}"
        )
    if design != "paired" and "paired" in data:
        raise ValueError(
            f"{file}: the section `paired` has no effect in design={design or 'tuned'!r}; write design: paired, or leave "
            "the section out"
        )
    if not given:
        return None
    given = mapping(file, "paired", given)
    check_known(given, list(Paired.__dataclass_fields__), f"{file}: paired: ", "key {}")
    whole_number(file, "paired: draws", given.get("draws"))
    mapping(file, "paired: common", given.get("common"))
    for key in ("first_seed", "sampler_seed"):
        whole_number(file, f"paired: {key}", given.get(key, 0), low=0)
    if not isinstance(given.get("cross", False), bool):
        raise ValueError(f"{file}: paired: cross={given['cross']!r} must be true or false")
    if given.get("also_against"):
        values_of(file, "paired: also_against", given["also_against"])
    for key in ("seeds", "tuning"):
        if data.get(key):
            raise ValueError(f"{file}: {key} has no meaning in design='paired', whose draws have their own seeds; leave it out")
    arms = _arms(file, data)
    paired = Paired(**{"common": {}, **given, "also_against": tuple(given.get("also_against") or ())})
    for name in paired.also_against:
        if name not in arms:
            raise ValueError(f"{file}: paired: also_against: {name!r} is not an arm; there are {', '.join(arms)}")
    if not paired.common:
        raise ValueError(f"{file}: paired: common is empty; name what is drawn, such as learning_rate: {{log: [1.0e-3, 0.1]}}")
    for name, choice in paired.common.items():
        kind, _ = bounds(choice, f"{file}: {name}")
        if paired.cross and kind != "choices":
            raise ValueError(f"{file}: paired: cross needs {{choices: [...]}} for {name}, which has {choice!r}")
    for name, arm in arms.items():
        both = sorted(set(paired.common) & set(mapping(file, f"arm {name!r}: options", arm.get("options"))))
        if both or arm.get("tune"):
            raise ValueError(f"{file}: arm {name!r} has {both or 'tune'}, but in design='paired' all arms share what is drawn")
    return paired


def _arms(file: Path, data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arms by name. An arm with `each` stands for one arm for each combination of its values, which fill `{name}`."""
    arms: dict[str, dict[str, Any]] = {}
    for name, given in mapping(file, "arms", data.get("arms")).items():
        arm = mapping(file, f"arm {name!r}", given)
        each = mapping(file, f"arm {name!r}: each", arm.pop("each", None))
        values = [values_of(file, f"arm {name!r}: each: {key}", value) for key, value in each.items()]
        for key in each:
            if "{" + key + "}" not in name:
                raise ValueError(
                    f"{file}: arm {name!r} has {key} in `each`; put {{{key}}} into its name, so that its arms differ"
                )
        for combination in product(*values):
            filled = _filled([name, arm], dict(zip(each, combination, strict=True)))
            if filled[0] in arms:
                raise ValueError(f"{file}: arms: {filled[0]!r} is there twice; give each value of `each` once")
            arms[filled[0]] = filled[1]
    return arms


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """A value of a grid file in which `{name}` is replaced in all texts.

    >>> _filled({"a": ["{x}b", 1]}, {"x": 0.5})
    {'a': ['0.5b', 1]}
    """
    if isinstance(value, str):
        for name, one in values.items():
            value = value.replace("{" + name + "}", str(one))
        return value
    if isinstance(value, Mapping):
        return {key: _filled(one, values) for key, one in value.items()}
    return [_filled(one, values) for one in value] if isinstance(value, list) else value


def _spread(setting: dict[str, Any]) -> dict[str, Any]:
    """A setting in which the axis `cell`, several options at once, is replaced by these options."""
    inner = setting.pop("cell", None) or {}
    return {**setting, **inner}


def ranges_of(arm: Arm, tuning: Tuning) -> dict[str, Any]:
    """The ranges to tune for an arm: those of every arm, unless its own `tune` has another range or null, and its own."""
    return {name: choice for name, choice in {**tuning.common, **arm.tune}.items() if choice is not None}


# Runs -----------------------------------------------------------------------------------------------------------------


def run_options(grid: Grid, setting: Mapping[str, Any], arm: Arm, drawn: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The options of one run: base, setting, arm, what was drawn, and the seed.

    Raises:
        ValueError: a name in braces was not drawn, or `follows` does not name an arm that can be followed.
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
            return match[0]  # a folder: it is not known before the run
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
    """The name of a run's folder. It depends only on the options, not on the grid.

    >>> run_name({"task": "modular", "seed": 3})
    'modular-s3-f3466ea1b3'
    """
    text = json.dumps(options, sort_keys=True, default=str)
    task = re.sub(r"[^\w.-]", "-", str(options.get("task", "run")))  # MODULE:FUNCTION is not a name of a folder everywhere
    return f"{task}-s{options['seed']}-{sha256(text.encode()).hexdigest()[:10]}"
