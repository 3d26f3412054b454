"""Where recipes, presets, grids, accelerate configurations, committed comparisons and the templates of cards are."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

RECIPES = ("addition", "modular", "compare", "sweep")  # those that are installed with the package


def recipes_folder() -> Path:
    """The folder of the recipes: in the package where it was installed from a wheel, beside the package in a checkout."""
    return _shipped_folder("recipes")


def card_template(name: str) -> str:
    """The text of a template of model_cards/, also in a checkout that is not installed."""
    return (_shipped_folder("model_cards") / name).read_text(encoding="utf-8")


def _shipped_folder(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    return package / name if (package / name).is_dir() else package.parent / name


def comparisons_folder() -> Path:
    """The folder of the committed comparisons, one JSON file each."""
    return recipes_folder() / "results" / "compare"


def shipped_file(option: str, given: str, folder: Path, prefix: str = "") -> Path:
    """The file that a user means: a path, or the name of a YAML file in `folder`.

    Args:
        option: for the message.
        given: a path, or a name without prefix and ending.
        folder: where files with names are.
        prefix: what the names of these files begin with.

    Raises:
        ValueError: there is no such file; the message lists the names.

    >>> shipped_file("--config_file", "cpu", recipes_folder() / "accelerate").name
    'cpu.yaml'
    """
    if Path(given).is_file():
        return Path(given)
    names = {file.stem.removeprefix(prefix): file for file in sorted(folder.glob(f"{prefix}*.yaml"))}
    if given in names:
        return names[given]
    near = get_close_matches(given, names, 1)
    meant = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(names)}"
    raise ValueError(f"{option} {given!r} is neither a file nor a name; {meant}")
