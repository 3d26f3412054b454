"""The page with every error and warning of the package, read from the code when the site is built: docs/errors.md.

A message is shown as it is written there, with `…` for what is put in when it is raised. Where docs/faq.md explains it, a link
leads to its cause and cure.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "errors.md"
SOURCES = ("hf_radial", "recipes")
HEAD = """# All error messages

Every error of this package says what is wrong, what was expected and what to type instead. Here are all of them, by the room
of the package that raises them, and then the warnings. `…` stands for a value of your run. After it you see its kind,
and the function and the file that it comes from. The most frequent ones link to their cause and cure in [questions](faq.md).

To find a message, search this page for a part of it that has no value in it.
"""
EXPLAINED = re.compile(r"^### `(.+)`$", re.M)
PLACE = re.compile(r"%(?:\.\d+)?[srdif]")


class Message(NamedTuple):
    """One message: its file, the function that raises it, its kind (`warning`, or the error's class) and its text."""

    file: str
    function: str
    kind: str
    text: str


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


def messages() -> Iterator[Message]:
    """Every error and warning of the package and of its recipes."""
    for source in SOURCES:
        for file in sorted((ROOT / source).rglob("*.py")):
            name = file.relative_to(ROOT / "hf_radial" if source == "hf_radial" else ROOT).as_posix()
            for kind, node, function in statements(ast.parse(file.read_text())):
                text = " ".join(PLACE.sub("…", text_of(node)).split())
                if text.strip("…. :;,"):
                    yield Message(name, function, kind, text)


def statements(tree: ast.Module) -> Iterator[tuple[str, ast.AST, str]]:
    """Kind, text and function of each error that is raised or made, and of each warning."""
    named = {  # messages that are made before they are raised
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, (ast.JoinedStr, ast.BinOp, ast.Constant))
    }
    for node, function in _with_function(tree, ""):
        call: Any = (
            node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, (ast.Return, ast.Expr)) else None
        )
        if not isinstance(call, ast.Call) or not call.args:
            continue
        kind = _kind(call.func, node)
        if kind:
            message = call.args[0]
            yield kind, named.get(message.id, message) if isinstance(message, ast.Name) else message, function


def _with_function(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = f"{function}.{child.name}".lstrip(".")
        yield child, function
        yield from _with_function(child, inner)


def _kind(made: ast.expr, statement: ast.AST) -> str:
    """What a call makes: the class of an error, `warning`, or "" for neither."""
    if isinstance(statement, ast.Expr):
        return "warning" if isinstance(made, ast.Attribute) and made.attr in ("warning", "warn") else ""
    name = ast.unparse(made)
    if isinstance(statement, ast.Raise):
        return "error" if name.startswith("type(") else name.rpartition(".")[2]
    return name if re.fullmatch(r"[A-Z]\w*Error", name) else ""


@cache
def cures() -> list[tuple[re.Pattern[str], str]]:
    """For each message that docs/faq.md explains: a pattern that finds it among all, and the anchor of its cure."""
    found = []
    for heading in EXPLAINED.findall((ROOT / "docs" / "faq.md").read_text()):
        parts = [re.escape(part) for part in heading.split("…")]
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append((re.compile("….*".join(parts) if len(parts) > 1 else parts[0]), anchor))
    return found


def cure_of(text: str) -> str:
    """The anchor of the cure in docs/faq.md, or ""."""
    return next((anchor for pattern, anchor in cures() if pattern.search(text)), "")


def page() -> str:
    cures.cache_clear()
    lines, room, seen = [HEAD], "", set()
    for one in sorted(messages(), key=lambda one: one.kind == "warning"):  # a stable order: warnings are the last room
        here = "warnings" if one.kind == "warning" else one.file.partition("/")[0].removesuffix(".py")
        if here == "__init__" or (here, one.text) in seen:
            continue
        seen.add((here, one.text))
        if here != room:
            lines += ["", f"## {here}", ""]
            room = here
        cure = cure_of(one.text)
        link = f" [Cause and cure](faq.md#{cure})." if cure else ""
        where = f"`{one.function}` in {one.file}" if one.function else one.file
        lines.append(f"- `{one.text.replace('`', chr(39))}` ({one.kind}, {where}){link}")
    return "\n".join(lines) + "\n"


def make(app: Any) -> None:
    if not PAGE.is_file() or PAGE.read_text() != page():
        PAGE.write_text(page())


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
