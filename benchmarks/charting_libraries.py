"""Charting libraries for the report beside each other: size, and how fast Chromium draws 10 lines of 10,000 points.

    mkdir libraries && cd libraries
    npm pack uplot@1.6.32 chart.js@4.6.1 echarts@6.1.0 plotly.js-basic-dist-min@4.1.1 && cd ..
    python benchmarks/charting_libraries.py libraries

Needs Chromium with its driver, and selenium. Writes recipes/results/charting_libraries.json and .md. Each number is the median
of five pages; a zoom is the median of ten.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hf_radial.safe_files import write_text  # noqa: E402

RESULTS = ROOT / "recipes" / "results"
NAME = "charting_libraries"
PAGES, ZOOMS = 5, 10
DATA = """
const N = 10000, S = 10, xs = [...Array(N).keys()]; let seed = 1;
const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
const ys = [...Array(S)].map((_, s) => { let v = s; return xs.map(() => v += random() - 0.5); });
const el = document.getElementById("c");
"""
# Package: name, licence, who keeps it, file, and the script that draws (`make`) and shows a part (`zoom`).
LIBRARIES: dict[str, tuple[str, str, str, str, str]] = {
    "uplot": (
        "uPlot",
        "MIT",
        "one author; Grafana draws with it",
        "dist/uPlot.iife.min.js",
        "window.make = () => { window.u = new uPlot({width: 900, height: 400, scales: {x: {time: false}}, series: [{},"
        "...ys.map(() => ({stroke: '#07c'}))]}, [xs, ...ys], el) }; window.zoom = (a, b) => u.setScale('x', {min: a, max: b});",
    ),
    "chart.js": (
        "Chart.js",
        "MIT",
        "a group of volunteers",
        "dist/chart.umd.min.js",
        "const cv = document.createElement('canvas'); el.append(cv); window.make = () => { window.u = new Chart(cv, {"
        "type: 'line', data: {datasets: ys.map(y => ({data: xs.map((x, i) => ({x, y: y[i]})), pointRadius: 0,"
        "borderWidth: 1}))}, options: {"
        "animation: false, parsing: false, normalized: true, scales: {x: {type: 'linear'}}}}) }; window.zoom = (a, b) => {"
        "u.options.scales.x.min = a; u.options.scales.x.max = b; u.update('none') };",
    ),
    "echarts": (
        "ECharts",
        "Apache-2.0",
        "the Apache foundation",
        "dist/echarts.min.js",
        "window.make = () => { window.u = echarts.init(el); u.setOption({animation: false, xAxis: {type: 'value'}, yAxis: {},"
        "series: ys.map(y => ({type: 'line', showSymbol: false, data: xs.map((x, i) => [x, y[i]])}))}) };"
        "window.zoom = (a, b) => u.setOption({xAxis: {min: a, max: b}});",
    ),
    "plotly.js-basic-dist-min": (
        "Plotly, basic",
        "MIT",
        "a company",
        "plotly-basic.min.js",
        "window.make = () => { Plotly.newPlot(el, ys.map(y => ({x: xs, y, mode: 'lines', type: 'scatter'})), {width: 900,"
        "height: 400}) }; window.zoom = (a, b) => Plotly.relayout(el, {'xaxis.range': [a, b]});",
    ),
}
TIME = """
const done = arguments[arguments.length - 1], frame = () => new Promise(next => requestAnimationFrame(() => setTimeout(next)));
(async () => {
  const load = performance.measure("load", "a", "b").duration; await frame();
  let start = performance.now(); make(); await frame();
  const first = performance.now() - start, zooms = [];
  for (let i = 1; i <= arguments[0]; i++) {
    start = performance.now(); zoom(300 * i, 10000 - 300 * i); await frame(); zooms.push(performance.now() - start);
  }
  done([load, first, zooms]);
})();
"""


def main(folder: Path) -> None:
    """Measure every library of a folder of packages, and write the results."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        browser = chromium(work)
        try:
            for package, (name, licence, kept_by, file, draw) in LIBRARIES.items():
                (archive,) = folder.glob(f"{package}-*.tgz")
                with tarfile.open(archive) as tar:
                    library = tar.extractfile(f"package/{file}")
                    manifest = tar.extractfile("package/package.json")
                    if library is None or manifest is None:
                        raise ValueError(f"{archive} has no {file}")
                    script, version = library.read(), json.load(manifest)["version"]
                page = Path(work) / f"{package}.html"
                page.write_text(
                    "<!doctype html><meta charset=utf-8><div id=c style='width:900px;height:400px'></div>"
                    f"<script>performance.mark('a')</script><script>{script.decode()}</script>"
                    f"<script>performance.mark('b');{DATA}{draw}</script>"
                )
                times = {key: round(value, 1) for key, value in measure(browser, page).items()}
                rows.append(
                    {"name": name, "version": version, "licence": licence, "kept_by": kept_by, "bytes": len(script), **times}
                )
                print(rows[-1], flush=True)
            chrome = browser.capabilities["browserVersion"]
        finally:
            browser.quit()
    machine = {"chromium": chrome, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "machine": platform.machine()}
    write_text(RESULTS / f"{NAME}.json", json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    write_text(RESULTS / f"{NAME}.md", page_of(machine, rows))


def chromium(folder: str) -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/profile",
    ):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    browser.set_script_timeout(120)
    return browser


def measure(browser: Any, page: Path) -> dict[str, float]:
    """Milliseconds to load the library, to draw for the first time, and to zoom."""
    loads, firsts, zooms = [], [], []
    for _ in range(PAGES):
        browser.get(page.as_uri())
        load, first, several = browser.execute_async_script(TIME, ZOOMS)
        loads.append(load)
        firsts.append(first)
        zooms.append(statistics.median(several))
    return {"load": statistics.median(loads), "first": statistics.median(firsts), "zoom": statistics.median(zooms)}


def page_of(machine: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        "| library | licence | kept by | size, kB | load, ms | first drawing, ms | zoom, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['name']} {row['version']} | {row['licence']} | {row['kept_by']} | {row['bytes'] / 1000:,.0f} "
        f"| {row['load']:.0f} | {row['first']:,.0f} | {row['zoom']:.0f} |"
        for row in rows
    ]
    about = (
        f"10 lines of 10,000 points in Chromium {machine['chromium'].partition('.')[0]} without a GPU, medians of {PAGES} "
        f"pages; {machine['cores']} cores at a load of {machine['load']:g}."
    )
    return "# Charting libraries beside each other\n\n" + about + "\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python benchmarks/charting_libraries.py FOLDER, which holds the packages")
    main(Path(sys.argv[1]))
