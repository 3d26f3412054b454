"""The documentation site: `make docs` builds it with Sphinx, MyST (Markdown) and furo, and every warning is an error.

Sphinx, because it alone checks every reference of pages and docstrings, and runs without a network: furo brings no web fonts,
and formulas become MathML, which browsers draw themselves (`_ext/mathml.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from hf_radial import __version__  # noqa: E402

project = "hf_radial"
author = "The hf_radial authors"
project_copyright = author
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "mathml",
    "repository",
    "method_cards",
    "errors",
]
exclude_patterns = ["_ext", "_templates"]
highlight_language = "text"
suppress_warnings = ["myst.header"]  # pages made elsewhere begin with whatever heading they need

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_use_legacy_class_based = True  # napoleon and the signatures of dataclasses
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
nitpicky = True
# Only our own names can be resolved: without a network there is no index of another project.
TYPE_VARIABLES = r"hf_radial\.(interventions\.(Model|Kind)|tasks\.load\.Builder|geometry\.groups\.Function)"
nitpick_ignore_regex = [("py:.*", r"(?!hf_radial).*"), ("py:.*", TYPE_VARIABLES)]
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"hf_radial {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # a page opened from disk may not read the other pages
html_math_renderer = "mathml"
templates_path = ["_templates"]
