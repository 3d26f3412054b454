"""Pages of the repository that are not in docs/ (results, notebooks, ARCHITECTURE.md, ...), as pages of the site.

They are copied into docs/repository/ when the site is built, notebooks as Markdown. A link is written as it works in a
checkout, such as `[data](../recipes/results/harmless.md)`; here it becomes a link to the copy. A link to a file that is no page
gives the file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from notebooks import as_markdown
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COPIES = DOCS / "repository"
LINK = re.compile(r"(!?\[[^\]\n]*\]\()([^)\s#:]+)(#[^)\s]*)?(\))")


def originals() -> list[Path]:
    """The pages that are copied."""
    top = [ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "README.md")]
    results = (ROOT / "recipes" / "results").rglob("*.md")
    cards = [file for file in (ROOT / "model_cards").glob("*.md") if "{{" not in file.read_text()]
    return [*top, *sorted(results), *sorted(cards), *sorted((ROOT / "examples").glob("*.ipynb"))]


def copy_of(original: Path) -> Path:
    """Where the copy of a page is."""
    return COPIES / original.relative_to(ROOT).with_suffix(".md")


def relinked(text: str, page: Path, original: Path) -> str:
    """The text of a page with its links as they are for `page`; they are written for `original`."""
    copied = {file: copy_of(file) for file in originals()}

    def link(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(original.parent / found[2]))
        if found[2].startswith(("/", "<")):
            return found[0]
        if target.is_dir() and (target / "README.md") in copied:
            target = target / "README.md"
        if target.is_dir():  # a folder is no page
            return f"{found[1].lstrip('!')[1:-2]} (`{target.relative_to(ROOT)}/`)"
        target = copied.get(target, target)
        return f"{found[1]}{os.path.relpath(target, page.parent)}{found[3] or ''}{found[4]}"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.S | re.M)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def copy(app: Sphinx) -> None:
    for original in originals():
        page = copy_of(original)
        text, pictures = as_markdown(original) if original.suffix == ".ipynb" else (original.read_text(), {})
        if text.startswith("---\n"):  # a card's metadata is for a Hub
            text = text.split("\n---\n", 1)[1]
        text = f"---\norphan: true\n---\n\n{text if pictures else relinked(text, page, original)}"
        page.parent.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (page.parent / name).write_bytes(picture)
        if not page.is_file() or page.read_text() != text:
            page.write_text(text)


def read(app: Sphinx, name: str, source: list[str]) -> None:
    page = Path(str(app.env.doc2path(name)))
    if page.suffix == ".md" and COPIES not in page.parents:
        source[0] = relinked(source[0], page, page)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", copy)
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
