"""A notebook as Markdown: its text, its code and what is saved of its output, without progress bars."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any


def as_markdown(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook, and its pictures by file name."""
    lines: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
            continue
        lines += ["```python", source, "```", ""]
        for output in cell["outputs"]:
            text, picture = _shown(output)
            if picture is not None:
                name = f"{notebook.stem}_{len(pictures) + 1}.png"
                pictures[name] = picture
                lines += [f"![What the cell above draws]({name})", ""]
            elif text:
                lines += ["```text", text.rstrip("\n"), "```", ""]
    return "\n".join(lines), pictures


def _shown(output: dict[str, Any]) -> tuple[str, bytes | None]:
    """Text or picture of an output. A progress bar, which is HTML, is neither."""
    data = output.get("data", {})
    if "image/png" in data:
        return "", base64.b64decode("".join(data["image/png"]))
    if "text/html" in data:
        return "", None
    return "".join(output.get("text", data.get("text/plain", ""))), None
