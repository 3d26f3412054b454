"""Figures of curvature: the Hessian's trace and its largest eigenvalue."""

from __future__ import annotations

from hf_radial.report.canvas import Drawing
from hf_radial.report.lines import lines_drawing
from hf_radial.runs.files import Run


def hessian_trace(run: Run) -> Drawing | None:
    """The trace of the Hessian with twice its standard error."""
    lines = {"Hutch++": run.series("hessian_trace"), "Hutchinson": run.series("hessian_trace_hutchinson")}
    caption = (
        "The sum of the curvatures of the loss in all directions; the band is twice the standard error of the estimate. It "
        "also falls as the training loss nears 0, so that a small trace alone is no sign of generalisation."
    )
    label = "trace (nats per squared weight)"
    return lines_drawing(lines, "hessian_trace", "Hessian trace", label, caption, errors=2.0)


def lambda_max(run: Run) -> Drawing | None:
    """The largest eigenvalue of the Hessian against the edge of stability."""
    lines = {"lambda_max": run.series("lambda_max")}
    if len(lines["lambda_max"].steps):
        lines["2 / learning rate"] = run.series("two_over_lr")
    caption = (
        "The curvature in the steepest direction against 2 / learning rate, above which plain gradient descent would become "
        "unstable; for Adam and the like the limit is another. The band bounds the error of the estimate."
    )
    label = "curvature (nats per squared weight)"
    return lines_drawing(lines, "lambda_max", "Largest curvature and the edge of stability", label, caption, errors=1.0)
