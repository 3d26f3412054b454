"""The page's answer: when did the circuit form, and what did the radius do then? One sentence per run, made from its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_radial.report.tables import percent
from hf_radial.runs.files import Run, Series, short_names
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, fit_step, onset_step

NAMED_SITES = 2  # a sentence names the radius of so many sites; of more, the last one only
FAR = 0.25  # a radius that was measured further from the moment, as a fraction of its step, says when
PERIODIC = 0.9  # Fourier R² of the logits from which they count as periodic


@dataclass(frozen=True)
class Answer:
    """What one run did.

    Attributes:
        text: a sentence or more, without the run's name.
        fit: the step of the fit, `None` if there was none by the end of the log.
        onset: the same for the onset at 90 %.
        radius: site -> its radius at the onset, or else at the last measurement. Empty if none was measured.
    """

    text: str
    fit: int | None
    onset: int | None
    radius: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def answer(run: Run, train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC) -> Answer:
    """The sentence of one run.

    Raises:
        ValueError: an accuracy is above 1.
    """
    train, held_out = run.logged(train_metric), run.logged(held_out_metric)
    fit = fit_step(run.log, train_metric) if len(train.steps) else None
    onset = onset_step(run.log, held_out_metric) if len(held_out.steps) else None
    parts = [_when(train, held_out, fit, onset)]
    metric = "radius_q50" if run.sites("radius_q50") else "radius_mean"
    sites = [site for site in run.sites(metric) if np.isfinite(run.series(metric, site).values).any()]
    told, radius = _radii(run, metric, sites, fit, onset)
    parts += [told, _circuit(run), _broken(run)]
    return Answer(" ".join(part for part in parts if part), fit, onset, radius)


def headline(labels: Sequence[str], answers: Sequence[Answer]) -> str:
    """One sentence over several runs; empty for a single run.

    >>> headline(["a", "b"], [Answer("", 10, 40, {"x": 3.0}), Answer("", 10, None, {"x": 9.0})])
    'Held-out accuracy rose to 90 % in 1 of 2 runs: a at step 40.'
    """
    if len(answers) < 2:
        return ""
    formed = sorted((one.onset, label) for label, one in zip(labels, answers, strict=True) if one.onset is not None)
    if not formed:
        return f"Held-out accuracy rose to 90 % in none of {len(answers)} runs."
    (first, earliest), (last, latest) = formed[0], formed[-1]
    told = f"Held-out accuracy rose to 90 % in {len(formed)} of {len(answers)} runs: "
    if len(formed) == 1:
        return told + f"{earliest} at step {first:,}."
    if first == last:
        return told + f"all at step {first:,}."
    return told + f"first {earliest}, at step {first:,}; last {latest}, at step {last:,}."


def value_at(series: Series, step: float) -> tuple[float, float] | None:
    """The step and value of the finite measurement nearest to a step, the earlier of two; `None` if there is none."""
    finite = np.isfinite(series.values)
    if not finite.any():
        return None
    steps, values = series.steps[finite], series.values[finite]
    nearest = int(np.argmin(np.abs(steps - step)))
    return float(steps[nearest]), float(values[nearest])


def _when(train: Series, held_out: Series, fit: int | None, onset: int | None) -> str:
    if not len(train.steps) and not len(held_out.steps):
        return "Its log has no accuracy, neither of training rows nor of held-out rows."
    end = f"by step {int((held_out if len(held_out.steps) else train).steps[-1]):,}"
    fitted = f"It had not fitted its training rows {end}" if fit is None else f"It fitted its training rows at step {fit:,}"
    if not len(held_out.steps):
        return f"{fitted}; its log has no held-out accuracy."
    if onset is None:
        last = f"{end} (held-out accuracy {percent(held_out.values[-1])})"
        if fit is not None:
            return f"{fitted}, and had not generalised {last}."
        return f"It had {'neither fitted its training rows nor' if len(train.steps) else 'not'} generalised {last}."
    if fit is None:
        rest = f", and had not fitted its training rows {end}" if len(train.steps) else ""
        return f"It generalised from step {onset:,} on{rest}."
    later = f", {onset - fit:,} steps later" if onset > fit else ", without delay"
    return f"{fitted} and generalised from step {onset:,} on{later}."


def _radii(run: Run, metric: str, sites: Sequence[str], fit: int | None, onset: int | None) -> tuple[str, dict[str, float]]:
    names = short_names(sites)
    shown = sites if len(sites) <= NAMED_SITES else sites[-1:]
    told, radius, targets = [], {}, {}
    for site in shown:
        series = run.series(metric, site)
        values = []
        for step in (fit, int(series.steps[-1]) if onset is None else onset):
            found = None if step is None else value_at(series, step)
            if found is not None and step is not None:
                radius[site] = found[1]
                far = abs(found[0] - step) > FAR * step
                values.append(f"{_number(found[1])}{f' (step {found[0]:,.0f})' if far else ''}")
        target = value_at(run.series("radius_target", site), onset or fit or 0)
        targets[site] = None if target is None else _number(target[1])
        told.append(f"{names[site]} {' → '.join(values)}")
    if not told:
        return "No radius was measured.", {}
    first = "" if fit is None else "from the fit to "
    span = f"{first}the {'end' if onset is None else 'onset'}"
    one = next(iter(targets.values()))
    aim = f" (target {one})" if one is not None and len(set(targets.values())) == 1 else ""
    rest = f", the last of {len(sites)} sites" if len(sites) > NAMED_SITES else ""
    middle = "Median radius" if metric == "radius_q50" else "Mean radius"
    return f"{middle} {span if first else f'at {span}'}{aim}: {', '.join(told)}{rest}.", radius


def _number(value: float) -> str:
    """Three digits, zeros included.

    >>> _number(24.0), _number(272.6), _number(0.1234)
    ('24.0', '273', '0.123')
    """
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e5 else f"{value:.3g}"


def _circuit(run: Run) -> str:
    series = run.series("fourier_r2", "logits")
    above = series.values >= PERIODIC
    if not above.any():
        return ""
    # From where on it stays: as an onset.
    below = np.flatnonzero(~above)
    first = 0 if not len(below) else int(below[-1]) + 1
    if first >= len(series.steps):
        return ""
    return f"Its logits are periodic (Fourier R² at least {PERIODIC:g}) from step {series.steps[first]:,.0f} on."


def _broken(run: Run) -> str:
    series = run.logged("loss")
    bad = np.flatnonzero(~np.isfinite(series.values))
    return f"Its loss is not a finite number at step {series.steps[bad[0]]:,.0f}." if len(bad) else ""
