"""Weights of micro-batches whose vectors can be counted only when the model is called: GRPO, ORPO, sentence embeddings, ...

The penalty of an effective batch is `1/N * sum over micro-batches m of n_m * mean_m`. `n_m` is the number of vectors in
micro-batch `m`, and `N` the number in all micro-batches of all ranks. `N` is known only in the last micro-batch.

- The last micro-batch gets its weight `n_m / N` in its normal backward pass.
- Each micro-batch before it has one more backward pass, of the penalty alone, before that of the task loss. Its gradients are
  collected in a separate buffer. Just before the last backward pass of the step, they are scaled by `1 / N` and added to the
  parameters' gradients. Averaging over ranks then includes them.

Extra cost, compared with batches that are counted before the step: for a step of one micro-batch, only one small reduction over
the ranks. Otherwise one more backward pass for each micro-batch but the last, and memory for one more gradient (two in an
encoder-decoder, because each kind of padding has its own `N`).

Rejected: weights from an estimate of `N` in one backward pass, because the penalty is then wrong by the estimate's error; and a
forward pass only for counting, because the model would generate, draw and log twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_radial.penalty.site_sums import SiteSums


class SiteCounts:
    """One group of micro-batches, weighted by the vectors that the sites see.

    Args:
        parameters: the trained parameters.
        mask_of_site: the number of each site's padding mask, shape `(sites,)`. Sites with the same mask see equally many
            vectors, up to a factor that is the same in all micro-batches.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], mask_of_site: Tensor) -> None:
        self.parameters, self.mask_of_site = parameters, mask_of_site
        self.masks = int(mask_of_site.max()) + 1
        self.sites_of_mask = [(mask_of_site == mask).float() for mask in range(self.masks)]
        self.clear()

    def clear(self) -> None:
        """Forget the group."""
        self.unit: Tensor | None = None  # count of the first micro-batch: this rank's weights are multiples of it
        self.total: Tensor | None = None  # count so far on this rank, shape `(masks,)`
        self.means: Tensor | None = None  # weighted sum of the means so far, shape `(sites,)`
        self.gradients: list[list[Tensor | None]] = [[] for _ in range(self.masks)]

    def counted(self, sums: SiteSums) -> Tensor:
        """The number of vectors of the micro-batch by mask, shape `(masks,)`: the largest count among the mask's sites."""
        count = sums.count.to(self.mask_of_site.device, torch.float32)
        return count.new_zeros(self.masks).scatter_reduce(0, self.mask_of_site, count, "amax")

    def hold(self, sums: SiteSums, accelerator: Accelerator, differentiable: bool) -> Tensor:
        """Keep the gradient of a micro-batch that is not the last. Returns `counted`.

        The graph is kept for the backward pass of the task loss.
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
            if accelerator.scaler is not None:  # the parameters' gradients, to which these are added, are scaled too
                value = accelerator.scaler.scale(value)
            trained = [p for p in self.parameters if p.requires_grad]
            trained_gradients = iter(torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True))
            new_gradients = [next(trained_gradients) if p.requires_grad else None for p in self.parameters]
            if not held:
                held.extend(new_gradients)
                continue
            for i, gradient in enumerate(new_gradients):
                if gradient is not None:
                    held[i] = gradient if held[i] is None else held[i].add_(gradient)  # type: ignore[union-attr]
        return counted

    def last(self, sums: SiteSums, accelerator: Accelerator, radial_lambda: float) -> tuple[Tensor, Tensor, Tensor]:
        """Weight the last micro-batch of the group, and add the held gradients to the parameters' gradients.

        The held gradients are multiplied by `radial_lambda` and by the number of ranks, because they are averaged over ranks
        later.

        Returns:
            the weighted means of this micro-batch, differentiable; those of the whole group on this rank, detached; `counted`.
        """
        counted = self.counted(sums)
        total = counted if self.total is None else self.total + counted
        total = accelerator.reduce(total, reduction="sum") if accelerator.num_processes > 1 else total
        total = total.clamp(min=1)
        means = (counted / total)[self.mask_of_site].to(sums.penalty.device) * sums.mean_penalty()
        group_means = means.detach()
        if self.unit is not None and self.means is not None:
            scale = self.unit / total
            group_means = group_means + scale[self.mask_of_site].to(group_means.device) * self.means
            for mask, held in enumerate(self.gradients):
                self._add(held, radial_lambda * accelerator.num_processes * scale[mask])
        self.clear()
        return means, group_means, counted

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
