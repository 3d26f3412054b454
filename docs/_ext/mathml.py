"""Formulas as MathML, made when the site is built by docutils' own converter: no script, no font and no network in the browser."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx


def _made(text: str, block: bool) -> str:
    return latex2mathml.tex2mathml(text, as_block=block)


def inline(self: Any, node: nodes.math) -> None:
    self.body.append(_made(node.astext(), False))
    raise nodes.SkipNode


def block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{_made(node.astext(), True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
