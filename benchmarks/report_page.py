"""How smooth the report is: first paint and frames while the time cursor moves, from the browser's own trace.

    python benchmarks/report_page.py                 # 24 made-up runs
    python benchmarks/report_page.py RUN [RUN ...]   # of yours

Needs Chromium with its driver, and selenium. Run it on an idle machine: the CPU time of a frame is that of the page's thread,
but frames also wait for others. It prints a table and writes nothing. A frame is late if it begins more than 1.5 sixtieths of a
second after the one before. CI has only a coarse bound (`tests/report/test_page_browser.py`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from hf_radial.report.page import write_report  # noqa: E402

FRAME = 1000 / 60  # milliseconds
SECONDS = 3.0
WORK = ("FireAnimationFrame", "UpdateLayoutTree", "Layout", "PrePaint", "Paint", "Layerize", "Commit")
# The cursor goes through all steps and back, one place a frame, as a hand would move it.
MOVE = """
const done = arguments[arguments.length - 1], end = performance.now() + 1000 * arguments[0], steps = allSteps();
let at = 0, by = 1;
performance.mark("move");
const next = () => {
  if (performance.now() > end) {
    performance.mark("moved");
    return done(null);
  }
  at += by;
  if (at <= 0 || at >= steps.length - 1) by = -by;
  choice.step = steps[at];
  refresh(CURSOR);
  requestAnimationFrame(next);
};
requestAnimationFrame(next);
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="*", help="output directories of runs; 24 made-up ones by default")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(options.runs or made_up(Path(folder)), Path(folder) / "page.html")
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")
        print("| scrolled to | figures seen | first paint, ms | frames a second | late frames | CPU of a frame, ms | 95 % |")
        print("|---|---|---|---|---|---|---|")
        for share in (0.0, 0.1, 0.3, 0.6):
            browser = chromium(f"{folder}/{share}")  # a new one each: a browser keeps only one trace
            try:
                print(row(browser, page, share), flush=True)
            finally:
                browser.quit()
    return 0


def made_up(folder: Path) -> list[Path]:
    """24 runs, made up by formulas: eight settings of three seeds."""
    from fake_runs import SITES, fake_run  # type: ignore[import-not-found]

    for number in range(8):
        for seed in range(3):
            run = folder / f"{number}_{seed}"
            fake_run(run, seed=seed, radial_lambda=number / 100, onset=3_000 + 1_500 * number, sites=SITES[:2])
    return sorted(path for path in folder.iterdir() if path.is_dir())


def chromium(folder: str) -> Any:
    """A headless browser of a desktop's size that keeps a trace of its frames."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={folder}/profile"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.add_experimental_option("perfLoggingPrefs", {"traceCategories": "devtools.timeline,blink.user_timing"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return browser


def row(browser: Any, page: Path, share: float) -> str:
    """A row of the table: the page is scrolled to a share of its height, and the cursor moves."""
    browser.get(page.as_uri())
    time.sleep(1.5)
    paint = browser.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
    browser.execute_script("scrollTo(0, arguments[0] * document.documentElement.scrollHeight)", share)
    time.sleep(1.5)
    browser.execute_async_script(MOVE, SECONDS)
    inside = browser.execute_script("return views.filter(view => view.inside).length")
    frames, work = trace(browser)
    gaps = [frames[i + 1] - frames[i] for i in range(len(frames) - 1)]
    late = sum(gap > 1.5 * FRAME for gap in gaps)
    per_second = 1000 * len(gaps) / (frames[-1] - frames[0])
    half, tail = statistics.median(work), sorted(work)[int(0.95 * len(work))]
    return f"| {share:.0%} | {inside} | {paint:.0f} | {per_second:.1f} | {late} of {len(gaps)} | {half:.1f} | {tail:.1f} |"


def trace(browser: Any) -> tuple[list[float], list[float]]:
    """When frames began, and the CPU time of the page's thread for each (script, layout, paint), in milliseconds."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    events = [message["params"] for message in messages if message["method"] == "Tracing.dataCollected"]
    events = sorted((event for event in events if "ts" in event), key=lambda event: event["ts"])
    marks = {event["name"]: event for event in events if event["name"] in ("move", "moved")}
    if len(marks) < 2:
        raise RuntimeError("the browser's trace lacks the marks that the page sets; is it an old Chromium?")
    start, end, thread = marks["move"]["ts"], marks["moved"]["ts"], marks["move"]["tid"]
    events = [event for event in events if start <= event["ts"] <= end and event["tid"] == thread]
    frames = [event["ts"] / 1000 for event in events if event["name"] == "FireAnimationFrame"]
    work = [0.0] * len(frames)
    for event in events:
        if event["name"] in WORK and "dur" in event:
            frame = bisect_right(frames, event["ts"] / 1000) - 1
            if frame >= 0:
                work[frame] += event.get("tdur", event["dur"]) / 1000
    return frames, work


if __name__ == "__main__":
    sys.exit(main())
