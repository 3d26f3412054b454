"""Models of the paper as transformers classes, imported only when named (PEP 562).

`ModularMLPConfig`, `ModularMLPForSequenceClassification`: the MLP for modular arithmetic (`modular_mlp.py`). Its Auto
classes are registered when that module is imported, that is when either name is first used. `gpt2.py`: small GPT-2 models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification

__all__ = ["ModularMLPConfig", "ModularMLPForSequenceClassification"]

_MODULE_OF = {
    "ModularMLPConfig": "modular_mlp",
    "ModularMLPForSequenceClassification": "modular_mlp",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
