"""Figures of Fourier structure: frequencies over time, and the neurons' frequencies at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_radial.report.axes import cell_edges
from hf_radial.report.canvas import Drawing, Theme, new_canvas
from hf_radial.report.lines import draw_panels, pages_of_sites
from hf_radial.runs.files import Floats, Run, Series, short_names


def frequencies(run: Run) -> list[Drawing | None]:
    """Heat maps of the share of power, frequency by time: one each for embedding and logits, small panels for sites."""
    found = [site for site in run.sites("fourier_power") if np.isfinite(run.indexed("fourier_power", site)[2]).any()]
    alone = [site for site in ("embedding", "logits") if site in found]
    sites = [site for site in found if site not in alone]
    names = short_names(sites) | dict(zip(alone, alone, strict=True))
    pages: list[tuple[list[str], str]] = [([site], f" of the {site}") for site in alone]
    pages += [(part, f" per site{number}") for part, number in pages_of_sites(sites)]

    def page(sites: Sequence[str], of: str) -> Drawing:
        def panel(axes: Any, site: str, theme: Theme) -> None:
            steps, index, power = run.indexed("fourier_power", site)
            with np.errstate(invalid="ignore", divide="ignore"):
                share = power / np.nansum(power, 1, keepdims=True)
            panel.image = axes.pcolormesh(  # type: ignore[attr-defined]
                cell_edges(steps), cell_edges(index), share.T, cmap=theme.sequential, vmin=0, vmax=top, rasterized=True
            )
            axes.grid(False)

        shares = [run.indexed("fourier_power", site) for site in sites]
        with np.errstate(invalid="ignore", divide="ignore"):
            top = max(float(np.nanmax(power / np.nansum(power, 1, keepdims=True), initial=0)) for _, _, power in shares) or 1.0

        def draw(theme: Theme) -> Any:
            series = [Series(steps, steps, steps) for steps, _, _ in shares]
            figure = draw_panels(sites, names, panel, theme, "frequency (cycles per p)", series, legend=False)
            bar = figure.colorbar(panel.image, ax=figure.axes, location="bottom", aspect=40, pad=0.02)  # type: ignore
            bar.set_label("share of the power (fraction)")
            bar.outline.set_visible(False)
            return figure

        strongest = []
        for site, (_, index, power) in zip(sites, shares, strict=True):
            order = np.argsort(-np.nan_to_num(power[-1]))[:5]
            strongest.append(f"{names[site]}: {', '.join(f'{index[i]:.0f}' for i in sorted(order))}")
        return Drawing(
            "frequencies" + of.replace(" of the ", "_").replace(" per site", "_sites").replace(" ", "_"),
            f"How frequencies assemble: share of power{of}",
            "Each row is a frequency, time runs to the right, and bright means that much of the power is there. An even field "
            "that turns into a few bright rows is the periodic algorithm being built. Every figure has a scale of its own.",
            f"Heat map of frequency against step. Strongest at the end, {'; '.join(strongest)}.",
            draw,
        )

    return [page(sites, of) for sites, of in pages]


def neurons(run: Run) -> list[Drawing | None]:
    """Per site the neurons' selectivity at the last measurement, sorted into blocks by frequency."""
    sites = [site for site in run.sites("neuron_selectivity") if site in run.sites("neuron_frequency")]
    names = short_names(sites)

    def last(metric: str, site: str) -> tuple[float, Floats]:
        steps, _, values = run.indexed(metric, site)
        return steps[-1], values[-1]

    def one(site: str) -> Drawing | None:
        step, selectivity = last("neuron_selectivity", site)
        frequency = last("neuron_frequency", site)[1]
        if len(selectivity) != len(frequency):
            return None
        finite = np.isfinite(selectivity) & np.isfinite(frequency)
        selectivity, frequency = selectivity[finite], frequency[finite]
        if not len(selectivity):
            return None
        order = np.lexsort((-selectivity, frequency))
        selectivity, frequency = selectivity[order], frequency[order]
        kinds, start, counts = np.unique(frequency, return_index=True, return_counts=True)

        def draw(theme: Theme) -> Any:
            figure, axes = new_canvas()
            hatches = ("", "///")  # neighbours differ in more than colour
            for i, (kind, first, count) in enumerate(zip(kinds, start, counts, strict=True)):
                places, heights = np.arange(first, first + count + 1), selectivity[first : first + count]
                fill = {"step": "post", "color": theme.colours[i % 2], "lw": 0, "alpha": 0.85, "rasterized": True}
                axes.fill_between(
                    places, np.append(heights, heights[-1]), **fill, hatch=hatches[i % 2], edgecolor=theme.background
                )
                if count >= 0.045 * len(frequency):
                    axes.text(first + count / 2, 1.03, f"{kind:.0f}", ha="center", va="bottom", fontsize=9)
            axes.set(xlim=(0, len(frequency)), ylim=(0, 1.0), ylabel="selectivity (fraction of power)")
            axes.set_xlabel("neuron, sorted by its frequency (above)")
            axes.grid(axis="x", visible=False)
            return figure

        largest = sorted(zip(counts, kinds, strict=True), reverse=True)[:5]
        blocks = ", ".join(f"{count} of frequency {kind:.0f}" for count, kind in largest)
        named = f" of {names[site]}" if len(sites) > 1 else ""
        return Drawing(
            f"neurons_{names[site]}".replace(".", "_"),
            f"Selectivity of neurons{named}, step {step:,.0f}",
            "Every neuron's preferred frequency (numbers above the broad blocks) and how purely it answers to it. A model "
            "that has found the periodic algorithm has a few broad, high blocks; a memorising one has low, ragged ones.",
            f"{len(frequency)} neurons in {len(kinds)} blocks by frequency. Largest blocks: {blocks}. "
            f"Mean selectivity {selectivity.mean():.2f}.",
            draw,
        )

    return [one(site) for site in sites]
