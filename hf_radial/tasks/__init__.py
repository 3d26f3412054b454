"""Algorithmic tasks as datasets: `load_task` by name, tokenizers, windows over a long stream, checksums and a count of leaks.

Nothing is imported until it is asked for (PEP 562), so that ``import hf_radial.tasks`` costs neither the seconds that
`datasets` and `transformers` take to import nor an error where one of them is missing. The builders themselves are in a file
a task.

Example:
    >>> import hf_radial.tasks
    >>> "load_task" in dir(hf_radial.tasks)
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checksums import checksum
    from .load import TASKS, load_task, register_task, task_builder
    from .splits import leakage
    from .tokenizer import character_tokenizer, check_alphabet, encode, task_tokenizer, word_tokenizer
    from .windows import CharacterWindows

__all__ = [
    "TASKS",
    "CharacterWindows",
    "character_tokenizer",
    "check_alphabet",
    "checksum",
    "encode",
    "leakage",
    "load_task",
    "register_task",
    "task_builder",
    "task_tokenizer",
    "word_tokenizer",
]

_HOME = {
    "TASKS": "load",
    "CharacterWindows": "windows",
    "character_tokenizer": "tokenizer",
    "check_alphabet": "tokenizer",
    "checksum": "checksums",
    "encode": "tokenizer",
    "leakage": "splits",
    "load_task": "load",
    "register_task": "load",
    "task_builder": "load",
    "task_tokenizer": "tokenizer",
    "word_tokenizer": "tokenizer",
}


def __getattr__(name: str) -> Any:
    """Import the file that holds `name` on its first use. AttributeError when no file here does."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    """Names for tab completion, those not yet imported included."""
    return sorted({*globals(), *__all__})
