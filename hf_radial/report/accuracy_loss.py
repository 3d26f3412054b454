"""Figures of the log: accuracy with fit, onset and delay, and all losses."""

from __future__ import annotations

from typing import Any

from hf_radial.report.axes import step_axis
from hf_radial.report.canvas import HEIGHT, Drawing, Theme, new_canvas
from hf_radial.report.lines import LEGEND_SITES, describe_ends, draw_legend, draw_line, lines_drawing
from hf_radial.runs.files import Run, Series
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, fit_step, onset_step


def accuracy(run: Run, train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC) -> Drawing | None:
    """Training and held-out accuracy with fit, onset and delay; epochs as a second axis."""
    train, held_out = run.logged(train_metric), run.logged(held_out_metric)
    if not len(train.steps) and not len(held_out.steps):
        return None
    fit = fit_step(run.log, train_metric) if len(train.steps) else None
    onset = onset_step(run.log, held_out_metric) if len(held_out.steps) else None
    epochs = epochs_per_step(run)

    def draw(theme: Theme) -> Any:
        figure, axes = new_canvas(HEIGHT + 0.7)
        if len(train.steps):
            draw_line(axes, train, color=theme.colours[1], ls="--", label="training accuracy")
        if len(held_out.steps):
            draw_line(axes, held_out, color=theme.colours[0], label="held-out accuracy")
        if fit is not None:
            axes.axvline(fit, color=theme.colours[1], ls=":", lw=1.4, label=f"fit: step {fit:,}")
        if onset is not None:
            axes.axvline(onset, color=theme.colours[0], ls="-.", lw=1.2, label=f"onset (90 %): step {onset:,}")
        if fit is not None and onset is not None and onset > fit:
            axes.axvspan(fit, onset, color=theme.ink, alpha=0.12, lw=0, label=f"delay: {onset - fit:,} steps")
        axes.set(ylabel="accuracy (fraction)", ylim=(-0.03, 1.03))
        step_axis(axes, [train, held_out], epochs)
        draw_legend(figure, axes)
        return figure

    grokked = fit is not None and onset is not None and onset > fit
    caption = "Training accuracy (dashed) and accuracy on rows never trained on (solid), on a logarithmic step axis. " + (
        "Grokking is the shaded gap: the training data is fitted, and only later does the rest follow."
        if grokked
        else "Grokking would be a gap between the two rises; within this log there is none from fit to onset."
    )
    told = [f"fit at step {fit:,}" if fit is not None else "no fit"]
    told += [f"onset at step {onset:,}" if onset is not None else "no onset"]
    return Drawing(
        "accuracy",
        "Accuracy: fit, onset and the delay between them",
        caption,
        f"Line chart of accuracy against step: {', '.join(told)}. {describe_ends({'training': train, 'held-out': held_out})}",
        draw,
    )


def loss(run: Run) -> Drawing | None:
    """Every loss of the log on logarithmic axes."""
    lines = _losses(run)
    return lines_drawing(
        lines,
        "loss",
        "Loss",
        "loss (nats)",
        "The losses of the log: of training batches, averaged since the log before, and of whole sets where evaluated. Both "
        "axes are logarithmic. While a model memorises, held-out loss rises as training loss falls.",
        log=True,
    )


def epochs_per_step(run: Run) -> float | None:
    """Epochs per step, if the log has epochs and the ratio is constant."""
    ratios = [
        logs["epoch"] / logs["step"] for logs in run.log if logs["step"] > 0 and isinstance(logs.get("epoch"), (int, float))
    ]
    if not ratios or min(ratios) <= 0 or max(ratios) > 1.05 * min(ratios):
        return None
    return ratios[-1]


def _losses(run: Run) -> dict[str, Series]:
    evaluated = {name for logs in run.log for name in logs if name.startswith("eval_") and name.endswith("_loss")}
    task = run.logged("task_loss")
    with_penalty = any(logs.get("radial_lambda", 0) > 0 for logs in run.log)
    lines = {"training loss of the task": task} if len(task.steps) else {}
    if with_penalty or not lines:
        lines["training loss" + (" with the penalty" if lines else "")] = run.logged("loss")
    for name in sorted(evaluated - {"eval_loss"})[: LEGEND_SITES - len(lines)]:
        lines[f"{name.removesuffix('_loss').removeprefix('eval_')} loss, evaluated"] = run.logged(name)
    if any("eval_loss" in logs for logs in run.log):
        lines["evaluation loss"] = run.logged("eval_loss")
    return lines
