"""The groups of metrics by name: those of this package, and the metrics that other packages add.

A metric of another package is a function. It is given the model in evaluation mode, the probe and what was observed there, and
returns numbers:

    def radius_ratio(model: nn.Module, batch: Mapping[str, Any], seen: Observation) -> Iterable[Reading]:
        \"\"\"Longest by shortest vector of each site.\"\"\"
        for view in seen.sites:
            r = view.vectors.norm(dim=-1)
            yield Reading("radius_ratio", (r.max() / r.min()).item(), site=view.site.name)

Its readings are named after it: `radius_ratio`, or `radius_ratio_...`. So two packages never write the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from hf_radial.geometry.reading import Reading
from hf_radial.plugins import Registry

if TYPE_CHECKING:
    from torch import nn

    from hf_radial.geometry.observe import Observation

Function = TypeVar("Function", bound=Callable[..., Any])

METRICS = Registry(
    "metric",
    {
        "radial": "hf_radial.geometry.radial:radial_readings",
        "spectrum": "hf_radial.geometry.spectrum:spectrum_readings",
        "function": "hf_radial.geometry.function:function_readings",
        "drift": "hf_radial.geometry.drift:drift_readings",
        "proposition": "hf_radial.geometry.proposition:proposition_readings",
        "curvature": "hf_radial.geometry.curvature:curvature_readings",
        "fourier": "hf_radial.geometry.modular_table:modular_readings",
    },
    lambda found, name: "" if callable(found) and hasattr(found, "__qualname__") else "a metric is a function",
)
GROUPS = tuple(METRICS.ours)


def register_metric(function: Function) -> Function:
    """Let this process measure a metric by its name, the function's; also as a decorator.

    A package declares it instead, under `[project.entry-points."hf_radial.metrics"]`.

    Args:
        function: takes the model in evaluation mode, the probe `{name: tensor}` and the `Observation` of its sites; returns
            `Reading`s named after the function. The first line of its docstring is the title of its figure.

    Raises:
        TypeError: it is not a function.
        PluginError: its name is taken.
    """
    METRICS.register(function, function.__name__)
    return function


def added_readings(name: str, model: nn.Module, batch: Mapping[str, Any], seen: Observation) -> list[Reading]:
    """The numbers of another package's metric.

    Raises:
        ValueError: it returns something else than readings that are named after it.
        Exception: whatever the metric raises.
    """
    import torch

    with torch.no_grad():
        readings = list(METRICS[name](model, batch, seen))
    for reading in readings:
        if not isinstance(reading, Reading) or not f"{reading.metric}_".startswith(f"{name}_"):
            raise ValueError(f"it gave {reading!r}, which must be a Reading whose metric is {name!r} or begins with '{name}_'")
    return readings
