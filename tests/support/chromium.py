"""A headless Chromium for tests of pages, as the fixture `browser` of a module.

Needs Chromium with its driver (`apt-get install chromium chromium-driver`) and selenium; tests skip themselves where they are
not there, unless HF_RADIAL_BROWSER=required, as `.ci/run` sets it: then they fail.
"""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # in a container it has no rights to make one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCHEMES = ("light", "dark")
PHONE, DESKTOP = 375, 1280
HEIGHT = 800
PATIENCE = 30.0  # seconds; a loaded machine is slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    def missing(what):
        if os.environ.get("HF_RADIAL_BROWSER") == "required":
            pytest.fail(f"{what}, but HF_RADIAL_BROWSER=required")
        pytest.skip(what)

    try:
        from selenium import webdriver
    except ImportError:
        missing("selenium is not installed (pip install 'hf_radial[test]')")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing("Chromium or chromedriver is not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.get("about:blank")  # its own first page would still be loading
    yield chrome
    chrome.quit()


def show(browser, url, width=DESKTOP, scheme="light", phone=PHONE):
    """Open a page as a device of that width would, and return what the browser said and asked for meanwhile."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # of the page before
    metrics = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width == phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width == phone})
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(url)
    return browser.get_log("browser"), requests(browser)


def requests(browser):
    """The addresses that the page asked for since this was last called."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("data:", "blob:"))]


def wait_for(browser, script, *arguments):
    """The value of a script as soon as it is true."""
    end = time.monotonic() + PATIENCE
    while True:
        value = browser.execute_script(f"return {script}", *arguments)
        if value:
            return value
        assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {script}"
        time.sleep(0.02)


def sticking_out(browser):
    """What reaches out of the page's right side and cannot be scrolled to."""
    return browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )


def contrast(browser, selector):
    """The contrast of text and what is behind it, as WCAG 2 defines it (https://www.w3.org/TR/WCAG22/#contrast-minimum)."""
    ink, ground = browser.execute_script(
        "let e = document.querySelector(arguments[0]); let ink = getComputedStyle(e).color;"
        "while (getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)') e = e.parentElement;"
        "return [ink, getComputedStyle(e).backgroundColor]",
        selector,
    )
    dark, bright = sorted(luminance(colour) for colour in (ink, ground))
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
