"""Where the penalty goes: the modules of a model whose output vectors are held near the sphere.

In a transformer these are the outputs of every sublayer (attention, feed-forward, ...) *before they are added to the residual
stream* (arXiv 2606.32000, Eq. 3); in an MLP, the pre-activations of every hidden layer. The residual stream itself is not
penalised. Nothing is hooked or computed here: `find_sites` names modules. It runs one small forward of the model and looks at
the additions to the stream (`trace.py`, `residual.py`), so it knows no architecture by name. `Sites.verify` tests the result.

If a dropout follows the module, the vectors are those before the dropout. In training, a random part of them is added to the
stream. A module that is called several times in a forward (shared layers) is one site, with the vectors of all its calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hf_radial.sites.finder import HOW_TO_NAME, Finder, inside
from hf_radial.sites.site import Site
from hf_radial.sites.trace import Index

if TYPE_CHECKING:
    from hf_radial.sites.verify import BlockCheck

WHERE = ("increment", "pre_norm")
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Softplus)


class ForwardFailedError(ValueError):
    """The model failed on the inputs that its sites were to be found with."""


class Sites(Sequence[Site]):
    """The sites of one model, in the order in which the model runs them. `print(sites)` shows the table."""

    def __init__(self, model: nn.Module, sites: Iterable[Site]) -> None:
        self.model = model
        self._sites = list(sites)

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> list[Site]: ...
    def __getitem__(self, index: int | slice) -> Site | list[Site]:
        return self._sites[index]

    def __len__(self) -> int:
        return len(self._sites)

    def set_width(self, index: int, width: int) -> None:
        """Set the width of a site that was named without a trace."""
        self._sites[index] = replace(self._sites[index], width=width)

    def verify(self, inputs: Mapping[str, Any] | None = None) -> list[BlockCheck]:
        """Replay each block: does `out = in + sum of increments` hold, and how exactly? See `hf_radial.sites.verify`."""
        from hf_radial.sites.verify import verify

        return verify(self.model, self, default_inputs(self.model) if inputs is None else inputs)

    def table(self, more: Mapping[str, Sequence[str]] | None = None) -> str:
        """The sites as text: layer, sublayer, module, width `d` and parameters behind it; `more` are further columns."""
        rows = [("layer", "sublayer", "module", "width", "parameters behind it")]
        for site in self:
            where = " (input)" if site.at_input else "" if site.index is None else f"#{site.index}"
            width = "?" if site.width is None else str(site.width)
            rows.append((site.layer or "-", site.sublayer + where, site.kind, width, f"{site.parameters:,}"))
        columns = [*zip(*rows, strict=True), *((name, *cells) for name, cells in (more or {}).items())]
        widths = [max(map(len, column)) for column in columns]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in zip(*columns, strict=True)]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"Sites({type(self.model).__name__}, {[site.name for site in self]})"


def find_sites(
    model: nn.Module,
    inputs: Mapping[str, Any] | None = None,
    sites: Sequence[str] | None = None,
    where: str = "increment",
) -> Sites:
    """Find the modules whose output is exactly what a sublayer adds to the residual stream.

    Args:
        model: any module, also with adapters or wrappers. It is run once, in evaluation mode without gradients.
        inputs: the arguments of that forward, a small batch like those it will train on. Default: `default_inputs(model)`.
            Blocks that they do not reach (an image tower, if there is no image) are not looked at. If `model` only holds a
            `transformers` model and cannot be run on them itself, they are the arguments of the first such model in it.
        sites: the modules to take instead, as patterns that match whole module names: globs (`"*.mlp.c_proj"`), or regular
            expressions after `re:`. `"!PATTERN"` leaves out the matching modules; with only such exclusions, the other sites
            that are found stay. After a pattern, `#1` or `#name` is the place in the module's output if it is a tuple or a
            mapping, and `@1` the axis of the channels.
        where: `"increment"` (the paper's definition), or `"pre_norm"`: where the increment is a norm's output (Gemma 2, OLMo
            2, ...), take what goes into that norm. The penalty on a norm's output mostly acts on the norm's gain.

    Raises:
        ValueError: no site is found; a repeated block that runs has none, or adds something that no module returns (a partial
            penalty would be silently wrong); a pattern matches no module; `inputs` are needed; `where` is unknown.
        TypeError: `sites` is not a list of strings.

    >>> mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [(site.name, site.width) for site in find_sites(mlp)]
    [('0', 8)]
    """
    given: Any = model
    if not isinstance(given, nn.Module):
        raise TypeError(f"model={given!r} must be a torch.nn.Module, such as AutoModelForCausalLM.from_pretrained(...)")
    given = inputs
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(
            f"inputs is of type {type(inputs).__name__}; give a small batch as it takes in training, {{name: tensor}}"
        )
    if where not in WHERE:
        raise ValueError(f"where={where!r} is unknown; choose one of {', '.join(map(repr, WHERE))}")
    wanted, unwanted = _patterns(sites)
    excluded = {name for pattern in unwanted for name in _matches(model, pattern)}
    finder, failure = None, None
    for root in roots_of(model):
        try:
            finder = Finder(model, default_inputs(root) if inputs is None else inputs, root)
            break
        except Exception as error:
            failure = failure or error
    if wanted:
        found = _named(model, wanted, finder)
    elif finder is not None:
        found = finder.find(where, excluded)
    elif inputs is None and (hidden := _hidden_layers(model)):
        found = [_described(name, dict(model.named_modules())[name]) for name in hidden]
    else:
        raise ForwardFailedError(
            f"no site found: they are found by running {type(model).__name__} once, which failed on "
            f"{'its default inputs' if inputs is None else 'the given inputs'} with {type(failure).__name__}: {failure}. "
            f"Pass inputs=..., a small batch as it takes in training, or {HOW_TO_NAME}"
        ) from failure
    found = [site for site in found if not inside(site.name, excluded)]
    if not found:
        names = [name for name, _ in model.named_modules() if name]
        raise ValueError(
            f"no site found: {type(model).__name__} has neither residual adds nor activations after a module, or all were left "
            f"out. To go on, {HOW_TO_NAME}; its modules are named like {_examples(names)}"
        )
    return Sites(model, found)


def is_transformers_model(model: nn.Module) -> bool:
    """Whether it is a model of `transformers`, perhaps with adapters around it."""
    return isinstance(getattr(model, "config", None), PretrainedConfig) and hasattr(model, "main_input_name")


def roots_of(model: nn.Module) -> list[nn.Module]:
    """The modules whose arguments tell the padding: the model itself, and the first `transformers` model in it, if need be.

    That is so if the model is none of `transformers` itself, and if adapters put virtual tokens in front of the batch's (prompt
    tuning): then only the model within is called with a mask for all of them.
    """
    if is_transformers_model(model) and not adds_tokens(model):
        return [model]
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    return [model] if inner is None or inner is model else [model, inner]


def adds_tokens(model: nn.Module) -> bool:
    """Whether it is a model with prompt tuning: its sublayers see more vectors than its batch has tokens."""
    adapters: Any = getattr(model, "peft_config", None)
    if not isinstance(adapters, Mapping):
        return False
    # A prefix goes into the keys and values alone.
    return any(getattr(a, "is_prompt_learning", False) and a.peft_type != "PREFIX_TUNING" for a in adapters.values())


def default_inputs(model: nn.Module) -> dict[str, Any]:
    """A small batch for a `transformers` model: its own `dummy_inputs` made to fit, or an image of the size in its
    configuration.

    Raises:
        ValueError: the model is no `transformers` model, or takes neither tokens nor images.
    """
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if not isinstance(config, PretrainedConfig) or main is None:
        raise ValueError(f"{type(model).__name__} is no transformers model, so its inputs are not known")
    wrapped: Any = model
    base = wrapped.get_base_model() if hasattr(model, "get_base_model") else model  # of adapters
    forward = signature(base.forward).parameters
    if main == "pixel_values":
        vision = getattr(config, "vision_config", None) or config
        size, channels = getattr(vision, "image_size", None) or 224, getattr(vision, "num_channels", None) or 3
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0))}
    if main != "input_ids":
        raise ValueError(f"{type(model).__name__} takes {main!r}, for which there is no default")
    text = config.get_text_config()
    ids = torch.as_tensor(getattr(base, "dummy_inputs", {}).get("input_ids", [[7, 6, 0, 0, 1], [1, 2, 3, 0, 0]]))
    inputs: dict[str, Any] = {"input_ids": ids[:2] % (getattr(text, "vocab_size", None) or 2)}
    if config.is_encoder_decoder and "decoder_input_ids" in forward:
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :-1].contiguous()
    return inputs


# What the user named ---------------------------------------------------------------------------------------------------------


def check_patterns(sites: Any, name: str = "sites") -> None:
    """Raise unless `sites` is `None` or a list of at least one module name pattern.

    Args:
        name: of the argument, for the errors.

    Raises:
        TypeError: it is no list of texts.
        ValueError: it, or a pattern in it, is empty.
    """
    if sites is None:
        return
    if isinstance(sites, (str, Mapping)) or not isinstance(sites, Iterable) or not all(isinstance(p, str) for p in sites):
        raise TypeError(f"{name}={sites!r} must be a list of module name patterns, such as ['*.mlp.c_proj']")
    if not sites:
        raise ValueError(f"{name}={sites!r} names no module; leave it out to use the sublayers' outputs")
    if any(not pattern.removeprefix("!") for pattern in sites):
        raise ValueError(f"{name}={sites!r} has an empty pattern, which names no module; take it out")


def _patterns(sites: Any) -> tuple[list[str], list[str]]:
    check_patterns(sites)
    if sites is None:
        return [], []
    return [p for p in sites if not p.startswith("!")], [p[1:] for p in sites if p.startswith("!")]


def _matches(model: nn.Module, pattern: str) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    if pattern.startswith("re:"):
        try:
            matched = [name for name in names if re.fullmatch(pattern[3:], name)]
        except re.error as error:
            raise ValueError(f"sites: the pattern {pattern!r} is no regular expression behind re: ({error})") from error
    else:
        matched = [name for name in names if fnmatchcase(name, pattern)]
    if not matched:
        raise ValueError(
            f"sites: the pattern {pattern!r} matches no module of {type(model).__name__}. "
            f"Its modules are named like {_examples(names)}"
        )
    return matched


def _named(model: nn.Module, patterns: Sequence[str], finder: Finder | None) -> list[Site]:
    modules = dict(model.named_modules())
    found: dict[str, Site] = {}
    for pattern in patterns:
        parts = re.fullmatch(r"(.*?)(?:#(\w+))?(?:@(-?\d+))?", pattern)
        assert parts is not None
        place, axis = parts[2], parts[3]
        index: Index = int(place) if place and place.isdigit() else place
        for name in _matches(model, parts[1]):
            site = _described(name, modules[name], finder, index)
            found[name] = site if axis is None else replace(site, dim=int(axis), width=None)
    return [found[name] for name in modules if name in found]


def _described(name: str, module: nn.Module, finder: Finder | None = None, index: Index = None) -> Site:
    """A site that the user named, with its facts from the trace if there is one."""
    returned = [] if finder is None else [n for c in finder.trace.calls if c.module == name for n in c.returned]
    if finder is not None:
        for node in returned:
            if (name, index) in node.returned_by:
                return finder.describe(name, index, node, None)
        if returned and index is None:
            places = ", ".join(f"{name}#{i}" for n in returned for m, i in n.returned_by if m == name)
            raise ValueError(f"sites: {name!r} does not return a tensor but several; say which: {places}")
    width = getattr(module, "out_features", None) or getattr(module, "nf", None)  # nn.Linear; transformers' Conv1D
    parameters = sum(p.numel() for p in module.parameters())
    return Site(name, width if isinstance(width, int) else None, type(module).__name__, parameters, index)


def _hidden_layers(model: nn.Module) -> list[str]:
    """The hidden layers of an MLP of unknown inputs: a model whose parameters are all in one `nn.Sequential` of linear layers,
    each but the last before an activation."""
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Sequential) and set(module.parameters()) == set(model.parameters()):
            children = list(module.named_children())
            linear = [name for name, layer in children if isinstance(layer, nn.Linear)]
            followed = {name for (name, _), (_, after) in pairwise(children) if isinstance(after, ACTIVATIONS)}
            known = all(
                isinstance(layer, (nn.Linear, nn.Embedding, nn.Flatten, nn.Dropout, *ACTIVATIONS)) for _, layer in children
            )
            if known and followed.issuperset(linear[:-1]):
                return [f"{prefix}.{name}" if prefix else name for name in linear[:-1]]
    return []


def _examples(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    leaves = [n for n in names if not any(other.startswith(n + ".") for other in names)]
    return ", ".join(repr(n) for n in leaves[:most]) + (", ..." if len(leaves) > most else "")
