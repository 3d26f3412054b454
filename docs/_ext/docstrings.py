"""Our docstrings, which are plain text with `code` in backticks, as reStructuredText for autodoc.

Three things differ: backticks are single, an example is an indented paragraph without a mark before it, and a star is a star.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Example:", "Examples:", "Yields:", "Note:")
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def converted(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    text = "\n".join(lines)
    text = CODE.sub(
        lambda found: "``" + " ".join(found[1].split()) + "``" + ("\\ " if _letter_after(text, found.end()) else ""), text
    )
    made: list[str] = []
    base, section = 0, False
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        stripped = line.strip()
        before = made[-1].strip() if made else ""
        if stripped in SECTIONS or (stripped.startswith("Example") and stripped.endswith(":")):
            section = stripped not in ("Example:", "Examples:") and not stripped.startswith("Example")
            if not section and stripped not in ("Example:", "Examples:"):
                made += [line, ""]  # "Example, such and such:" is a sentence
                continue
        elif indent == 0 and stripped:
            section = False
        if not section and indent >= 4 and stripped and not before and not stripped.startswith(">>>") and not _in_code(made):
            made += [" " * base + ".. code-block:: python", ""]
        if not _in_code([*made, line]):
            line = _stars(line)
        made.append(line)
    return made


def _letter_after(text: str, end: int) -> bool:
    return text[end : end + 1].isalnum()


def _in_code(lines: list[str]) -> bool:
    """Whether the last line belongs to a block of code that was opened above it."""
    for line in reversed(lines[:-1] if lines and lines[-1].strip() else lines):
        if line.strip().startswith(".. code-block"):
            return True
        if line.strip() and not line.startswith("    "):
            return False
    return False


def _stars(line: str) -> str:
    """Stars and bars outside of code, escaped."""
    parts = line.split("``")
    return "``".join(part if i % 2 else part.replace("*", r"\*").replace("|", r"\|") for i, part in enumerate(parts))


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = converted(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon, which reads the sections
    return {"parallel_read_safe": True, "parallel_write_safe": True}
