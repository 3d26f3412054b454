"""The page of still figures in a browser: no error, no request, no missing or empty figure, and it fits a phone."""

from __future__ import annotations

import base64
import io

import pytest
from chromium import DESKTOP, PHONE, SCHEMES, contrast, show, sticking_out
from fake_runs import fake_run
from matplotlib.image import imread

from hf_radial.report.page import write_report


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run with everything; one with many sites and long names; several runs, some of them seeds of each other."""
    folder = tmp_path_factory.mktemp("runs")
    long = [f"model.a_rather_long_name_of_a_module.layers.{i}.feed_forward.down_projection" for i in range(10)]
    fake_run(folder / "whole")
    fake_run(folder / "many", sites=long, groups=("spectrum",), steps=500)
    fake_run(folder / ("unbroken" * 12), radial_lambda=0.0, record=False, groups=())
    for seed in (1, 2):
        fake_run(folder / f"seed{seed}", seed=seed, groups=(), task="a_task_of_a_very_long_name" * 5)
    several = [folder / name for name in ("seed1", "seed2", "unbroken" * 12)]
    return {
        "whole": write_report([folder / "whole"], static=True),
        "many": write_report([folder / "many"], static=True),
        "several": write_report(several, folder / "several.html", static=True),
    }


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("name", ["whole", "many", "several"])
def test_the_page_says_nothing_asks_for_nothing_and_fits(name, width, scheme, browser, pages):
    said, requests = show(browser, pages[name].as_uri(), width, scheme)
    assert said == []
    assert requests == [pages[name].as_uri()]
    scrolled = browser.execute_script("return document.documentElement.scrollWidth")
    assert scrolled <= width
    assert sticking_out(browser) == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["whole", "many", "several"])
def test_every_figure_is_there_in_the_colours_asked_for(name, scheme, browser, pages):
    show(browser, pages[name].as_uri(), PHONE, scheme)
    images = browser.execute_script(
        "return [...document.images].map(i => [i.closest('figure').id, i.naturalWidth, i.clientWidth, i.alt, i.currentSrc])"
    )
    assert len(images) >= 4
    for figure, natural, shown, alt, source in images:
        assert natural >= 2 * shown > 400 and alt, figure  # sharp on a screen of two pixels a point
        pixels = imread(io.BytesIO(base64.b64decode(source.partition(",")[2])))[..., :3]
        assert pixels.std() > 0.02, figure
        assert (pixels[0, 0].mean() > 0.9) == (scheme == "light"), figure


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_and_background_contrast(scheme, browser, pages):
    """At least 4.5 to 1, as WCAG 2 asks for text (https://www.w3.org/TR/WCAG22/#contrast-minimum)."""
    show(browser, pages["whole"].as_uri(), PHONE, scheme)
    for selector in ("p", "figcaption", "h4", "td", "a", ".note", "dd"):
        assert contrast(browser, selector) >= 4.5, selector
