"""The report of one or several runs: one HTML page without network, and its figures.

- `page.py`: the page. `figures.py`: which figures are on it, in which order.
- The figures by kind: `accuracy_loss.py`, `radii.py`, `curvature.py`, `measured.py` (a line per site or metric), `fourier.py`,
  `compared.py` (several runs over each other). `captions.py`: the words of those that are drawn alike.
- What draws them: `canvas.py` (colours, size, file), `axes.py`, `lines.py`.
- `plots.py`: the curves of a model card. `arms.py`: the arms of one recipe side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_radial.report.page import make_report, write_report

__all__ = ["make_report", "write_report"]


def __getattr__(name: str) -> Any:
    # When it is asked for: a recipe that draws curves needs no page.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hf_radial.report import page

    return getattr(page, name)
