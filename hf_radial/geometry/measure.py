"""`measure` takes all measurements of a model's geometry on one batch.

    readings = measure(model, batch).readings

`GeometryCallback` calls it at intervals while a `Trainer` trains. The measurements themselves are in the other files of this
folder.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isclose, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from hf_radial.geometry.curvature import curvature_readings
from hf_radial.geometry.drift import Sketch, drift_readings, sketch
from hf_radial.geometry.function import IGNORED, function_readings, weight_norm_readings
from hf_radial.geometry.groups import GROUPS, METRICS, added_readings
from hf_radial.geometry.memory import Memory
from hf_radial.geometry.modular_table import ModularTable, modular_readings
from hf_radial.geometry.observe import LossOf, Observation, model_loss, observe, quiet, twice_differentiable
from hf_radial.geometry.proposition import proposition_readings, weight_of
from hf_radial.geometry.radial import radial_readings
from hf_radial.geometry.reading import Reading, logs_of
from hf_radial.geometry.spectrum import spectrum_readings
from hf_radial.penalty.radial_penalty import RadialPenalty
from hf_radial.sites.find import find_sites
from hf_radial.sites.site import Site

DEFAULT_GROUPS = ("radial", "spectrum", "function", "drift")
EXPENSIVE_GROUPS = ("proposition", "curvature", "fourier")
DEAR_GROUPS = EXPENSIVE_GROUPS  # its former name
REMEMBERED_VECTORS = 1024
# What a group of ours may raise on a model that it does not fit.
EXPECTED = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError)


@dataclass
class Measurement:
    """What one measurement found.

    Attributes:
        readings: the finite numbers.
        memory: what the next measurement is compared with.
        failures: what could not be measured and why, one sentence each, which names the site or group.
    """

    readings: list[Reading]
    memory: Memory
    failures: list[str]

    def logs(self) -> dict[str, float]:
        """The readings without an index, under the names that `Trainer` logs."""
        return logs_of(self.readings)

    @property
    def troubles(self) -> list[str]:
        """The former name of `failures`."""
        warnings.warn("Measurement.troubles is now Measurement.failures", FutureWarning, stacklevel=2)
        return self.failures


def measure(
    model: nn.Module,
    batch: Mapping[str, Any],
    metrics: Sequence[str] = DEFAULT_GROUPS,
    *,
    held_out: Mapping[str, Any] | None = None,
    sites: Sequence[str] | Sequence[Site] | None = None,
    loss: LossOf | None = None,
    penalty: RadialPenalty | None = None,
    learning_rate: float | None = None,
    curvature_probes: int = 32,
    modular: ModularTable | None = None,
    memory: Memory | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure a model's geometry on a batch. The model, its gradients and all random states are left as they are.

    Args:
        model: any module that `RadialPenalty` takes, on the device of `batch`; not sharded, not wrapped in DDP.
        batch: the probe, `{name: tensor}`, with labels.
        metrics: groups of `GROUPS`: `radial`, `spectrum`, `function`, `drift`; and the expensive ones, `proposition`,
            `curvature` and `fourier` (for modular tasks); and the metrics that other packages add (`geometry/groups.py`).
        held_out: a second batch, for loss, confidence and accuracy of the group `function`.
        sites: the sites to measure, or patterns for `find_sites`. Default: the penalty's, or those that are found.
        loss: the task loss of a model and a batch, a mean over the batch. Default: the model's own.
        penalty: the penalty that the model trains with; it gives the targets and `radial_energy_total`.
        learning_rate: for `two_over_lr`.
        curvature_probes: random vectors for the Hessian's trace.
        modular: the task's table; needed by `fourier`.
        memory: the previous measurement's, for speeds and drift.
        seed: random seed of the vectors of `curvature`.

    Raises:
        ValueError: a group is unknown, `fourier` lacks `modular`, the model returns no loss, or `find_sites` finds no sites.
        TypeError: `batch` is no mapping.
        RuntimeError: the batch does not reach a site.

    >>> from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
    >>> model = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=8))
    >>> batch = {"input_ids": torch.tensor([[1, 2], [3, 4], [5, 6], [0, 1]]), "labels": torch.tensor([3, 0, 4, 1])}
    >>> sorted({reading.site for reading in measure(model, batch, ["radial"]).readings})
    ['', 'hidden.0', 'hidden.1']
    """
    check_groups(metrics, modular)
    given: Any = batch
    if not isinstance(given, Mapping):
        raise TypeError(f"batch is of type {type(batch).__name__}; give the model's arguments with labels, {{name: tensor}}")
    started = time.perf_counter()
    found = _sites(model, batch, sites, penalty)
    loss = loss or model_loss
    taken = _Taken()
    memory = memory or Memory()
    after = replace(memory)
    side = "both" if penalty is None else penalty.side
    added = [name for name in metrics if name not in GROUPS]
    with quiet(model) as measured:
        if added or {"radial", "spectrum", "drift", "proposition"} & set(metrics):
            with taken.time("observe"):
                seen = _observe(measured, batch, found, loss, penalty, "proposition" in metrics)
            taken.failures += _not_finite(seen)
            for view in seen.sites:
                name = view.site.name
                if "radial" in metrics:
                    with taken.time("radial"):
                        taken.readings += radial_readings(view, memory.vectors.get(name))
                if "spectrum" in metrics:
                    with taken.time("spectrum"):
                        taken.readings += spectrum_readings(view)
                if "proposition" in metrics and view.inputs is not None:
                    with taken.time("proposition"):
                        weight = weight_of(measured.get_submodule(name))
                        if weight is not None and view.finite.all():
                            taken.readings += proposition_readings(name, view.inputs, view.vectors, weight, view.target, side)
            if "drift" in metrics:
                with taken.time("drift"):
                    sketches = {view.site.name: sketch(view.vectors) for view in seen.sites}
                    now = {name: one for name, one in sketches.items() if one is not None}
                    taken.readings += _drift(now, memory)
                    after = replace(after, first={**now, **memory.first}, previous=now)
            if "radial" in metrics:
                vectors = {view.site.name: view.vectors[:REMEMBERED_VECTORS].float().cpu() for view in seen.sites}
                after = replace(after, vectors=vectors)
            for name in added:
                with taken.attempt(name, Exception):
                    taken.readings += added_readings(name, measured, batch, seen)
        if "function" in metrics:
            with taken.attempt("function"), torch.no_grad():
                taken.readings += _function(measured, batch, "")
                if held_out is not None:
                    taken.readings += _function(measured, held_out, "held_out_")
                taken.readings += weight_norm_readings(measured)
        if "curvature" in metrics:
            with taken.attempt("curvature"), twice_differentiable():
                parameters = [p for p in measured.parameters() if p.requires_grad]
                taken.readings += curvature_readings(
                    lambda: loss(measured, dict(batch)).mean(), parameters, learning_rate, curvature_probes, seed
                )
        if "fourier" in metrics and modular is not None:
            with taken.attempt("fourier"):
                taken.readings += modular_readings(measured, modular, found)
    readings = [reading for reading in taken.readings if isfinite(reading.value)]
    readings += [Reading(f"seconds_{group}", seconds) for group, seconds in taken.seconds.items()]
    readings.append(Reading("seconds", time.perf_counter() - started))
    return Measurement(readings, after, taken.failures)


def check_groups(metrics: Any, modular: ModularTable | None = None) -> None:
    """Raise a ValueError unless `metrics` are groups of `GROUPS`, or metrics of other packages, that can be measured."""
    if isinstance(metrics, str) or not isinstance(metrics, Iterable) or not metrics:
        raise ValueError(f"metrics={metrics!r} must be a list of groups, such as {list(DEFAULT_GROUPS)}")
    for group in metrics:
        if not isinstance(group, str) or group not in METRICS:
            raise ValueError(f"metrics: {group!r} is unknown; choose among {', '.join(METRICS)}")
        if list(metrics).count(group) > 1:
            raise ValueError(f"metrics: {group!r} is given {list(metrics).count(group)} times; give it once")
        _ = METRICS[group]  # two packages may have this name, or its package may fail
    if "fourier" in metrics and modular is None:
        raise ValueError("metrics: 'fourier' needs the task's table: give modular=ModularTable(modulus=97, operation='add')")


class _Taken:
    """The numbers so far, the seconds that each group took, and what could not be measured."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.seconds: dict[str, float] = {}
        self.failures: list[str] = []

    @contextmanager
    def time(self, group: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[group] = self.seconds.get(group, 0.0) + time.perf_counter() - started

    @contextmanager
    def attempt(self, group: str, expected: Any = EXPECTED) -> Iterator[None]:
        """Measure one group on which no other depends. If it fails, the others are still measured."""
        try:
            with self.time(group):
                yield
        except expected as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.failures.append(f"{group}: {type(error).__name__}: {error}")


def _sites(
    model: nn.Module, batch: Mapping[str, Any], sites: Sequence[str] | Sequence[Site] | None, penalty: RadialPenalty | None
) -> list[Site]:
    if sites is not None and all(isinstance(site, Site) for site in sites):
        return [site for site in sites if isinstance(site, Site)]
    if sites is None and penalty is not None:
        return list(penalty.sites)
    return list(find_sites(model, {k: v for k, v in batch.items() if k != "labels"}, sites))  # type: ignore[arg-type]


def _observe(
    model: nn.Module,
    batch: Mapping[str, Any],
    sites: list[Site],
    loss: LossOf,
    penalty: RadialPenalty | None,
    with_inputs: bool,
) -> Observation:
    if penalty is None:
        return observe(model, batch, sites, loss_of=loss, with_inputs=with_inputs)
    return observe(
        model,
        batch,
        sites,
        loss_of=loss,
        targets=penalty.targets,
        radial_lambda=penalty.radial_lambda,
        side=penalty.side,
        with_inputs=with_inputs,
    )


def _not_finite(seen: Observation) -> list[str]:
    failures = []
    if not seen.loss.isfinite():
        failures.append(f"the task loss of the probe is {seen.loss.item()}")
    for view in seen.sites:
        finite = view.finite
        if not finite.all():
            failures.append(f"site {view.site.name!r}: {int((~finite).sum())} of {len(finite)} vectors are not finite")
    return failures


def _drift(now: Mapping[str, Sketch], memory: Memory) -> list[Reading]:
    readings: list[Reading] = []
    for site, one in now.items():
        for since, then in (("first", memory.first.get(site)), ("previous", memory.previous.get(site))):
            if then is not None and then.similarity.shape == one.similarity.shape:
                readings += drift_readings(site, one, then, since)
    return readings


def _function(model: nn.Module, batch: Mapping[str, Any], prefix: str) -> list[Reading]:
    if not isinstance(batch.get("labels"), Tensor):
        raise ValueError(f"the batch has no labels, only {', '.join(batch)}")
    outputs = model(**batch)
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise ValueError(f"{type(model).__name__} returned no logits")
    labels, shift = batch["labels"], predicts_next(model)
    readings = function_readings(logits, labels, shift=shift, prefix=prefix)
    # Some models shift their labels otherwise than their name says (`BartForCausalLM` does not): their own loss decides.
    own = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if logits.ndim == 3 and (labels[:, 1:] != IGNORED).any() and not _same(own, readings):
        other = function_readings(logits, labels, shift=not shift, prefix=prefix)
        if _same(own, other):
            return other
    return readings


def _same(loss: Tensor | None, readings: Sequence[Reading]) -> bool:
    return isinstance(loss, Tensor) and loss.numel() == 1 and isclose(float(loss), readings[0].value, rel_tol=1e-4)


def predicts_next(model: nn.Module) -> bool:
    """Whether position `i` of the logits predicts label `i + 1`, as in a causal language model; decided by the class."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    loss_type, config = str(getattr(base, "loss_type", "")), getattr(base, "config", None)
    if "ForConditionalGeneration" in loss_type:  # of images and text, but not of an encoder and a decoder
        return not any(getattr(one, "is_encoder_decoder", False) for one in (config, getattr(config, "text_config", None)))
    return "CausalLM" in loss_type or type(base).__name__.endswith(("ForCausalLM", "LMHeadModel"))


__all__ = [
    "DEAR_GROUPS",
    "DEFAULT_GROUPS",
    "EXPENSIVE_GROUPS",
    "GROUPS",
    "Measurement",
    "Memory",
    "ModularTable",
    "check_groups",
    "measure",
]
