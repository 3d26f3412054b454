"""The metric `radius_ratio`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from hf_radial.geometry.observe import Observation
from hf_radial.geometry.reading import Reading


def radius_ratio(model: nn.Module, batch: Mapping[str, Any], seen: Observation) -> Iterator[Reading]:
    """Longest by shortest hidden vector.

    A value near 1 means that all vectors of a site lie on one sphere.
    """
    for view in seen.sites:
        lengths = view.vectors.norm(dim=-1)
        yield Reading("radius_ratio", (lengths.max() / lengths.min()).item(), site=view.site.name, samples=len(lengths))
