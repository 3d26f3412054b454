"""What all figures share: an empty canvas, colours, text and the file that is written.

A `Drawing` describes itself in words and draws itself in light or dark colours. Every figure of this package starts with
`new_figure`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours, told apart by readers with any common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WIDTH, HEIGHT = 4.8, 3.3  # inches; with text of 10.5 points still legible at the width of a phone
DPI = 160  # at 4.8 inches, sharp enough for every screen at the page's width of a figure
COLOURS_OF_A_PNG = 96
NO_MATPLOTLIB = "figures need matplotlib: pip install 'hf_radial[plots]'"


@dataclass(frozen=True)
class Theme:
    """Colours of a figure. `colours` are Okabe and Ito's, told apart by readers with any common colour blindness."""

    name: str
    background: str
    ink: str
    grid: str
    colours: tuple[str, ...]
    sequential: str  # a colour map without hues to confuse, and with no end that vanishes in the background

    @property
    def rc(self) -> Any:
        """The theme as matplotlib's settings."""
        painted = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor")
        return {
            **dict.fromkeys(painted, self.ink),
            **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), self.background),
            "grid.color": self.grid,
            "grid.linewidth": 0.6,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.formatter.useoffset": False,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10.5,
            "axes.titlesize": 10,
            "axes.labelsize": 10.5,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "text.parse_math": False,  # names of modules and runs are not formulas
            "svg.hashsalt": "hf_radial",  # the same figure gives the same file
            "svg.fonttype": "path",
        }


LIGHT = Theme("light", "#ffffff", "#1b1b1f", "#dcdce0", (*COLOURS[:4], "#B37700", "#3A9BD0"), "viridis")


DARK = Theme(
    "dark", "#17181c", "#e8e8ea", "#3a3b42", ("#56B4E9", "#FF8A3D", "#2CC79A", "#E29BC4", "#F0E442", "#BBBBBB"), "viridis"
)


THEMES = (LIGHT, DARK)


@dataclass(frozen=True)
class Drawing:
    """One figure: a name for files, what it is and what to look for in words, and a function that draws it."""

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Theme], Any]

    def render(self, theme: Theme = LIGHT, kind: str = "png", titled: bool = False) -> bytes:
        """The figure as a PNG of few colours, or as SVG.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: `kind` is neither `png` nor `svg`.
        """
        if kind not in ("png", "svg"):
            raise ValueError(f"figures are made as 'png' or 'svg', not {kind!r}")
        try:
            from matplotlib import rc_context
        except ImportError as error:
            raise ImportError(NO_MATPLOTLIB) from error
        from PIL import Image

        raw = io.BytesIO()
        with rc_context(theme.rc):  # ticks take their colours only when they are drawn
            figure = self.draw(theme)
            if titled:
                figure.suptitle(self.title)
            metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
            figure.savefig(raw, format=kind, dpi=DPI, metadata=metadata)
        if kind == "svg":
            return raw.getvalue()
        small = io.BytesIO()
        image = Image.open(raw).convert("RGB")
        image.quantize(COLOURS_OF_A_PNG, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        return small.getvalue()


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of a size in inches, without a window and without `pyplot`'s global state.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(NO_MATPLOTLIB) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_canvas(height: float = HEIGHT, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure of a report's width, and its axes: one, or an array of them that share the vertical axis."""
    figure = new_figure(WIDTH, height)
    return figure, figure.subplots(rows, columns, sharey=rows * columns > 1)
