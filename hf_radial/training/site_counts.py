"""The weights of micro-batches whose vectors are known only when the model is called: GRPO, ORPO, sentence embeddings, ...

The penalty of an effective batch is `1/N * sum over micro-batches m of n_m * mean_m`, where `n_m` vectors are seen in
micro-batch `m`, and `N` in all micro-batches of all ranks. `N` is known in the last micro-batch. So the last one takes its
weight `n_m / N` with it into the backward pass, as if it had been counted before. The gradients of those before it wait in a
buffer of their own, which a second, earlier backward pass fills. They are scaled by `1 / N` and added to the parameters'
gradients just before the last backward pass. What averages gradients over ranks then averages them as well.

Cost, beyond what a batch that can be counted costs: nothing where a step is one micro-batch (but one small reduction over the
ranks); else one more backward pass for each micro-batch but the last, and one more gradient in memory (in an encoder-decoder
two, for each kind of padding has its own `N`).

Not done: weighting by an estimate of `N` in one backward pass, which is wrong by the estimate's error; a forward pass that only
counts, which would generate, draw and log twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_radial.penalty.radial_penalty import SiteSums


class SiteCounts:
    """One group of micro-batches, weighted by what the sites see of them.

    Args:
        parameters: those that are trained.
        mask_of_site: for each site the number of its padding mask; sites with the same mask see equally many vectors, up to a
            factor that is the same in all micro-batches. Shape `(sites,)`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], mask_of_site: Tensor) -> None:
        self.parameters, self.mask_of_site = parameters, mask_of_site
        self.masks = int(mask_of_site.max()) + 1
        self.sites_of_mask = [(mask_of_site == mask).float() for mask in range(self.masks)]
        self.clear()

    def clear(self) -> None:
        """Forget the group."""
        self.unit: Tensor | None = None  # the weights of this rank's micro-batches are in multiples of its first
        self.total: Tensor | None = None  # so far, on this rank, shape `(masks,)`
        self.means: Tensor | None = None  # of the micro-batches so far, weighted, shape `(sites,)`
        self.gradients: list[list[Tensor | None]] = [[] for _ in range(self.masks)]

    def counted(self, sums: SiteSums) -> Tensor:
        """How many vectors the micro-batch has, by mask: those of the site that saw most; shape `(masks,)`."""
        count = sums.count.to(self.mask_of_site.device, torch.float32)
        return count.new_zeros(self.masks).scatter_reduce(0, self.mask_of_site, count, "amax")

    def hold(self, sums: SiteSums, accelerator: Accelerator, differentiable: bool) -> Tensor:
        """Keep the gradient of a micro-batch that is not the last; returns `counted`.

        The graph is left for the backward pass of the task loss.
        """
        counted = self.counted(sums)
        if self.unit is None or self.total is None or self.means is None:
            self.unit = counted.clamp(min=1)
            self.total = torch.zeros_like(counted)
            self.means = torch.zeros_like(sums.penalty.detach())
        weights = (counted / self.unit)[self.mask_of_site]
        weighted = weights.to(sums.penalty.device) * sums.mean_penalty()
        self.total, self.means = self.total + counted, self.means + weighted.detach()
        for mask, held in enumerate(self.gradients):
            value = (weighted * self.sites_of_mask[mask].to(weighted.device)).sum()
            if not (differentiable and value.requires_grad):
                continue
            if accelerator.scaler is not None:  # the gradients that these are added to are scaled so
                value = accelerator.scaler.scale(value)
            trained = [p for p in self.parameters if p.requires_grad]
            of_trained = iter(torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True))
            new = [next(of_trained) if p.requires_grad else None for p in self.parameters]
            if not held:
                held.extend(new)
                continue
            for i, gradient in enumerate(new):
                if gradient is not None:
                    held[i] = gradient if held[i] is None else held[i].add_(gradient)  # type: ignore[union-attr]
        return counted

    def last(self, sums: SiteSums, accelerator: Accelerator, radial_lambda: float) -> tuple[Tensor, Tensor, Tensor]:
        """The last micro-batch of the group: its weighted means, and what it has to do with the step as a whole.

        Adds the gradients that were held to those of the parameters, times `radial_lambda` and the number of ranks, over which
        they are averaged later.

        Returns:
            the weighted means, differentiable; the same of the whole group on this rank, detached; `counted`.
        """
        counted = self.counted(sums)
        total = counted if self.total is None else self.total + counted
        total = accelerator.reduce(total, reduction="sum") if accelerator.num_processes > 1 else total
        total = total.clamp(min=1)
        means = (counted / total)[self.mask_of_site].to(sums.penalty.device) * sums.mean_penalty()
        whole = means.detach()
        if self.unit is not None and self.means is not None:
            scale = self.unit / total
            whole = whole + scale[self.mask_of_site].to(whole.device) * self.means
            for mask, held in enumerate(self.gradients):
                self._add(held, radial_lambda * accelerator.num_processes * scale[mask])
        self.clear()
        return means, whole, counted

    @torch.no_grad()
    def _add(self, held: Sequence[Tensor | None], factor: Tensor) -> None:
        for parameter, gradient in zip(self.parameters, held, strict=False):
            if gradient is None:
                continue
            gradient.mul_(factor.to(gradient.device))
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
