"""The report of one or several runs: one HTML page without network, and its figures.

- `page.py`: the page. `figures.py`: its figures. `plots.py`: the curves of a model card.
"""

from hf_radial.report.page import make_report, write_report

__all__ = ["make_report", "write_report"]
