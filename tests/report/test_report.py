"""The report shows the runs' files: numbers come from `summarise`, missing values are left out, and text is escaped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from fake_runs import GROUPS, SITES, fake_run, readings_at
from html_page import Page
from matplotlib.layout_engine import ConstrainedLayoutEngine

from hf_radial.cli.main import main
from hf_radial.geometry.reading import TABLE_FILE, Reading, Table, logs_of
from hf_radial.report import canvas
from hf_radial.report.accuracy_loss import accuracy, loss
from hf_radial.report.canvas import DARK, LIGHT
from hf_radial.report.compared import comparisons
from hf_radial.report.figures import figures_of
from hf_radial.report.lines import thinned
from hf_radial.report.measured import site_lines
from hf_radial.report.page import write_report
from hf_radial.report.still import make_report
from hf_radial.runs.files import band, group_runs, read_run, read_runs, short_names
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, format_step, summarise


@pytest.fixture
def small(monkeypatch):
    """Figures at a tenth of their size."""
    monkeypatch.setattr(canvas, "DPI", 20)


@pytest.fixture
def quick(small, monkeypatch):
    """And nothing makes room for their texts, which is half of what drawing costs: what is drawn stays."""
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, figure: None)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures without a picture, for tests of what the page says: drawing is most of what a page costs."""
    monkeypatch.setattr(canvas.Drawing, "render", lambda *args, **kwargs: b"")


@pytest.mark.quick
def test_a_page_of_a_whole_run_has_every_figure_and_needs_nothing_else(small, tmp_path):
    fake_run(tmp_path / "run")
    path = write_report([tmp_path / "run"], static=True)
    assert path == tmp_path / "run" / "report" / "index.html"
    html = path.read_text()
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids)
    expected = {"accuracy", "loss", "radius", "radial_energy", "radial_energy_total", "effective_rank", "stable_rank"}
    expected |= {"angular_speed", "hessian_trace", "lambda_max", "frequencies_embedding", "frequencies_logits"}
    expected |= {"frequencies_sites", "fourier_r2", "fourier_losses", "weight_norm", "logit_scale", "softmax_collapse"}
    expected |= {"confidence", "cka_first", "overlap_first", "neurons_h_0", "neurons_h_1", "sharpness", "prop1_cosine"}
    assert expected <= set(page.ids)
    assert all(len(image["alt"]) > 40 and image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert html.count('prefers-color-scheme: dark)" srcset="data:') == len(page.images)
    assert "http" not in re.sub(r'http-equiv|base64,[^"]*', "", html) and "script" not in page.tags
    for fact in ("GPT2LMHeadModel, 401,280 parameters", "adamw_torch_fused", "torch 2.13.0", "a made-up machine", "12 minutes"):
        assert fact in html


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [150, 3_000, 20_000])  # no fit, a fit and no onset, both
def test_every_number_of_the_table_is_that_of_summarise(seed, steps, undrawn, tmp_path):
    log = fake_run(tmp_path / "run", seed=seed, steps=steps, groups=())
    html = make_report(read_runs([tmp_path / "run"]))[0]
    summary, rows = summarise(log), Page(html).cells
    row = dict(zip(rows[0], rows[1], strict=True))
    end = summary["last_step"]
    assert row["run"] == "run" and row["seed"] == str(seed)
    assert row["fit (training 99 %)"] == format_step(summary["fit_step"], end)
    assert row["onset at 90 %"] == format_step(summary["onset_90"], end)
    assert row["onset at 99 %"] == format_step(summary["onset_99"], end)
    assert float(row["held-out, last"].rstrip(" %")) == pytest.approx(100 * summary["last_held_out"], abs=0.01)
    last = [logs[TRAIN_METRIC] for logs in log if TRAIN_METRIC in logs][-1]
    assert float(row["training, last"].rstrip(" %")) == pytest.approx(100 * last, abs=0.01)
    if summary["held_out_at_fit"] is not None:
        assert float(row["held-out at the fit"].rstrip(" %")) == pytest.approx(100 * summary["held_out_at_fit"], abs=0.01)
    if summary["delay_90"] is not None:
        assert row["delay (to 90 %)"] == f"{summary['delay_90']:,} steps ({summary['delay_90_epochs']:,.4g} epochs)"
    elif summary["fit_step"] is not None:
        assert row["delay (to 90 %)"] == f"more than {end - summary['fit_step']:,} steps"
    else:
        assert row["delay (to 90 %)"] == "no fit"


@pytest.mark.parametrize("groups", [(), *((group,) for group in GROUPS)])
@pytest.mark.parametrize("record", [True, False])
def test_a_run_with_only_some_of_it_gets_a_page(groups, record, request, tmp_path):
    request.getfixturevalue("quick" if record else "undrawn")  # its figures are drawn with the record, and are the same without
    fake_run(tmp_path / "run", groups=groups, record=record, steps=2_000)
    html, drawings = make_report([read_run(tmp_path / "run")])
    Page(html)
    assert {"accuracy", "loss"} <= drawings.keys()
    assert ("effective_rank" in drawings) == ("spectrum" in groups) and ("hessian_trace" in drawings) == ("curvature" in groups)
    # The radii that a RadialTrainer logs are shown where none were measured.
    assert "radius" in drawings
    assert ("No run.json" in html) == (not record)


def test_a_plain_trainers_log_with_other_metrics(quick, tmp_path):
    log = [{"step": s, "epoch": s / 10, "loss": 1.0 / s} for s in (10, 20)]
    log += [{"step": 20, "epoch": 2.0, "eval_accuracy": 0.95, "eval_loss": 0.3, "eval_runtime": 1.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    html, drawings = make_report(read_runs([tmp_path]))
    assert set(drawings) == {"loss"} and "eval_accuracy" in html and "--held_out_metric" in html and "eval_runtime" not in html
    html, drawings = make_report(read_runs([tmp_path]), held_out_metric="eval_accuracy")
    assert set(drawings) == {"accuracy", "loss"} and "step 20" in html
    assert [line.get_label() for line in loss(read_run(tmp_path)).draw(LIGHT).axes[0].lines] == [
        "training loss",
        "evaluation loss",
    ]
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path))}: held_out_metric='eval_acuracy'.*did you mean 'eval_ac"):
        write_report([tmp_path], held_out_metric="eval_acuracy")


@pytest.mark.quick
def test_a_log_alone_gives_the_same_figures_as_the_table_for_what_both_hold(tmp_path):
    readings = [Reading("effective_rank", 40.0, "h.10.mlp"), Reading("effective_rank", 30.0, "h.2.mlp")]
    readings.append(Reading("hessian_trace", 5.0, standard_error=0.5))
    log = [{"step": step, "epoch": 1.0, **logs_of(readings)} for step in (1, 2)]
    for name in ("logged", "measured"):
        (tmp_path / name).mkdir()
        kept = log if name == "logged" else [{"step": 1}]
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({"log_history": kept}, sort_keys=True))
    table = Table()
    for step in (1, 2):
        table.add(step, 1.0, readings)
    table.write(tmp_path / "measured" / TABLE_FILE)
    logged, measured = read_runs([tmp_path / "logged", tmp_path / "measured"])
    assert logged.sites("effective_rank") == ["h.2.mlp", "h.10.mlp"]  # in a log names are sorted: numbers count as numbers
    for metric, site in (("effective_rank", "h.10.mlp"), ("effective_rank", "h.2.mlp"), ("hessian_trace", "")):
        for ours, theirs in zip(logged.series(metric, site), measured.series(metric, site), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_measurement_that_was_made_again_counts_once_the_last(tmp_path):
    table = Table()
    for value in (1.0, 2.0):
        table.add(5, None, [Reading("weight_norm", value), Reading("fourier_power", value, "logits", 3)])
    table.add(4, None, [Reading("weight_norm", 7.0)])
    table.write(tmp_path / TABLE_FILE)
    run = read_run(tmp_path)
    assert run.series("weight_norm").steps.tolist() == [4, 5] and run.series("weight_norm").values.tolist() == [7.0, 2.0]
    assert run.indexed("fourier_power", "logits")[2].tolist() == [[2.0]]


def test_the_newest_checkpoint_stands_in_for_the_state(tmp_path):
    for step in (200, 1000):
        fake_run(tmp_path, steps=step, checkpoint=step, groups=())
    assert read_run(tmp_path).log[-1]["step"] == 1000
    fake_run(tmp_path, steps=300, groups=())
    assert read_run(tmp_path).log[-1]["step"] == 300


@pytest.mark.parametrize(
    "files, error, says",
    [
        (None, FileNotFoundError, "does not exist"),
        ({}, FileNotFoundError, "is no run: it has neither trainer_state.json"),
        ({"trainer_state.json": "{"}, ValueError, "trainer_state.json is not JSON"),
        ({"trainer_state.json": "[]"}, ValueError, "holds a list, not an object"),
        ({"trainer_state.json": "{}"}, ValueError, "no log_history"),
        ({"trainer_state.json": '{"log_history": [{"loss": 1.0}]}'}, ValueError, "has no step"),
        ({"trainer_state.json": '{"log_history": []}', "run.json": "{"}, ValueError, "run.json is not JSON"),
        ({"trainer_state.json": '{"log_history": []}', TABLE_FILE: "?"}, ValueError, f"{TABLE_FILE} is not a table"),
    ],
)
def test_a_folder_that_is_no_run_is_an_error_that_names_it(files, error, says, tmp_path, capsys):
    folder = tmp_path / "folder"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    with pytest.raises(error, match=f"{re.escape(str(folder))}.*{re.escape(says)}"):
        write_report([folder])
    assert main(["report", str(folder)]) == 2 and says in capsys.readouterr().err
    assert not (folder / "report").exists()


def test_a_folder_of_runs_is_an_error_that_names_them(tmp_path):
    for name in ("b c", "a"):
        fake_run(tmp_path / name, groups=())
    with pytest.raises(FileNotFoundError, match=re.escape(f"name these: {tmp_path / 'a'}, {tmp_path / 'b c'}")):
        read_run(tmp_path)


def test_the_record_of_an_earlier_run_in_the_same_folder_is_not_told_as_this_ones(quick, tmp_path):
    fake_run(tmp_path / "run", groups=())
    assert not read_run(tmp_path / "run").foreign_record
    log = [{"step": step, "epoch": step / 10, "loss": 1 / step, "learning_rate": 1e-3} for step in (10, 20)]  # a plain Trainer
    (tmp_path / "run" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    run = read_run(tmp_path / "run")
    assert run.foreign_record and not run.record
    html, _ = make_report([run])
    assert "is of another run in the same folder" in html and "penalty lambda" not in html and "No run.json" not in html


def test_the_gradient_with_the_penalty_is_drawn_only_where_it_is_another(tmp_path):
    fake_run(tmp_path)
    run = read_run(tmp_path)
    assert site_lines(run, "radial_energy_total") is not None
    run.measured["radial_energy_total"] = run.measured["radial_energy"]
    assert site_lines(run, "radial_energy_total") is None


def test_bad_arguments(tmp_path):
    fake_run(tmp_path / "run", groups=())
    with pytest.raises(ValueError, match="given twice"):
        write_report([tmp_path / "run", tmp_path / "run" / ".." / "run"])
    with pytest.raises(ValueError, match="no run is given"):
        write_report([])
    with pytest.raises(ValueError, match="png, svg"):
        write_report([tmp_path / "run"], figures=["pdf"])
    with pytest.raises(ValueError, match="is a file; name a folder"):
        write_report([tmp_path / "run"], out=tmp_path / "run" / "run.json")
    with pytest.raises(ValueError, match="name the folder it lies in"):
        write_report([tmp_path / "run" / "trainer_state.json"])


def test_text_of_users_stays_text(quick, tmp_path):
    evil = "<script>alert(\"$x$ & 'y'\")</script>${title}"
    fake_run(tmp_path / "_<b>run & $co$", groups=("spectrum",), sites=["_<i>.a", "$<i>.b"], task=evil)
    html, _ = make_report(read_runs([tmp_path / "_<b>run & $co$"]), title=evil)
    page = Page(html)
    assert not {"script", "b", "i"} & set(page.tags)
    assert any(evil in cell for row in page.cells for cell in row)
    assert evil in unescape(html)


def test_runs_that_differ_only_in_seed_are_one_group_with_a_label_of_what_differs(quick, tmp_path):
    for seed in range(3):
        fake_run(tmp_path / f"penalty{seed}", seed=seed, onset=3_000, groups=("function",))
        fake_run(tmp_path / f"none{seed}", seed=seed, radial_lambda=0.0, weight_decay=1.0, groups=("function",))
    runs = read_runs(sorted(tmp_path.iterdir()))
    groups = group_runs(runs)
    assert [group.label for group in groups] == ["lambda 0, wd 1", "lambda 0.05, wd 0.1"]
    assert [[run.name for run in group.runs] for group in groups] == [
        [f"{arm}{seed}" for seed in range(3)] for arm in ("none", "penalty")
    ]
    html, drawings = make_report(runs)
    page = Page(html)
    assert len([row for row in page.cells if row[0] in {run.name for run in runs}]) == 6
    assert {"compare_accuracy", "compare_loss", "compare_weight_norm"} <= drawings.keys()
    assert "0, 1, 2" in html and "Drawn from the run none0, one of 3" in html
    # A caption speaks of medians only where there are seeds.
    for kept, seeds in ((runs, True), ([run for run in runs if run.name.endswith("0")], False)):
        captions = [drawing.caption for drawing in comparisons(group_runs(kept))]
        assert captions and all(("median" in caption) == seeds for caption in captions)


def test_runs_without_a_record_are_never_taken_for_seeds_of_each_other(tmp_path):
    for parent in "ab":
        fake_run(tmp_path / parent / "run", groups=(), record=False)
    groups = group_runs(read_runs([tmp_path / "a" / "run", tmp_path / "b" / "run"]))
    assert [group.label for group in groups] == ["a/run", "b/run"]


def test_the_band_is_the_median_and_the_range_of_all_runs_only_where_all_have_values(tmp_path):
    runs = []
    for seed, steps in enumerate((20_000, 20_000, 5_000)):
        fake_run(tmp_path / str(seed), seed=seed, steps=steps, groups=())
        runs.append(read_run(tmp_path / str(seed)).logged(HELD_OUT_METRIC))
    steps, median, low, high = band(runs)
    assert steps[-1] == 5_000
    for i in range(0, len(steps), 7):
        values = sorted(float(np.interp(steps[i], run.steps, run.values)) for run in runs)
        assert [low[i], median[i], high[i]] == pytest.approx(values)


def test_what_is_drawn_is_the_data(tmp_path):
    log = fake_run(tmp_path / "run")
    figure = accuracy(read_run(tmp_path / "run")).draw(LIGHT)
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].get_lines()}
    wanted = [(logs["step"], logs[HELD_OUT_METRIC]) for logs in log if HELD_OUT_METRIC in logs]
    np.testing.assert_allclose(lines["held-out accuracy"], wanted)
    summary = summarise(log)
    assert {f"fit: step {summary['fit_step']:,}", f"onset (90 %): step {summary['onset_90']:,}"} <= lines.keys()
    for drawing in (drawing for _, drawings in figures_of(read_run(tmp_path / "run")) for drawing in drawings):
        axes = [a for a in drawing.draw(LIGHT).axes if a.get_visible()]
        assert all(a.get_lines() or a.collections for a in axes if a.get_ylabel() or len(axes) == 1), drawing.name


@pytest.mark.parametrize("count", [12, 24, 64])
def test_with_many_sites_each_has_its_line_and_its_panel(count, tmp_path):
    sites = [f"model.layers.{i}.mlp.down_proj" for i in range(count)]
    fake_run(tmp_path / "run", sites=sites, groups=("radial", "spectrum"), steps=100)
    drawings = {drawing.name: drawing for _, found in figures_of(read_run(tmp_path / "run")) for drawing in found}
    axes = drawings["effective_rank"].draw(LIGHT).axes[0]
    assert len(axes.get_lines()) == count and len({line.get_color().tobytes() for line in axes.get_lines()}) > count / 2
    panels = [
        a for name in drawings if re.match(r"radius(_|$)", name) for a in drawings[name].draw(LIGHT).axes if a.get_visible()
    ]
    assert {a.get_title().strip() for a in panels} == set(short_names(sites).values()) and len(panels) == count


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage, steps", [(np.nan, [0]), (np.inf, [0, 7]), (0.0, [1, 10_000_000]), (-1e5, [3])])
def test_runs_that_broke_or_had_just_begun_are_drawn(damage, steps, quick, tmp_path):
    """All numbers the same that is no number, or no logarithm; one measurement alone, or two that lie far apart."""
    log = [{"step": step, "epoch": 0.0, "loss": damage, TRAIN_METRIC: 0.0} for step in steps]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    table, draw = Table(), np.random.default_rng(0)
    for step in steps:
        whole = readings_at(step, 100, 50, 0.05, draw, SITES[1:2], GROUPS)
        table.add(step, None, [replace(reading, value=damage) for reading in whole])
    table.write(tmp_path / TABLE_FILE)
    drawings = {drawing.name: drawing for _, found in figures_of(read_run(tmp_path)) for drawing in found}
    assert all(len(drawing.render()) > 100 for drawing in drawings.values())
    assert "accuracy" in drawings and ("effective_rank" in drawings) == bool(np.isfinite(damage))


@pytest.mark.parametrize("metric", [TRAIN_METRIC, HELD_OUT_METRIC])
def test_an_accuracy_that_is_no_number_is_said_to_be_none(metric, undrawn, tmp_path):
    log = [{"step": 10, TRAIN_METRIC: 0.5, HELD_OUT_METRIC: 0.5}, {"step": 20, metric: float("nan")}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    rows = Page(make_report(read_runs([tmp_path]))[0]).cells
    last = "training, last" if metric == TRAIN_METRIC else "held-out, last"
    assert dict(zip(rows[0], rows[1], strict=True))[last] == "not a number"


def test_few_points_are_kept_when_there_are_too_many_but_no_spike_is_lost():
    values = np.zeros(50_000)
    values[31_234], values[77] = 9.0, -3.0
    keep = thinned(values)
    assert len(keep) <= 2_000 and {77, 31_234} <= set(keep.tolist()) and (np.diff(keep) > 0).all()


def test_the_same_files_give_the_same_page_and_figures(small, tmp_path):
    fake_run(tmp_path / "run", groups=("fourier",), steps=500, sites=SITES[:2])
    run = tmp_path / "run"
    pages = [write_report([run], tmp_path / name, figures=["png", "svg"]) for name in ("a", "b.html")]
    assert pages == [tmp_path / "a" / "index.html", tmp_path / "b.html"]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    ours, theirs = (sorted((path.parent / "figures").iterdir()) for path in pages)
    assert len(ours) == len(theirs) > 10 and {path.suffix for path in ours} == {".png", ".svg"}
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(ours, theirs, strict=True))


def test_light_and_dark_are_drawn_on_their_backgrounds(tmp_path):
    import io

    from matplotlib.image import imread

    fake_run(tmp_path / "run", groups=())
    drawing = accuracy(read_run(tmp_path / "run"))
    for theme in (LIGHT, DARK):
        image = imread(io.BytesIO(drawing.render(theme)))
        corner = "#" + "".join(f"{round(255 * float(part)):02x}" for part in image[0, 0, :3])
        assert corner == theme.background and image[..., :3].std() > 0.05


def test_the_command_prints_where_the_page_is_in_a_process_of_its_own(tmp_path):
    fake_run(tmp_path / "run", groups=(), record=False, steps=300)
    command = [sys.executable, "-W", "error", "-m", "hf_radial.cli", "report", "run", "--out", "page.html", "--title", "Sums"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "page.html" and done.stderr == ""
    assert "<title>Sums</title>" in (tmp_path / "page.html").read_text()
