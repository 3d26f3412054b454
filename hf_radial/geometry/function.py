"""Measurements of a model's outputs on a probe (loss, accuracy, scale of the logits), and the norm of its weights.

Once the training rows are fitted, larger logits alone lower the cross-entropy further, until the float32 softmax is exactly
one-hot and the loss and its gradient are exactly zero (softmax collapse: Prieto et al. 2025, "Grokking at the edge of numerical
stability", arXiv 2501.04697). These readings are therefore computed in float32, like a training loss, whatever the logits'
dtype. Only means over rows use float64.

Not in here: running the model. The geometry of hidden vectors is in the other files of this folder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_radial.geometry.reading import Reading

IGNORED = -100  # marks a label that does not count, as in transformers
_CHUNK = 2**23  # logits per chunk: with a vocabulary of 100,000, all rows at once would need gigabytes


def function_readings(logits: Tensor, labels: Tensor, *, shift: bool = False, prefix: str = "") -> list[Reading]:
    """Readings of the whole model on the counted rows of a probe (`scored_rows`), each a mean over them.

    - `loss`: cross-entropy.
    - `logit_scale`: Euclidean norm of a row's logits about their mean (softmax does not depend on the mean).
    - `saturated_softmax`: share of rows whose greatest probability is exactly 1 in float32, for a right or a wrong answer: all
      other probabilities are lost in rounding.
    - `zero_loss`: share of rows whose cross-entropy is exactly 0 in float32: saturated at the right answer.
    - `confidence`: greatest probability.
    - `accuracy`: whether the greatest logit is the label's.

    Args:
        logits: `(..., C)`, floating point.
        labels: `(...)` integers below C, or -100 where a row does not count.
        shift: whether position t answers label t + 1, as in a causal language model; then `logits` is `(B, T, V)`.
        prefix: put before each metric, such as "held_out_".

    Returns:
        The six readings, with the number of rows as `samples`.

    Raises:
        TypeError, ValueError: as for `scored_rows`; no row counts.

    >>> readings = function_readings(torch.tensor([[200.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
    >>> {r.metric: round(r.value, 3) for r in readings if r.metric in ("loss", "zero_loss", "confidence")}
    {'loss': 0.347, 'zero_loss': 0.5, 'confidence': 0.75}
    """
    rows, targets = scored_rows(logits, labels, shift)
    count = len(targets)
    if count == 0:
        raise ValueError(f"labels has no row that counts: all of shape {tuple(labels.shape)} are {IGNORED} or shifted away")
    sums: dict[str, Tensor] = {}
    size = max(1, _CHUNK // rows.shape[1])
    for part, target in zip(rows.split(size), targets.split(size), strict=True):
        part = part.float()
        loss = F.cross_entropy(part, target, reduction="none")
        greatest = part.softmax(dim=1).amax(dim=1)
        values = {
            "loss": loss,
            "logit_scale": _norm(part - part.mean(dim=1, keepdim=True), dim=1),
            "saturated_softmax": greatest == 1,
            "zero_loss": loss == 0,
            "confidence": greatest,
            "accuracy": part.argmax(dim=1) == target,
        }
        for metric, value in values.items():
            # On the CPU: some accelerators have no float64.
            total = value.cpu().double().sum()
            sums[metric] = sums[metric] + total if metric in sums else total
    return [Reading(f"{prefix}{metric}", float(total) / count, samples=count) for metric, total in sums.items()]


def scored_rows(logits: Tensor, labels: Tensor, shift: bool) -> tuple[Tensor, Tensor]:
    """The rows of logits that count, and their labels, as in the losses of transformers.

    Args:
        logits: `(..., C)`, floating point; `(B, T, V)` where `shift`.
        labels: `(...)` integers from 0 to C - 1, or -100 where a row does not count.
        shift: whether position t answers label t + 1 (`ForCausalLMLoss`). The last position then answers nothing.

    Returns:
        `(n, C)` in the logits' dtype, detached, and `(n,)` int64, on the logits' device.

    Raises:
        TypeError: `logits` is not floating point, or `labels` not of integers.
        ValueError: shapes do not fit, or a label is not a class.

    >>> scored_rows(torch.eye(3)[None], torch.tensor([[0, -100, 2]]), shift=True)
    (tensor([[0., 1., 0.]]), tensor([2]))
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits has dtype {logits.dtype} and must be floating point")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels has dtype {labels.dtype} and must be integers: classes, not values or probabilities")
    if logits.dim() < 2 or logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and labels {tuple(labels.shape)}: there must be one label a row"
        )
    logits, labels = logits.detach(), labels.detach().to(logits.device, torch.int64)
    if shift:
        if logits.dim() != 3:
            raise ValueError(f"shift=True needs logits of shape (B, T, V), got {tuple(logits.shape)}")
        logits, labels = logits[:, :-1], labels[:, 1:]
    counts = labels != IGNORED
    rows, targets = logits[counts], labels[counts]
    classes = logits.shape[-1]
    if ((targets < 0) | (targets >= classes)).any():
        wrong = int(targets[(targets < 0) | (targets >= classes)][0])
        raise ValueError(f"labels has {wrong}, which is none of the {classes} classes; rows that do not count have {IGNORED}")
    return rows, targets


def weight_norm_readings(model: nn.Module) -> list[Reading]:
    """`weight_norm`: Euclidean norm of all floating-point parameters, of the model and of each module that holds some itself.

    A parameter that several modules share counts in each module and once in the model. Frozen parameters count, and so do those
    that the model itself holds. Of sharded parameters, only this process's part counts.

    Args:
        model: any module.

    Returns:
        The model's (site ""), then one for each module, in their order, with its name as site.

    >>> [(r.site, round(r.value, 6)) for r in weight_norm_readings(nn.Sequential(nn.PReLU(init=3.0), nn.PReLU(init=4.0)))]
    [('', 5.0), ('0', 3.0), ('1', 4.0)]
    """
    norms: dict[int, float] = {}
    for parameter in model.parameters():  # each once
        if parameter.is_floating_point():
            norms[id(parameter)] = float(_norm(parameter.detach()))
    readings = [Reading("weight_norm", math.hypot(*norms.values()))]
    for name, module in model.named_modules():
        own = [norms[id(parameter)] for parameter in module.parameters(recurse=False) if id(parameter) in norms]
        if name and own:
            readings.append(Reading("weight_norm", math.hypot(*own), site=name))
    return readings


def _norm(values: Tensor, dim: int | None = None) -> Tensor:
    # In float64: the float32 norm of half a million numbers was off by 4e-4 on a CPU, since it adds squares one by one.
    return torch.linalg.vector_norm(values, dim=dim, dtype=torch.float32 if values.device.type == "mps" else torch.float64)
