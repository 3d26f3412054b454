"""The page with every error message of the package, read from the code when the site is built: docs/errors.md.

A message is shown as it is written there, with `…` for what is put in when it is raised.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "errors.md"
HEAD = """# All error messages

Every error of this package says what is wrong, what was expected and what to type instead. Here are all of them, by the room
of the package that raises them; `…` stands for a value of your run. The most frequent ones, with their causes, are in
[questions](faq.md).

To find a message, search this page for a part of it that has no value in it.
"""


def text_of(node: ast.AST) -> str:
    """A string expression with `…` for everything that is not known before it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(value.value if isinstance(value, ast.Constant) else "…" for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.IfExp):
        return text_of(node.body)
    return "…"


def messages() -> Iterator[tuple[str, str, str]]:
    """File below hf_radial/, kind of error, and text of each message that is raised."""
    for file in sorted((ROOT / "hf_radial").rglob("*.py")):
        tree = ast.parse(file.read_text())
        named = {  # messages that are made before they are raised
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value, (ast.JoinedStr, ast.BinOp))
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                message = node.exc.args[0]
                message = named.get(message.id, message) if isinstance(message, ast.Name) else message
                text = " ".join(text_of(message).split())
                if text.strip("…. :;,") and isinstance(node.exc.func, ast.Name):
                    yield file.relative_to(ROOT / "hf_radial").as_posix(), node.exc.func.id, text


def page() -> str:
    lines, room, seen = [HEAD], "", set()
    for file, kind, text in messages():
        here = file.partition("/")[0].removesuffix(".py")
        if here == "__init__" or (here, text) in seen:
            continue
        seen.add((here, text))
        if here != room:
            lines += ["", f"## {here}", ""]
            room = here
        lines.append(f"- `{text.replace('`', chr(39))}` ({kind}, {file})")
    return "\n".join(lines) + "\n"


def make(app: Any) -> None:
    if not PAGE.is_file() or PAGE.read_text() != page():
        PAGE.write_text(page())


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
