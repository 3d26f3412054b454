"""Methods that are said to shorten the wait before a network generalises, and controls for them: one file each, one interface.

    trainer = RadialTrainer(...)                                   # or any Trainer
    add_interventions(trainer, ["grokfast_ema:alpha=0.98,lamb=2", "stablemax"])
    trainer.train()

An intervention is written `name` or `name:option=value,option=value`. Several take effect in the order in which they are given.
An intervention is in force whenever the trainer trains: with `model=` or `model_init=`, in every trial of
`hyperparameter_search`, in a second `train()`, and in a run that is resumed.

A saved model loads with `from_pretrained` alone, with four exceptions: `projection`, `logit_temperature`, `cosine_head` and
`replay` of the radius change what the model computes in a way that no weights can hold. For these:

    model = AutoModelForCausalLM.from_pretrained(folder)
    restore(model)                                                 # puts them in force again, and does nothing for other models

Other packages and notebooks add interventions of their own: `register_intervention`, or an entry point (`plugins.py`).

In here: the names, and how text becomes an `Intervention`. What one is, is in `base.py`; what its options are, in `options.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from hf_radial.interventions.options import check_values, read_options
from hf_radial.plugins import Registry

if TYPE_CHECKING:
    from transformers import Trainer

    from hf_radial.interventions.base import Intervention

Model = TypeVar("Model")
Kind = TypeVar("Kind", bound=type)


def _wrong(found: Any, name: str) -> str:
    from hf_radial.interventions.base import Intervention

    inherits: bool = isinstance(found, type) and issubclass(found, Intervention)
    if not inherits or not is_dataclass(found):
        return "an intervention is a dataclass that inherits from hf_radial.interventions.base.Intervention"
    given = getattr(found, "name", None)
    return "" if given == name else f"its attribute `name` is {given!r}; write name: ClassVar[str] = {name!r}"


INTERVENTIONS = Registry(
    "intervention",
    {
        "weight_decay": "hf_radial.interventions.weight_decay:WeightDecay",
        "embedding_rate": "hf_radial.interventions.embedding_rate:EmbeddingRate",
        "dropout": "hf_radial.interventions.dropout:Dropout",
        "layer_norm": "hf_radial.interventions.layer_norm:LayerNorm",
        "ngpt": "hf_radial.interventions.ngpt:NGPT",
        "spectral_norm": "hf_radial.interventions.spectral_norm:SpectralNorm",
        "activation_norm": "hf_radial.interventions.activation_norm:ActivationNorm",
        "radial": "hf_radial.interventions.radial:Radial",
        "projection": "hf_radial.interventions.projection:Projection",
        "weight_norm": "hf_radial.interventions.weight_norm:WeightNorm",
        "record": "hf_radial.interventions.replay:Record",
        "replay": "hf_radial.interventions.replay:Replay",
        "initial_scale": "hf_radial.interventions.initial_scale:InitialScale",
        "logit_temperature": "hf_radial.interventions.logit_temperature:LogitTemperature",
        "logit_norm": "hf_radial.interventions.logit_norm:LogitNorm",
        "z_loss": "hf_radial.interventions.z_loss:ZLoss",
        "label_smoothing": "hf_radial.interventions.label_smoothing:LabelSmoothing",
        "cosine_head": "hf_radial.interventions.cosine_head:CosineHead",
        "jacobian": "hf_radial.interventions.jacobian:Jacobian",
        "radial_gradient": "hf_radial.interventions.radial_gradient:RadialGradient",
        "grokfast_ema": "hf_radial.interventions.grokfast:GrokfastEMA",
        "grokfast_ma": "hf_radial.interventions.grokfast:GrokfastMA",
        "egalitarian_gradient": "hf_radial.interventions.egalitarian_gradient:EgalitarianGradient",
        "column_normalization": "hf_radial.interventions.column_normalization:ColumnNormalization",
        "sam": "hf_radial.interventions.sam:SAM",
        "orthogonal_gradient": "hf_radial.interventions.orthogonal_gradient:OrthogonalGradient",
        "stablemax": "hf_radial.interventions.stablemax:StableMax",
        "soap": "hf_radial.interventions.soap:SOAP",
        "muon": "hf_radial.interventions.muon:Muon",
        "optim": "hf_radial.interventions.optim:Optim",
        "l2_init": "hf_radial.interventions.l2_init:L2Init",
        "spectral_penalty": "hf_radial.interventions.spectral_penalty:SpectralPenalty",
        "shrink_perturb": "hf_radial.interventions.shrink_perturb:ShrinkPerturb",
        "redo": "hf_radial.interventions.redo:ReDo",
        "ewc": "hf_radial.interventions.ewc:EWC",
    },
    _wrong,
)


def register_intervention(kind: Kind) -> Kind:
    """Let this process use an intervention by its `name`, in text too; also as a decorator.

    A package declares it instead, under `[project.entry-points."hf_radial.interventions"]`: so other processes find it, too.

    Args:
        kind: a dataclass that inherits from `hf_radial.interventions.base.Intervention`.

    Raises:
        TypeError: it is not such a class, or has no `name`.
        PluginError: its name is taken; the message says by whom.
    """
    INTERVENTIONS.register(kind, getattr(kind, "name", None) or getattr(kind, "__name__", "my_method").lower())
    return kind


def intervention(text: str) -> Intervention:
    """The intervention that `name:option=value,...` describes.

    Raises:
        ValueError: there is none of that name, it has no such option, an option that it needs is missing, or a value is of
            another type or out of range.

    >>> intervention("grokfast_ema:alpha=0.9").alpha
    0.9
    """
    kind, options = _read(text)
    try:
        made: Intervention = kind(**options)
    except ValueError as error:
        raise ValueError(f"intervention {text!r}: {error}") from error
    return made


def check_text(text: str) -> None:
    """Check `name:option=value,...` without making the intervention: a file that it names need not be there yet.

    Raises:
        ValueError: as `intervention`.
    """
    _read(text)


def _read(text: str) -> tuple[Any, dict[str, Any]]:
    """The class and its options."""
    if not isinstance(text, str):
        raise ValueError(f"intervention {text!r} must be a text such as 'grokfast_ema:alpha=0.98', not {type(text).__name__}")
    name, _, rest = text.strip().partition(":")
    if name not in INTERVENTIONS:
        raise ValueError(f"intervention {text!r}: {name!r} is unknown; {INTERVENTIONS.unknown(name)}")
    kind: Any = INTERVENTIONS[name]
    try:
        options = read_options(kind, rest)
        check_values(kind, options)
    except ValueError as error:
        raise ValueError(f"intervention {text!r}: {error}") from error
    return kind, options


def interventions(given: Iterable[str | Intervention]) -> list[Intervention]:
    """All of them; those that are text are read by `intervention`.

    Raises:
        ValueError: as `intervention`; or one comes twice, or `given` is no list.
    """
    from hf_radial.interventions.base import Intervention

    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        such = [given] if isinstance(given, str) else ["dropout:p=0.1"]
        raise ValueError(f"interventions={given!r} must be a list, such as {such!r}")
    made = [one if isinstance(one, Intervention) else intervention(one) for one in given]
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
    if not hasattr(trainer, "callback_handler"):
        raise TypeError(f"trainer is of type {type(trainer).__name__}; give a transformers.Trainer, which holds the model")
    for one in made:
        one.attach(trainer)
    return made


def restore(model: Model) -> Model:
    """Put in force, in a model that was loaded, what it was trained with and its weights cannot hold; returns the model.

    A model that was trained without such an intervention is left as it is.

    Raises:
        ValueError: an intervention that the model's configuration names cannot be made, such as a `replay` of a file that is
            gone.
    """
    from hf_radial.interventions.base import SAVED

    for one in interventions(getattr(getattr(model, "config", None), SAVED, None) or ()):
        one.put_in_force(model)  # type: ignore[arg-type]
    return model
