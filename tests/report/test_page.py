"""The interactive page, read without a browser: its numbers are those of the run's files, and it needs nothing but itself."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html import unescape
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from fake_runs import GROUPS, SITES, fake_run
from html_page import Page

from hf_radial.cli.main import main
from hf_radial.geometry.reading import TABLE_FILE, read_table
from hf_radial.report.answer import answer
from hf_radial.report.catalogue import INDEXED, catalogue, sources
from hf_radial.report.data import LEAST, MOST, page_data
from hf_radial.report.page import make_page, write_report
from hf_radial.runs.files import group_runs, read_run, read_runs
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, summarise

STUDY = Path(__file__).parents[2] / "recipes" / "results" / "geometry_study"
NAMES = (TRAIN_METRIC, HELD_OUT_METRIC)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>${title}\u2028'\"&amp;"


def data_of(html):
    """What the page's script unpacks."""
    (text,) = re.findall(r'<script type="application/octet-stream" id="data">([A-Za-z0-9+/=]*)</script>', html)
    return json.loads(gzip.decompress(base64.b64decode(text)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    fake_run(folder)
    return read_run(folder)


@pytest.mark.quick
def test_the_page_holds_the_answer_and_the_tables_as_text_and_needs_nothing_else(whole):
    html = make_page([whole])
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids)
    assert answer(whole).text in unescape(html)
    summary = summarise(whole.log)
    assert f"step {summary['fit_step']:,}" in html and f"step {summary['onset_90']:,}" in html
    for fact in ("GPT2LMHeadModel, 401,280 parameters", "adamw_torch_fused", "a made-up machine", "<noscript>", "--static"):
        assert fact in html
    without = re.sub(r"<script.*?</script>|http-equiv", "", html, flags=re.DOTALL)
    assert "http" not in without and "src=" not in without and "url(" not in without


@pytest.mark.quick
def test_every_line_is_that_of_the_files(whole):
    data = data_of(make_page([whole]))
    (run,) = data["runs"]
    found = 0
    for source, sites in run["series"].items():
        for site, (steps, values, keep) in sites.items():
            series = whole.logged(source[4:]) if source.startswith("log:") else whole.series(source, site)
            assert keep == 0 and run["steps"][steps] == series.steps.tolist()
            np.testing.assert_allclose(np.array(values, float), series.values, rtol=5e-5)
            found += 1
    assert found > 60
    for metric, (decimals, share) in INDEXED.items():
        for site, (steps, index, flat, _) in run["indexed"][metric].items():
            at, wanted_index, values = whole.indexed(metric, site)
            if share:
                values = values / values.sum(1, keepdims=True)
            assert (run["steps"][steps], index) == (at.tolist(), wanted_index.tolist())
            shown = np.array(flat, float).reshape(len(at), len(index))
            np.testing.assert_allclose(shown, values, atol=0.51 * 10.0**-decimals, rtol=5e-5)


def test_the_six_runs_of_the_study_fit_into_one_and_a_half_megabytes():
    folders = sorted(path.parent for path in STUDY.glob("*/geometry.parquet"))
    assert len(folders) == 6
    assert len(make_page(read_runs(folders)).encode()) < 1_500_000


def test_every_source_of_a_figure_is_a_metric_that_a_run_measures(whole):
    wanted = sources(catalogue([whole], *NAMES), *NAMES)
    known = read_run(STUDY / "wd1_lambda0").measured.keys()
    assert {name for name in wanted if not name.startswith("log:")} - {"nonfinite"} <= known and INDEXED.keys() <= known
    assert {f"log:{name}" for name in NAMES} <= wanted
    figures = [figure for question in catalogue([whole], *NAMES) for figure in question["figures"]]
    assert len({figure["id"] for figure in figures}) == len(figures)
    assert all(figure["title"] and figure["label"] and len(figure["caption"]) > 40 and figure["lines"] for figure in figures)


@pytest.mark.parametrize("groups", [(), *((group,) for group in GROUPS)])
def test_a_run_with_only_some_of_it_gets_a_page(groups, tmp_path):
    fake_run(tmp_path / "run", groups=groups, record=bool(groups), steps=2_000)
    html = make_page([read_run(tmp_path / "run")])
    Page(html)
    (run,) = data_of(html)["runs"]
    assert ("effective_rank" in run["series"]) == ("spectrum" in groups)
    assert ("No run.json" in unescape(html)) == (not groups)


def test_numbers_that_are_none_become_gaps(tmp_path):
    log = fake_run(tmp_path / "run", steps=2_000)
    for logs in log:
        if logs["step"] > 500:
            logs |= {name: float("nan") if "train" in name else float("inf") for name in logs if "loss" in name}
    (tmp_path / "run" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    table = read_table(tmp_path / "run" / TABLE_FILE)
    late = [step > 500 for step in table.columns["step"]]
    table.columns["value"] = [float("-inf") if one else value for one, value in zip(late, table.columns["value"], strict=True)]
    table.write(tmp_path / "run" / TABLE_FILE)
    html = make_page([read_run(tmp_path / "run")])
    (run,) = data_of(html)["runs"]
    steps, values, _ = run["series"]["radius_q50"][SITES[0]]
    assert [value is None for value in values] == [step > 500 for step in run["steps"][steps]]
    assert "is not a finite number at step" in html


def test_long_lines_are_thinned_without_losing_their_extremes(tmp_path):
    log = [{"step": step, "loss": 1.0 + step % 7, **dict.fromkeys(NAMES, 0.5)} for step in range(20_000)]
    log[12_345]["loss"], log[777]["loss"] = 999.0, -999.0
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    run = read_run(tmp_path)
    html = make_page([run])
    (one,) = data_of(html)["runs"]
    steps, values, _ = one["series"]["log:loss"][""]
    assert LEAST < len(values) <= MOST and {999, -999} <= set(values) and {777, 12_345} <= set(one["steps"][steps])
    assert f"at most {MOST} points" in html
    every = page_data(group_runs([run]), *NAMES, every_point=True)
    assert len(every["runs"][0]["series"]["log:loss"][""][1]) == 20_000 and every["points"] is None


def test_runs_of_one_group_share_a_colour_and_no_two_groups_look_alike(tmp_path):
    for number in range(8):
        for seed in range(2):
            fake_run(tmp_path / f"{number}_{seed}", seed=seed, radial_lambda=number / 100, groups=(), steps=200)
    data = page_data(group_runs(read_runs(sorted(tmp_path.iterdir()))), *NAMES)
    looks = {}
    for run in data["runs"]:
        looks.setdefault(run["label"].partition(", seed")[0], set()).add((run["colour"], run["dash"]))
    assert len(looks) == 8 and all(len(look) == 1 for look in looks.values())
    assert len(set.union(*looks.values())) == 8
    assert {run["label"].rpartition(", ")[2] for run in data["runs"]} == {"seed 0", "seed 1"}


@pytest.mark.quick
def test_text_of_users_stays_text(tmp_path):
    name = EVIL.replace("/", "\u2215")
    fake_run(tmp_path / name, groups=("spectrum",), sites=[EVIL, "b.mlp"], task=EVIL, steps=300)
    fake_run(tmp_path / "other", groups=(), steps=300, weight_decay=1.0)
    html = make_page(read_runs([tmp_path / name, tmp_path / "other"]), title=EVIL)
    page = Page(html)
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert EVIL in unescape(html) and EVIL in json.dumps(data_of(html), ensure_ascii=False).replace('\\"', '"')


def test_only_the_pages_own_script_may_run(whole):
    html = make_page([whole])
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy and "connect-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]


def test_the_same_files_give_the_same_page(tmp_path):
    fake_run(tmp_path / "run", steps=500, sites=SITES[:2])
    one, other = (write_report([tmp_path / "run"], tmp_path / name) for name in ("a", "b.html"))
    assert (one, other) == (tmp_path / "a" / "index.html", tmp_path / "b.html") and one.read_bytes() == other.read_bytes()


def test_the_charting_library_is_shipped_with_its_licence():
    assets = files("hf_radial.report").joinpath("assets")
    licence = assets.joinpath("uPlot.LICENSE.txt").read_text()
    assert "MIT License" in licence and "Leon Sorokin" in licence
    assert "github.com/leeoniya/uPlot" in assets.joinpath("uPlot.iife.min.js").read_text()[:200]


@pytest.mark.parametrize(
    "options, says",
    [
        (["--live", "--out", "x", "--static"], "--live writes no files; leave out --out, --static"),
        (["--live", "--port", "70000"], "--port 70000 must be from 0 to 65535"),
        (["--port", "8000"], "--port 8000 is for --live"),
    ],
)
def test_options_that_contradict_each_other_are_an_error(options, says, tmp_path, capsys):
    fake_run(tmp_path / "run", groups=(), steps=200)
    assert main(["report", str(tmp_path / "run"), *options]) == 2
    assert says in capsys.readouterr().err
