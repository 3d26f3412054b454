"""Files of the pages: templates beside this file, scripts and styles in `assets/`."""

from __future__ import annotations

from importlib.resources import files

GLOSSARY = "glossary.html"


def resource(name: str) -> str:
    """The text of a file of this package, such as `still.html` or `assets/report.css`."""
    return files("hf_radial.report").joinpath(name).read_text(encoding="utf-8")
