"""The README and the pages of docs/, for tests of what they say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
from recipes.tables import MARKED, pages  # noqa: E402

PAGES = {page.relative_to(ROOT).as_posix(): page.read_text() for page in pages()}
TEXT = "\n\n".join(PAGES.values())
IN_ONE_LINE = " ".join(TEXT.split())


def said(sentence: str) -> bool:
    """Some page has this sentence, however its lines are broken."""
    return sentence in IN_ONE_LINE


def shown(name: str) -> list[str]:
    """The tables that stand on pages under this name."""
    return [found[2] for found in MARKED.finditer(TEXT) if found[1] == name]


def code_of(text: str) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
