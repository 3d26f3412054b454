"""Ways to shorten the wait before a network generalises, and controls for them, one file each behind one interface.

    trainer = RadialTrainer(...)                                   # or any Trainer
    add_interventions(trainer, ["grokfast_ema:alpha=0.98,lamb=2", "stablemax"])
    trainer.train()

An intervention is written `name` or `name:option=value,option=value`. They compose in the order in which they are given. In
here: the names, and how text becomes an `Intervention`; what one is, is in `base.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from transformers import Trainer

    from hf_radial.interventions.base import Intervention

# Name -> file and class.
INTERVENTIONS = {
    "weight_decay": ("weight_decay", "WeightDecay"),
    "embedding_rate": ("embedding_rate", "EmbeddingRate"),
    "dropout": ("dropout", "Dropout"),
    "layer_norm": ("layer_norm", "LayerNorm"),
    "ngpt": ("ngpt", "NGPT"),
    "spectral_norm": ("spectral_norm", "SpectralNorm"),
    "activation_norm": ("activation_norm", "ActivationNorm"),
    "radial": ("radial", "Radial"),
    "projection": ("projection", "Projection"),
    "weight_norm": ("weight_norm", "WeightNorm"),
    "record": ("replay", "Record"),
    "replay": ("replay", "Replay"),
    "logit_temperature": ("logit_temperature", "LogitTemperature"),
    "radial_gradient": ("radial_gradient", "RadialGradient"),
    "grokfast_ema": ("grokfast", "GrokfastEMA"),
    "grokfast_ma": ("grokfast", "GrokfastMA"),
    "orthogonal_gradient": ("orthogonal_gradient", "OrthogonalGradient"),
    "stablemax": ("stablemax", "StableMax"),
    "muon": ("muon", "Muon"),
    "optim": ("optim", "Optim"),
}


def intervention(text: str) -> Intervention:
    """The intervention that `name:option=value,...` describes.

    Raises:
        ValueError: there is none of that name, it has no such option, or the option is out of range.

    >>> intervention("grokfast_ema:alpha=0.9").alpha
    0.9
    """
    name, _, rest = text.partition(":")
    if name not in INTERVENTIONS:
        near = get_close_matches(name, INTERVENTIONS, 1)
        known = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(INTERVENTIONS)}"
        raise ValueError(f"intervention {text!r}: {name!r} is unknown; {known}")
    module, class_name = INTERVENTIONS[name]
    kind: Any = getattr(import_module(f"{__name__}.{module}"), class_name)
    options: dict[str, Any] = {}
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    for part in filter(None, rest.split(",")):
        option, equals, value = part.partition("=")
        if not equals or option not in fields:
            has = f"its options are {', '.join(fields)}" if fields else "it has no options"
            raise ValueError(f"intervention {text!r}: {part!r} should be option=value, and {has}")
        options[option] = _value(value)
    try:
        made: Intervention = kind(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"intervention {text!r}: {error}") from error
    return made


def _value(text: str) -> Any:
    """As YAML reads it, and a number wherever it is one: `1e-3` too."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def interventions(given: Iterable[str | Intervention]) -> list[Intervention]:
    """All of them, those that are text read by `intervention`.

    Raises:
        ValueError: as `intervention`; or one comes twice.
    """
    made = [intervention(one) if isinstance(one, str) else one for one in given]
    names = [one.name for one in made]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"intervention {name!r} is given {names.count(name)} times; give it once")
    return made


def configure(config: Any, given: Iterable[str | Intervention] | None) -> Any:
    """Let interventions change the configuration of a model that is about to be made; returns it.

    Raises:
        ValueError: as `interventions`; or a model of this configuration has no place for one.
    """
    for one in interventions(given or ()):
        one.configure(config)
    return config


def add_interventions(trainer: Trainer, given: Iterable[str | Intervention]) -> list[Intervention]:
    """Give a trainer, of any kind, interventions: after it is made and before `train()`.

    Raises:
        ValueError, TypeError: an intervention is unknown, or cannot be used with this trainer or model; nothing was trained.
    """
    made = interventions(given)
    for one in made:
        one.attach(trainer)
    return made
