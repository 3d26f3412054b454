"""What would make a penalty wrong without an error: checks of a model and its sites."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hf_radial.internals.torch_modules import forward_hooks
from hf_radial.internals.trainer_parts import checkpoints_reentrantly
from hf_radial.sites.site import Site


def check_checkpointing(model: nn.Module) -> None:
    """Raise a ValueError if the model checkpoints with `use_reentrant=True`.

    Reentrant checkpointing runs the first forward without a graph. A penalty collected there has no gradient, and nothing
    fails.
    """
    for name, module in model.named_modules():
        if checkpoints_reentrantly(module):
            raise ValueError(
                f"{name or type(model).__name__} uses gradient checkpointing with use_reentrant=True, under which the penalty "
                "has no gradient. Use gradient_checkpointing_kwargs={'use_reentrant': False}"
            )


def check_unhooked(sites: Sequence[Site], modules: Mapping[str, nn.Module], owner: type) -> None:
    """Raise a ValueError if a site has a hook of another penalty.

    Args:
        sites: of the penalty that is about to be attached.
        modules: of the model, by name.
        owner: the class of penalties.
    """
    for site in sites:
        for hook in (hook for hooks in forward_hooks(modules[site.name]) for hook in hooks.values()):
            other = getattr(getattr(getattr(hook, "call", None), "func", None), "__self__", None)
            if isinstance(other, owner):
                raise ValueError(
                    f"site {site.name!r} has a {owner.__name__} already, and would be penalised twice: detach() the other "
                    "one, or give each of the two its own modules with sites=[...]"
                )


def warn_of_frozen(sites: Sequence[Site], radii: Sequence[tuple[int, Tensor]]) -> None:
    """Warn of sites whose vectors depend on no trained parameter.

    Args:
        sites: of the penalty.
        radii: of a forward pass, with the number of the site before each.
    """
    acting = {i for i, r in radii if r.requires_grad}
    frozen = [sites[i].name for i in dict.fromkeys(i for i, _ in radii) if i not in acting]
    if frozen:
        warnings.warn(
            f"the penalty cannot act at {len(frozen)} of {len(sites)} sites ({', '.join(frozen[:3])}"
            f"{', ...' if len(frozen) > 3 else ''}): their vectors depend on no parameter that is trained. Unfreeze some, "
            "leave these sites out, or set radial_lambda=0",
            stacklevel=2,
        )


def skips_layers(model: nn.Module) -> bool:
    """Whether the model leaves out whole layers at random in training. A site may then have no vectors."""
    config: Any = getattr(model, "config", None)
    options = config.to_dict() if hasattr(config, "to_dict") else {}
    return any("layerdrop" in name and isinstance(value, float) and value > 0 for name, value in options.items())
