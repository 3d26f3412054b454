"""Figures show the values of the log."""

from __future__ import annotations

import builtins

import pytest
from matplotlib.image import imread

from hf_radial.report.plots import plot_runs


def fake_log(lambda_):
    log = []
    for step in range(10, 60, 10):
        log.append({"step": step, "loss": 2.0, "task_loss": 1.0 / step, "radial_lambda": lambda_})
        log[-1] |= {"radius/transformer.h.0.mlp.c_proj": step / 10, "radius_target/transformer.h.0.mlp.c_proj": 4.0}
        log += [{"step": step, "eval_train_exact_match": 1.0}, {"step": step, "eval_validation_exact_match": step / 50}]
    return log


@pytest.mark.parametrize("arms", [["one"], ["one", "two"], ["one", "two", "three"]])
def test_a_figure_is_drawn_for_any_number_of_runs(arms, tmp_path):
    path = plot_runs({arm: fake_log(0.1 * i) for i, arm in enumerate(arms)}, tmp_path / "figure.png", title="title")
    image = imread(path)
    assert image.shape[0] > 500 and image.std() > 0.05


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="runs is empty"):
        plot_runs({}, tmp_path / "figure.png")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"hf_radial\[plots\]"):
        plot_runs({"one": fake_log(0.0)}, tmp_path / "figure.png")
