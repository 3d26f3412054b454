"""The documentation site in a browser, light and dark: no error, nothing from a network, no page wider than the screen.

Needs Chromium; `tests/support/chromium.py` says when it skips itself.
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from chromium import show
from pages import ROOT

from hf_radial import __version__

PHONE, DESKTOP = 400, 1280
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """All pages of the site."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-n",
        "-W",
        "-q",
        "-d",
        folder / "trees",
        ROOT / "docs",
        folder / "html",
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    made = ("genindex.html", "py-modindex.html", "search.html")
    pages = [page for page in sorted((folder / "html").rglob("*.html")) if page.name not in made]
    return folder / "html", [page for page in pages if "_downloads" not in page.parts]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_no_page_says_or_loads_anything_or_is_too_wide(width, scheme, browser, site):
    folder, pages = site
    assert len(pages) > 60
    wrong = []
    for page in pages:
        said, requests = show(browser, page.as_uri(), width, scheme, PHONE)
        scrolled = browser.execute_script("return document.documentElement.scrollWidth")
        broken = browser.execute_script(
            "return [...document.images].filter(i => i.complete && !i.naturalWidth && i.loading != 'lazy').map(i => i.src)"
        )
        elsewhere = [url for url in requests if not url.startswith((folder.as_uri(), "chrome://"))]
        if said or elsewhere or scrolled > width or broken:
            wrong.append((page.relative_to(folder).as_posix(), said, elsewhere, scrolled, broken))
    assert wrong == []


FOUND = {
    "radial energy": "geometry.html#radial-energy",
    "no vector was collected at": "faq.html#no-vector-was-collected-at",
    "has the penalty already": "errors.html",
    "LoRA": "start/lora.html",
}


@pytest.mark.parametrize("query", FOUND)
def test_the_search_finds_what_people_look_for(query, browser, site):
    browser.get_log("browser")
    browser.get(f"{(site[0] / 'search.html').as_uri()}?q={query.replace(' ', '+')}")
    first: list[str] = []
    for _ in range(100):
        first = browser.execute_script(
            "return [...document.querySelectorAll('#search-results li a')].slice(0, 4).map(a => a.getAttribute('href'))"
        )
        if FOUND[query] in first:
            break
        time.sleep(0.1)
    assert FOUND[query] in first and browser.get_log("browser") == []


def test_every_page_says_which_version_it_documents(site):
    assert all(f"This page documents hf_radial {__version__}." in page.read_text() for page in site[1])
