"""The README's tables of comparisons: which grids, and which of their arms (`None` for all)."""

TABLES: dict[str, list[str] | None] = {
    "anew": None,
    "paired": None,
    "tuned": None,
    "beyond": None,
    "decay": None,
    "scarce": None,
    "transformer": None,
    "batch": None,
    "controls": None,
}
WITH_FIT = {"anew"}  # their cells are "fit / onset"
