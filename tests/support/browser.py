"""Chromium for tests: opened without a window, and what it says and asks for while it shows a page.

Needs Chromium with its driver (`apt-get install chromium chromium-driver`) and selenium. Tests skip where they are not there,
unless HF_RADIAL_BROWSER=required, as `.ci/run` sets it: then they fail.
"""

from __future__ import annotations

import json
import os
import shutil

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


def open_browser(profile):
    """A Chromium that keeps its profile in a folder."""
    try:
        from selenium import webdriver
    except ImportError:
        _missing("selenium is not installed (pip install 'hf_radial[test]')")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        _missing("Chromium or chromedriver is not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def _missing(what):
    if os.environ.get("HF_RADIAL_BROWSER") == "required":
        pytest.fail(f"{what}, but HF_RADIAL_BROWSER=required")
    pytest.skip(what)


def show(browser, path, width, scheme, phone):
    """Open a page as a device of that width would, and return what the browser said and asked for meanwhile."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # of the page before
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(path.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return browser.get_log("browser"), [url for url in requests if not url.startswith("data:")]
