"""Tables of README.md and docs/ that are made from committed data: `python recipes/tables.py` rewrites all of them.

A page marks the place of a table with its name. What stands between the two marks is replaced:

    <!-- harmless -->
    <!-- end -->

`TABLES` maps each name to the function that makes its table. The data are in recipes/results/.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
from hf_radial.comparison import matched_onset as matched_onset_of  # noqa: E402
from hf_radial.comparison.paired_page import main_table  # noqa: E402
from hf_radial.comparison.propositions import readme_table  # noqa: E402
from hf_radial.comparison.replicated_page import by_setting_table, over_settings, over_settings_table  # noqa: E402
from hf_radial.comparison.table import onset_cell, overview, summary  # noqa: E402
from hf_radial.comparison.times import short  # noqa: E402
from hf_radial.safe_files import write_text  # noqa: E402
from recipes import one_default as one_default_of  # noqa: E402
from recipes import which_length as which_length_of  # noqa: E402

RESULTS = ROOT / "recipes" / "results"
MARKED = re.compile(r"^<!-- (?!end -->)(\w+) -->\n(.*?)^<!-- end -->$", re.S | re.M)
# Comparisons that are shown on a page: the grid, and which of its arms (`None` for all).
COMPARED: dict[str, Sequence[str] | None] = {
    "replicated": None,
    "replicated_more": None,
    "replicated_wide": None,
    "anew": None,
    "paired": None,
    "rivals_2026": None,
    "tuned": None,
    "beyond": None,
    "decay": None,
    "scarce": None,
    "transformer": None,
    "transformer_replicated": None,
    "batch": None,
    "controls": None,
}
WITH_FIT = {"anew"}  # their cells are "fit / onset"
LONGEST_ROW = 150  # characters of an example row


def pages() -> list[Path]:
    """The README and every committed page of the documentation."""
    return [ROOT / "README.md", *sorted(file for file in (ROOT / "docs").rglob("*.md") if not is_made(file))]


def is_made(file: Path) -> bool:
    """Whether a page is written when the site is built, from the code or from a page elsewhere."""
    folder = file.relative_to(ROOT / "docs").parts[0]
    return folder in ("repository", "errors.md") or (folder == "methods" and file.name != "index.md")


def comparison(name: str) -> dict[str, Any]:
    """A committed comparison: its grid, and a row for every run."""
    return json.loads((RESULTS / "compare" / f"{name}.json").read_text())


def compared(name: str) -> str:
    """Median onsets of a comparison: a row an arm, a column a setting."""
    data = comparison(name)
    if data.get("paired"):
        return main_table(data)
    if data.get("replicates"):
        return by_setting_table(data)
    return overview(summary(data["rows"], data["reference"]), COMPARED[name], fit=name in WITH_FIT)


def one_default() -> str:
    """Whether one strength is right for each task of the grid `default`."""
    return one_default_of.table(comparison("default")["rows"])


def which_length() -> str:
    """Which layer, which side, and whether it is the scale of the logits: the answers for each setting of the grid `length`."""
    return which_length_of.answer_table(comparison("length")["rows"])


def verdict() -> str:
    """Every arm tuned again and again, at seven tasks: how often it never got there, and by what factor it is earlier."""
    names = {"LayerNorm, last layer": "LayerNorm of the last layer", "initial radius": "penalty, initial radius"}
    names |= {"paper's radius": "penalty, the paper's radius"}
    references = ["AdamW", "LayerNorm"]
    rows = [row for name in ("replicated", "replicated_more") for row in comparison(name)["rows"]]
    return over_settings_table(over_settings(rows, references), references, names)


def tuned_to() -> str:
    """The options that the search of `anew` chose for the initial radius, and the result on the judged seeds."""
    data = comparison("anew")
    lines = ["| setting | tuned to | median onset, epochs |", "|---|---|---|"]
    for entry in summary(data["rows"], data["reference"]):
        if entry["arm"] == "penalty, initial radius":
            names = {**entry["drawn"], "radial_lambda": entry["drawn"]["strength"]}
            drawn = ", ".join(f"{name} {value:g}" for name, value in names.items() if name != "strength")
            cells = [short(entry["setting"]), drawn, onset_cell(entry)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def help_or_harm() -> str:
    """Fit and onset of a penalty that helps, and of some that do not."""
    return _recipe("help_or_harm").table(json.loads((RESULTS / "help_or_harm.json").read_text()))


def addition_cpu() -> str:
    """Medians of the study of 3-digit addition."""
    study = _recipe("addition_study")
    return study.readme_table(json.loads((RESULTS / "addition_cpu.json").read_text()))


def addition_by_size(kind: str) -> str:
    """3-digit addition by size: the onsets, the ratios with the onset at other levels, or the largest size in short."""
    recipe = _recipe("addition_size")
    rows = recipe.Study("addition_nanogpt_cpu", Path("runs"), RESULTS / "addition_nanogpt_cpu").rows()
    if not rows:
        return "Not yet run.\n"
    if kind == "levels":
        return str(recipe.sizes.levels_table(rows, recipe.NO_PENALTY))
    if kind == "largest":
        return str(recipe.sizes.short_table(rows, list(recipe.SIZES)[-1], recipe.NO_PENALTY, recipe.PAPER))
    return str(recipe.sizes.table(rows, recipe.NO_PENALTY, recipe.PAPER))


def geometry_study() -> str:
    """What six runs say of the paper's propositions."""
    return readme_table(json.loads((RESULTS / "geometry_study.json").read_text())["arms"])


def matched_onset(kind: str) -> str:
    """The answers to the three propositions on five seeds, or what was measured at the onset."""
    rows = json.loads((RESULTS / "matched_onset.json").read_text())["rows"]
    return matched_onset_of.answer_table(rows) if kind == "answers" else matched_onset_of.number_table(rows, ["onset"])


def lines_of(name: str) -> str:
    """The lines of tables of a page of recipes/results."""
    lines = (RESULTS / f"{name}.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("|")) + "\n"


def benchmarks() -> str:
    """The targets of speed and memory, and what was measured."""
    from benchmarks.run import targets
    from benchmarks.table import markdown

    return markdown(targets(json.loads((RESULTS / "benchmarks.json").read_text()))).strip() + "\n"


def architectures() -> str:
    """In how many architectures of transformers the sites are found and right."""
    worker = _file(ROOT / "tests" / "support" / "architectures_worker.py")
    return worker.summary(worker.load())


def tasks() -> str:
    """All tasks, with their sources."""
    from hf_radial.tasks.load import TASKS, builder_class

    lines = ["| task | what | source | on the shelf, such as |", "|---|---|---|---|"]
    for task in TASKS.ours:
        builder = builder_class(task)
        what = builder.SUMMARY.rstrip(".")
        lines.append(f"| `{task}` | {what} | {builder.SOURCE} | {len(builder.SHELF)}: `{builder.SHELF[0]}` |")
    return "\n".join(lines) + "\n"


def task_cards() -> str:
    """A card for every task, of the first configuration on its shelf: its rows are made again for this."""
    from tempfile import TemporaryDirectory

    from hf_radial.tasks.load import TASKS

    with TemporaryDirectory() as folder:
        return "\n".join(task_card(task, folder) for task in TASKS)


def task_card(task: str, cache_dir: str) -> str:
    """What a task's first configuration on the shelf holds, and how it is loaded."""
    from hf_radial.tasks.load import builder_class
    from hf_radial.tasks.show import describe_task

    builder = builder_class(task)
    about = describe_task(task, builder.SHELF[0], cache_dir=cache_dir)
    config, splits, leaks = about["config"], about["splits"], about["leakage"]
    row = repr(splits["train"]["first"])
    row = (row if len(row) <= LONGEST_ROW else f"{row[:LONGEST_ROW]} …").replace("|", "\\|")
    shared = "plain text: the splits are consecutive parts"
    if leaks is not None:
        shared = f"{leaks['ordered']:,}"
        if "commuted" in leaks:
            shared += f"; operands that an earlier split has in another order: {leaks['commuted']:,}"
    about_it = {
        "configuration": f"`{config}`, one of {len(builder.SHELF)} on the shelf",
        "first training row": f"`{row}`",
        "rows": ", ".join(f"{split} {part['rows']:,}" for split, part in splits.items()),
        "rows in two splits": shared,
        "checksum of the training rows": f"`{splits['train']['checksum'][:16]}…`",
        "source": about["source"],
        "made here": f'`load_task("{task}", "{config}")`',
        "put on a Hub": f"`hf-radial publish dataset {task} --config {config} --repo ORG/NAME`",
        "loaded from there": f'`load_dataset("ORG/NAME", "{config}")`',
    }
    lines = [f"### {task}", "", about["description"], "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in about_it.items())]) + "\n"


def options() -> str:
    """The options that `RadialArguments` adds to `TrainingArguments`, with their defaults."""
    from dataclasses import fields

    from transformers import TrainingArguments

    from hf_radial.training_args import RadialArguments

    inherited = {one.name for one in fields(TrainingArguments)} - {"report_to"}
    lines = ["| option | what it does | default |", "|---|---|---|"]
    for one in sorted(fields(RadialArguments), key=lambda one: one.name == "report_to"):  # ours before the one that we change
        if one.name not in inherited:
            default = "none" if one.default is None else f"`{one.default}`"
            lines.append(f"| `--{one.name}` | {one.metadata['help']} | {default} |")
    return "\n".join(lines) + "\n"


def interventions() -> str:
    """All interventions: name, and the first sentence of the file that holds it."""
    lines = ["| name | what it does |", "|---|---|"]
    for name, kind in intervention_classes().items():
        document = sys.modules[kind.__module__].__doc__ or ""
        lines.append(f"| `{name}` | {' '.join(document.split(chr(10) * 2)[0].split())} |")
    return "\n".join(lines) + "\n"


def intervention_classes() -> dict[str, Any]:
    """The class of every intervention of this package by its name."""
    from hf_radial.interventions import INTERVENTIONS

    return {name: INTERVENTIONS[name] for name in INTERVENTIONS.ours}


def sequence(kind: str) -> str:
    """A table of the study of a sequence of tasks."""
    from hf_radial.continual import page
    from hf_radial.continual.study import read_study

    study = read_study(ROOT / "recipes" / "configs" / "sequence.yaml")
    rows = [json.loads(line) for line in (RESULTS / "sequence" / "rows.jsonl").read_text().splitlines()]
    if kind in ("judged", "long"):
        return page.judged_table(rows, study.arms[0].name, kind)
    return getattr(page, f"{kind}_table")(rows, study)


TABLES: dict[str, Callable[[], str]] = {
    "one_default": one_default,
    "which_length": which_length,
    **{f"compare_{name}": partial(compared, name) for name in COMPARED},
    "verdict": verdict,
    "tuned_to": tuned_to,
    "help_or_harm": help_or_harm,
    "addition_cpu": addition_cpu,
    "addition_nanogpt_cpu": partial(addition_by_size, "onsets"),
    "addition_levels": partial(addition_by_size, "levels"),
    "addition_largest": partial(addition_by_size, "largest"),
    "geometry_study": geometry_study,
    "matched_onset": partial(matched_onset, "answers"),
    "matched_onset_numbers": partial(matched_onset, "numbers"),
    "geometry_cost": partial(lines_of, "geometry_cost"),
    "harmless": partial(lines_of, "harmless"),
    "harmless_generated": partial(lines_of, "harmless_generated"),
    "harmless_large": partial(lines_of, "harmless_10.6M"),
    "harmless_generated_large": partial(lines_of, "harmless_generated_10.6M"),
    "harmless_tuned": partial(lines_of, "harmless_tuned"),
    "task_speed": partial(lines_of, "task_speed"),
    "trainers": partial(lines_of, "trainers"),
    "versions": partial(lines_of, "versions"),
    "charting_libraries": partial(lines_of, "charting_libraries"),
    "benchmarks": benchmarks,
    "architectures": architectures,
    **{f"sequence_{kind}": partial(sequence, kind) for kind in ("answers", "judged", "published", "long", "tuned")},
    "tasks": tasks,
    "task_cards": task_cards,
    "interventions": interventions,
    "options": options,
}


@cache
def table(name: str) -> str:
    """The table of this name, as it should stand on a page.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in TABLES:
        raise ValueError(f"there is no table {name!r}; a mark is one of {', '.join(TABLES)}")
    return TABLES[name]()


def filled(text: str) -> str:
    """The text of a page with the current version of every marked table.

    Raises:
        ValueError: a mark names a table that does not exist.
    """
    return MARKED.sub(lambda found: f"<!-- {found[1]} -->\n{table(found[1])}<!-- end -->", text)


def write() -> list[Path]:
    """Fill every page; returns those that changed."""
    changed = []
    for page in pages():
        text = page.read_text()
        if (new := filled(text)) != text:
            write_text(page, new)
            changed.append(page)
    return changed


def _recipe(name: str) -> Any:
    return import_module(f"recipes.{name}")


@cache
def _file(path: Path) -> Any:
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


if __name__ == "__main__":
    for page in write():
        print(page.relative_to(ROOT))
