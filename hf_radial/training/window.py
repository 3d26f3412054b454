"""The sums of a trainer between two logs, kept on the device."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_radial.penalty.radial_penalty import RadialPenalty

ADDED_AT_ONCE = 64


class Window:
    """Sums between two logs. They stay on the device, so no step waits for the host."""

    def __init__(self, radial_penalty: RadialPenalty, device: torch.device) -> None:
        self.radial_penalty, self.device = radial_penalty, device
        masks = [site.mask for site in radial_penalty.sites]
        self.masks = list(dict.fromkeys(masks))
        self.mask_of_site = torch.tensor([self.masks.index(mask) for mask in masks], device=device)
        self.compiled = False
        self.is_single_batch_step = False  # one micro-batch in one process
        self.clear()

    def clear(self) -> None:
        self.steps = 0
        self.radial_lambda = 0.0
        self.task_loss = torch.zeros((), device=self.device)
        zeros = torch.zeros(5, len(self.radial_penalty.sites), device=self.device)
        self.penalty, self.radius, self.count, self.counted, self.unevenness = zeros
        self.pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self.new_group()

    def new_group(self) -> None:
        """Start a group of micro-batches, whose weights add up to one."""
        # Smallest and largest ratio (vectors that a site saw / vectors counted in the batch) over the micro-batches of a step.
        self.least, self.most = (torch.full_like(self.count, ratio) for ratio in (torch.inf, 0.0))

    def end_step(self) -> None:
        """Count an optimizer step: all of its micro-batches have been added."""
        self.steps += 1
        self.radial_lambda += self.radial_penalty.radial_lambda

    def add(self, penalty: Tensor, radius: Tensor, count: Tensor, counted: Tensor | None = None) -> None:
        """Add one micro-batch. All arguments have shape `(sites,)`.

        Args:
            penalty: its part of the step's penalty.
            radius: sum of its radii.
            count: number of vectors that the sites saw.
            counted: number of vectors that its weight is based on, up to a factor that is the same for all micro-batches.
                `None` if it is a whole step, weighted by its own vectors.
        """
        if counted is None:
            self.pending.append((penalty, radius, count))
            if len(self.pending) >= ADDED_AT_ONCE:
                self.flush_pending()
            return
        self.penalty += penalty.to(self.device)
        self.radius += radius.to(self.device)
        self.count += count.to(self.device)
        self.counted += counted
        has_vectors, ratio = counted > 0, count.to(self.device) / counted.clamp(min=1)
        self.least = torch.where(has_vectors, torch.minimum(self.least, ratio), self.least)
        self.most = torch.where(has_vectors, torch.maximum(self.most, ratio), self.most)
        spread = torch.where(self.most > 0, 1 - self.least / self.most.clamp(min=1e-12), torch.zeros_like(ratio))
        self.unevenness = torch.maximum(self.unevenness, spread)

    def flush_pending(self) -> None:
        """Add up the pending steps: a few operations for many steps."""
        if self.pending:
            penalty, radius, count = (torch.stack(column).sum(0).to(self.device) for column in zip(*self.pending, strict=True))
            self.penalty += penalty
            self.radius += radius
            self.count += count
            self.counted += count
            self.pending = []

    def drain(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over the window and over ranks. Empties the window. Every rank must call it.

        Raises:
            RuntimeError: the number of vectors at a site is not proportional to the weights of the micro-batches.
        """
        self.flush_pending()
        has_vectors = (self.counted > 0).float()
        ratio = self.count / self.counted.clamp(min=1)
        sums = [self.penalty, self.radius, self.count, has_vectors, ratio, ratio.square(), self.unevenness]
        packed = torch.cat([self.task_loss.reshape(1), *sums])
        task_loss, *values = accelerator.reduce(packed, reduction="sum").tolist()
        steps, penalty, n = self.steps, self.radial_penalty, len(self.radial_penalty.sites)
        penalties, radii, counts, *ratios = (values[i * n : (i + 1) * n] for i in range(len(sums)))
        for site, ranks, total, squares, unevenness in zip(penalty.sites, *ratios, strict=True):
            mean = total / max(ranks, 1)
            uneven = unevenness > 1e-3 or squares / max(ranks, 1) - mean**2 > 1e-5 * mean**2
            if uneven and penalty.strict and not penalty.skips_layers:
                raise RuntimeError(
                    f"the vectors that {site.name!r} saw are not in proportion to those of the batches, so the mean over a "
                    "step's micro-batches or processes would be wrong: set trainer.radial_counts_at_sites = True before "
                    "train(), or name sites that see every vector of a batch equally often with radial_sites"
                )
        logs = {
            "task_loss": task_loss / steps / accelerator.num_processes,
            "radial_penalty": sum(penalties) / steps,
            "radial_lambda": self.radial_lambda / steps,
        }
        for site, radius, count in zip(penalty.sites, radii, counts, strict=True):
            if count or penalty.strict:
                logs[f"radius/{site.name}"] = radius / max(count, 1)
                logs[f"radius_target/{site.name}"] = penalty.targets[site.name]
        self.clear()
        return logs
