"""TensorBoard and Trackio, for real: every number that is logged arrives, at its step, under a name that groups by site."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from reference import tiny_gpt2, token_rows
from transformers import TrainingArguments

from hf_radial import GeometryCallback, RadialTrainer

METRICS = ("radial", "spectrum", "function", "drift")


def trained(tmp_path, tracker, **options):
    """A short run that logs to a tracker: its `log_history`, as step -> name -> value."""
    args = TrainingArguments(
        output_dir=str(tmp_path),
        report_to=tracker,
        max_steps=4,
        logging_steps=1,
        per_device_train_batch_size=8,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    rows = token_rows(32, True)
    trainer = RadialTrainer(
        model=tiny_gpt2(),
        args=args,
        radial_lambda=0.2,
        train_dataset=rows,
        callbacks=[GeometryCallback(every=2, metrics=METRICS)],
    )
    trainer.train()
    logged = defaultdict(dict)
    for logs in trainer.state.log_history:
        names = {name: value for name, value in logs.items() if name.startswith(("radius/", "radius_target/", "geometry/"))}
        logged[logs["step"]] |= names
    sites = [site.name for site in trainer.radial_penalty.sites]
    assert [step for step in logged if any("geometry/" in name for name in logged[step])] == [0, 2, 4]
    for kind, metric in (("radius", ""), ("radius_target", ""), ("geometry", "/radius_mean"), ("geometry", "/effective_rank")):
        assert all(f"{kind}/{site}{metric}" in logged[4] for site in sites)
    return logged, sites


def assert_arrived(found, logged, sites):
    """`found` has every series with its steps and values, and no other of ours; a filter by site finds all of a site."""
    series = defaultdict(dict)
    for step, names in logged.items():
        for name, value in names.items():
            series[f"train/{name}"][step] = value
    assert len(series) > 50
    ours = ("train/radius/", "train/radius_target/", "train/geometry/")
    assert {name for name in found if name.startswith(ours)} == set(series)
    for site in sites:
        of_site = {name.rpartition("/")[2] for name in found if name.startswith(f"train/geometry/{site}/")}
        assert {"radius_mean", "radial_energy", "effective_rank", "cka_first"} <= of_site
    for name, values in series.items():
        assert list(found[name]) == sorted(values), name
        for step, value in values.items():
            assert found[name][step] == pytest.approx(value, rel=1e-5, nan_ok=True), name


def test_tensorboard_has_every_series_at_its_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged, sites = trained(tmp_path, "tensorboard")
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events.parent))
    board.Reload()
    found = {tag: {event.step: event.value for event in board.Scalars(tag)} for tag in board.Tags()["scalars"]}
    assert_arrived(found, logged, sites)


def test_trackio_has_every_series_at_its_step(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed (pip install 'hf_radial[test]')")
    from trackio.sqlite_storage import SQLiteStorage

    logged, sites = trained(tmp_path / "run", "trackio", project="sums", run_name="first", trackio_static_space_id=False)
    found = defaultdict(dict)
    for row in SQLiteStorage.get_logs("sums", "first"):
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found[name][row["train/global_step"]] = math.nan if value is None else value
    assert_arrived(found, logged, sites)
