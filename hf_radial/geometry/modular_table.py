"""Running a model of modular arithmetic over its whole table, for the group `fourier`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_radial.geometry.fourier import OPERATIONS, fourier_readings
from hf_radial.geometry.reading import Reading
from hf_radial.sites.site import Site, site_vectors

ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class ModularTable:
    """The table of `(a operation b) mod p`, and the inputs that ask a model for each entry.

    Attributes:
        modulus: `p`.
        operation: `"add"` or `"sub"`.
        inputs: the model's arguments for all pairs, row `a * p + b`, `{name: tensor}` with `p * p` rows. Not given: `input_ids`
            of shape `(p * p, 2)`, as `ModularMLPForSequenceClassification` takes them.
        position: the position in a sequence that predicts the answer; unused by models with one row of logits per example.
        train: `(p, p)`, true at the training pairs, for the excluded loss. Default: all pairs.

    Residues are tokens `0 ... p - 1`, in the embedding, and as answers.

    Raises:
        ValueError: the modulus, the operation or the number of rows does not fit.
    """

    modulus: int
    operation: str = "add"
    inputs: Mapping[str, Tensor] | None = None
    position: int = -1
    train: Tensor | None = None

    def __post_init__(self) -> None:
        if type(self.modulus) is not int or self.modulus < 2:
            raise ValueError(f"modulus={self.modulus!r} must be a whole number of at least 2")
        if self.operation not in OPERATIONS:
            raise ValueError(f"operation={self.operation!r} is not supported; choose one of {', '.join(OPERATIONS)}")
        rows = self.modulus**2
        for name, value in (self.inputs or {}).items():
            if len(value) != rows:
                raise ValueError(f"inputs[{name!r}] has {len(value)} rows; the table of modulus {self.modulus} has {rows}")
        if self.train is not None and tuple(self.train.shape) != (self.modulus, self.modulus):
            raise ValueError(
                f"train has shape {tuple(self.train.shape)}; it needs one entry for each pair: {(self.modulus,) * 2}"
            )

    @classmethod
    def trained_on(cls, modulus: int, operation: str, pairs: Tensor) -> ModularTable:
        """The table with these training pairs, shape `(rows, 2)`."""
        train = torch.zeros(modulus, modulus, dtype=torch.bool)
        train[tuple(pairs.T)] = True
        return cls(modulus, operation, train=train)

    @property
    def batch(self) -> dict[str, Tensor]:
        """The model's arguments for the whole table."""
        if self.inputs is not None:
            return dict(self.inputs)
        residues = torch.arange(self.modulus)
        return {"input_ids": torch.cartesian_prod(residues, residues)}

    @property
    def answers(self) -> Tensor:
        """The right answers, `(p, p)`."""
        a = torch.arange(self.modulus)
        return (a[:, None] + OPERATIONS[self.operation] * a) % self.modulus


@torch.no_grad()
def modular_readings(model: nn.Module, table: ModularTable, sites: Sequence[Site]) -> list[Reading]:
    """The group `fourier`. The model is in evaluation mode.

    Raises:
        ValueError: the model has fewer tokens or classes than the modulus, or returns no logits.
    """
    p = table.modulus
    device = next(model.parameters()).device
    values: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    modules = dict(model.named_modules())

    def keep(site: Site) -> Any:
        def after(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
            h = site_vectors(site, args, kwargs, output)
            if h is not None:
                h = h.movedim(site.dim, -1)
                values[site.name].append((h if h.ndim == 2 else h[:, table.position]).float().cpu())

        register = modules[site.name].register_forward_pre_hook if site.at_input else modules[site.name].register_forward_hook
        return register(after, with_kwargs=True)

    handles = [keep(site) for site in sites if not site.sequence_first]
    try:
        parts = []
        for start in range(0, p * p, ROWS_AT_ONCE):
            rows = {name: value[start : start + ROWS_AT_ONCE].to(device) for name, value in table.batch.items()}
            logits = model(**rows).logits
            parts.append((logits if logits.ndim == 2 else logits[:, table.position]).float().cpu())
    finally:
        for handle in handles:
            handle.remove()
    logits = torch.cat(parts)
    if logits.shape[1] < p:
        raise ValueError(f"the model has {logits.shape[1]} classes, fewer than the modulus {p}")
    embedding = None
    embed = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None  # type: ignore[operator]
    if isinstance(embed, nn.Embedding) and embed.num_embeddings >= p:
        embedding = embed.weight[:p].float().cpu()
    return fourier_readings(
        logits[:, :p].reshape(p, p, p),
        table.answers,
        embedding=embedding,
        sites={name: torch.cat(found).reshape(p, p, -1) for name, found in values.items() if sum(map(len, found)) == p * p},
        operation=table.operation,
        train=table.train,
    )
