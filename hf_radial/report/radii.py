"""The radius of hidden vectors: a panel per site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_radial.report.canvas import Drawing, Theme
from hf_radial.report.lines import describe_ends, draw_line, draw_panels, pages_of_sites
from hf_radial.runs.files import Run, short_names


def radii(run: Run) -> list[Drawing | None]:
    """Per site a panel with the median radius, the range of most vectors, and the target."""
    metric = next((name for name in ("radius_q50", "radius_mean") if run.sites(name)), None)
    if metric is None:
        return []
    names = short_names(run.sites(metric))
    middle = "median" if metric == "radius_q50" else "mean"
    bands = metric == "radius_q50" and bool(run.sites("radius_q05"))

    def panels(sites: Sequence[str], number: str) -> Drawing:
        def panel(axes: Any, site: str, theme: Theme) -> None:
            low, high = run.series("radius_q05", site), run.series("radius_q95", site)
            if bands and len(low.steps) and len(high.steps):
                fill = {"color": theme.colours[0], "alpha": 0.25, "lw": 0, "label": "5 to 95 % of vectors"}
                axes.fill_between(low.steps, low.values, np.interp(low.steps, high.steps, high.values), **fill)
            draw_line(axes, run.series(metric, site), color=theme.colours[0], label=f"{middle} radius")
            target = run.series("radius_target", site)
            if np.isfinite(target.values).any():
                draw_line(axes, target, color=theme.colours[1], ls="--", lw=1.3, label="target")

        every = {names[site]: run.series(metric, site) for site in sites}
        return Drawing(
            f"radius{number.replace(' ', '_')}",
            f"Radius per site{number}",
            f"The length of the hidden vectors at each site: {middle}"
            + (" and where 90 % of them lie" if bands else "")
            + ". A penalty pulls it to the target (dashed), which is a mark to compare with in a run without one. Watch "
            "whether it goes on growing after the fit.",
            f"{len(sites)} panels of {middle} radius against step. {describe_ends(every)}",
            lambda theme: draw_panels(sites, names, panel, theme, "radius ||h||", list(every.values())),
        )

    return [panels(sites, number) for sites, number in pages_of_sites(list(names))]
