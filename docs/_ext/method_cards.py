"""A card for every intervention of this package, made when the site is built: docs/methods/NAME.md."""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

from hf_radial.comparison.method_card import card
from hf_radial.interventions import INTERVENTIONS

METHODS = Path(__file__).resolve().parents[1] / "methods"


def make(app: Sphinx) -> None:
    for name in INTERVENTIONS.ours:
        file, text = METHODS / f"{name}.md", card(name) + "\n"
        if not file.is_file() or file.read_text() != text:
            file.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
