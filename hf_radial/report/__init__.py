"""The report of one or several runs: one HTML page without network.

The interactive page:

- `page.py`: the page. `answer.py`: its first sentences. `catalogue.py`: its figures by question. `data.py`: their numbers.
  `tables.py`: its tables and notes. `live.py`: the same page on a server, which follows runs that go on.
- `assets/`: its script (`store.js`: numbers and choices, `chart.js`: lines over steps, `moment.js`: what is at the time cursor,
  `controls.js`: bar, table and figures, `main.js`: the start), its style, and uPlot, which draws.

The page of still figures, drawn by matplotlib:

- `still.py`: the page. `figures.py`: which figures are on it, in which order.
- The figures by kind: `accuracy_loss.py`, `radii.py`, `curvature.py`, `measured.py` (a line per site or metric), `fourier.py`,
  `compared.py` (several runs over each other). `captions.py`: the words of those that are drawn alike.
- What draws them: `canvas.py` (colours, size, file), `axes.py`, `lines.py`.

`plots.py`: the curves of a model card. `arms.py`: the arms of one recipe side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_radial.report.page import make_page, write_report
    from hf_radial.report.still import make_report

__all__ = ["make_page", "make_report", "write_report"]


def __getattr__(name: str) -> Any:
    # When it is asked for: a recipe that draws curves needs no page.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hf_radial.report import page

    return getattr(page, name)
