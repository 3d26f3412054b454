"""One line about a measurement, for people who watch a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import TrainerState

from hf_radial.geometry.reading import Reading


def geometry_line(state: TrainerState, readings: Sequence[Reading], accuracies: Mapping[str, str]) -> str:
    """Step, epoch, the newest accuracies (label -> name in the log), radii over targets, and radial energies."""
    parts = [f"step {state.global_step:,}"]
    if state.epoch is not None:
        parts.append(f"epoch {state.epoch:.1f}")
    newest = {name: value for logs in state.log_history for name, value in logs.items() if name in accuracies.values()}
    parts += [f"{label} {newest[name]:.1%}" for label, name in accuracies.items() if name in newest]
    by_metric: dict[str, list[float]] = {}
    for reading in readings:
        by_metric.setdefault(reading.metric, []).append(reading.value)
    pairs = zip(by_metric.get("radius_mean", []), by_metric.get("radius_target", []), strict=False)
    ratios = [r / t for r, t in pairs if t]  # a target of 0 has no ratio
    shown = (("radius/target", ratios), ("radial energy", by_metric.get("radial_energy", [])))
    return " | ".join(parts + [f"{label} {_span(values)}" for label, values in shown if values])


def _span(values: Sequence[float]) -> str:
    """All of a few values, or the least and the greatest."""
    if len(values) <= 3:
        return " ".join(f"{value:.2f}" for value in values)
    return f"{min(values):.2f} to {max(values):.2f} at {len(values)} sites"
