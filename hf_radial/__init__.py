"""hf_radial: the hypersphere penalty of arXiv 2606.32000 for any `transformers` model, and what it takes to judge it.

Importing this package imports none of its parts: each name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "RadialTrainer": "training.trainer",
    "RadialMixin": "training.mixin",
    "RadialArguments": "training_args",
    "RadialCallback": "callbacks.penalty",
    "GeometryCallback": "callbacks.geometry",
    "GrokkingCallback": "callbacks.grokking",
    "RadialPenalty": "penalty.radial_penalty",
    "find_sites": "sites.find",
    "measure": "geometry.measure",
    "ModularTable": "geometry.modular_table",
    "radial_penalty": "penalty.functional",
    "radius": "penalty.functional",
    "decompose": "penalty.functional",
    "split_gradient": "penalty.functional",
    "register_intervention": "interventions",
    "register_metric": "geometry.groups",
    "register_task": "tasks.load",
}
__all__ = [*_HOME]

if TYPE_CHECKING:
    from hf_radial.callbacks.geometry import GeometryCallback as GeometryCallback
    from hf_radial.callbacks.grokking import GrokkingCallback as GrokkingCallback
    from hf_radial.callbacks.penalty import RadialCallback as RadialCallback
    from hf_radial.geometry.groups import register_metric as register_metric
    from hf_radial.geometry.measure import measure as measure
    from hf_radial.geometry.modular_table import ModularTable as ModularTable
    from hf_radial.interventions import register_intervention as register_intervention
    from hf_radial.penalty.functional import decompose as decompose
    from hf_radial.penalty.functional import radial_penalty as radial_penalty
    from hf_radial.penalty.functional import radius as radius
    from hf_radial.penalty.functional import split_gradient as split_gradient
    from hf_radial.penalty.radial_penalty import RadialPenalty as RadialPenalty
    from hf_radial.sites.find import find_sites as find_sites
    from hf_radial.tasks.load import register_task as register_task
    from hf_radial.training.mixin import RadialMixin as RadialMixin
    from hf_radial.training.trainer import RadialTrainer as RadialTrainer
    from hf_radial.training_args import RadialArguments as RadialArguments


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
