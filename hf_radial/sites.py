"""Where the penalty goes: the modules of a model whose output vectors are held near the sphere.

In a transformer these are the outputs of every sublayer (attention, feed-forward) *before they are added to the residual
stream* (arXiv 2606.32000, Eq. 3); in an MLP, the pre-activations of every hidden layer. The residual stream itself is not
penalised. Nothing is hooked or computed here: `find_sites` only names modules.

Known by name are the architectures in `SUBLAYER_OUTPUTS`, each checked against its residual stream by a test, our own
`ModularMLP` and plain `nn.Sequential` MLPs. Where a dropout follows the module, the vectors are those before it: what is added
to the stream in training is a random part of them. Look-alikes are not guessed: Gemma 2, say, has the module names of Llama,
but what it adds to its stream is a norm's output. For any other model the user names the modules: `sites=["*.o_proj", ...]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

from torch import nn

# model_type -> the name of its list of blocks, and the module of each sublayer within a block whose output is added to the
# stream. Cross-attention is there in some configurations only.
_LLAMA = ("layers", ("self_attn.o_proj", "mlp.down_proj"))
_BERT = ("layer", ("attention.output.dense", "output.dense"))
SUBLAYER_OUTPUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gpt2": ("h", ("attn.c_proj", "mlp.c_proj")),
    "gpt_neox": ("layers", ("attention.dense", "mlp.dense_4h_to_h")),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), _LLAMA),
    **dict.fromkeys(("bert", "roberta", "electra"), _BERT),
}
CROSS_ATTENTION = ("crossattention.c_proj", "crossattention.output.dense")

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Softplus)


@dataclass(frozen=True)
class Site:
    """One penalised module.

    Attributes:
        name: its name in `model.named_modules()`.
        width: `d`, the number of channels of its output, where the module tells; else `None` until its first forward.
        kind: the module's class name.
        parameters: the number of parameters that the module itself holds.
    """

    name: str
    width: int | None
    kind: str
    parameters: int


def find_sites(model: nn.Module, patterns: Sequence[str] | None = None) -> list[Site]:
    """Name the modules whose outputs are penalised, in the order in which the model holds them.

    Args:
        model: any module; adapters and wrappers around a known model are seen through.
        patterns: what to take instead of the known places, matched against module names: globs (`"*.mlp.c_proj"`), or
            regular expressions after `re:` (`r"re:.*layers\\.\\d+\\.mlp"`), which must match the whole name.

    Raises:
        ValueError: a pattern matches no module; the model is of no known kind; a block of a known model has not the sites
            that its kind should have (a partial penalty would be silently wrong).
        TypeError: `patterns` is not a list of strings.
    """
    names = _match(model, patterns) if patterns is not None else _known_sites(model)
    modules = dict(model.named_modules())
    return [_describe(name, modules[name]) for name in names]


def _describe(name: str, module: nn.Module) -> Site:
    width = getattr(module, "out_features", None) or getattr(module, "nf", None)  # nn.Linear; transformers' Conv1D
    parameters = sum(p.numel() for p in module.parameters())
    return Site(name, width if isinstance(width, int) else None, type(module).__name__, parameters)


def _match(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    if isinstance(patterns, str) or not all(isinstance(p, str) for p in patterns):
        raise TypeError(f"sites={patterns!r} must be a list of module name patterns, such as ['*.mlp.c_proj']")
    if not patterns:
        raise ValueError("sites=[] names no module; leave it out to use the model's known sublayer outputs")
    names = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        if pattern.startswith("re:"):
            matched = [name for name in names if re.fullmatch(pattern[3:], name)]
        else:
            matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(
                f"sites: the pattern {pattern!r} matches no module of {type(model).__name__}. "
                f"Its modules are named like {_examples(names)}"
            )
        found.update(matched)
    return [name for name in names if name in found]


def _known_sites(model: nn.Module) -> list[str]:
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type == "modular_mlp":
        return [name for name, _ in model.named_modules() if re.fullmatch(r"(.*\.)?hidden\.\d+", name)]
    if model_type in SUBLAYER_OUTPUTS:
        return _by_block(model, *SUBLAYER_OUTPUTS[model_type])
    if sites := _hidden_layers(model):
        return sites
    raise ValueError(
        f"no site found: where {type(model).__name__} (model_type={model_type!r}) adds to its residual stream is not known. "
        f"Name the modules with sites=[...]; its modules are named like {_examples(n for n, _ in model.named_modules() if n)}. "
        f"Known model types: {', '.join(sorted([*SUBLAYER_OUTPUTS, 'modular_mlp']))}"
    )


def _by_block(model: nn.Module, blocks: str, sublayers: Sequence[str]) -> list[str]:
    modules = dict(model.named_modules())
    sites = []
    for block in (name for name in modules if re.fullmatch(rf"(.*\.)?{blocks}\.\d+", name)):
        for sublayer in (*sublayers, *CROSS_ATTENTION):
            name = f"{block}.{sublayer}"
            if name in modules:
                sites.append(name)
            elif sublayer in sublayers:
                raise ValueError(
                    f"no site found in block {block!r}: it has no module {name!r}. A penalty on the other sublayers alone "
                    "would be silently partial; name the modules with sites=[...]"
                )
    if not sites:
        raise ValueError(f"no site found: {type(model).__name__} has no block; name the modules with sites=[...]")
    return sites


def _hidden_layers(model: nn.Module) -> list[str]:
    """Linear layers that an activation follows in an `nn.Sequential`: their outputs are the hidden pre-activations."""
    sites = []
    for parent, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            children = list(module.named_children())
            for (name, layer), (_, following) in pairwise(children):
                if isinstance(layer, nn.Linear) and isinstance(following, ACTIVATIONS):
                    sites.append(f"{parent}.{name}" if parent else name)
    return sites


def _examples(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    leaves = [n for n in names if not any(other.startswith(n + ".") for other in names)]
    return ", ".join(repr(n) for n in leaves[:most]) + (", ..." if len(leaves) > most else "")
