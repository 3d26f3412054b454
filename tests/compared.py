"""The README's tables of comparisons: which grids, and which of their arms (`None` for all)."""

TABLES: dict[str, list[str] | None] = {
    "rivals": [
        "AdamW",
        "penalty (paper)",
        "penalty, one-sided",
        "LayerNorm",
        "LayerNorm and penalty",
        "projection, tuned radius",
        "weight norm",
        "orthogonal gradient",
        "Grokfast EMA",
        "Muon",
        "nGPT-like",
    ],
    "tuned": None,
    "decay": None,
    "controls": None,
    "batch": None,
    "beyond": None,
}
