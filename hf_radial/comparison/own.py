"""The user's own model and data in a grid: `model: my_package:make_model` and `task: my_package:make_rows`.

The part before the colon is a module that can be imported, the part after it a function. A file beside the grid file can be
imported, too.

    def make_rows(**fields): ...             # `fields` of the grid file; returns {"train": columns, "validation": columns}
    def make_model(rows, **model_options): ...      # the training rows, `model_options` of the grid file; returns a model

Rows. A split is a mapping from column to array or tensor, all with the same number of rows, or a `datasets.Dataset`. Its
columns are what the model's `forward` takes, by name, and `labels`: one class per row, `(rows,)`, or one token per position,
`(rows, positions)`, where -100 does not count. "train" and "validation" must be there. "test" is measured once, at the end.
`train_fraction` arrives as the fields `train_fraction` and `validation_fraction`, and the run's seed as the field `seed` if the
grid says `split_by_seed: true`.

Models. A model of `transformers` is trained as it is. Any other `torch.nn.Module` returns logits `(rows, classes)`, and is
trained with cross-entropy; or its `forward` takes `labels` and returns a mapping with `loss` and `logits`. A pair (class,
configuration) lets interventions change the configuration before the class makes the model of it. The seed is set before the
call.

A run is named after its options, not after this code. When the code changes, change a field, or delete the runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

from hf_radial.internals.replacing import set_class
from hf_radial.tasks.tensor_rows import TensorRows

HOW = "write MODULE:FUNCTION, such as my_package:make_model, where MODULE is installed or a file beside the grid file"


def is_own(text: str) -> bool:
    """Whether a task or a model of a grid is a function of the user's."""
    return ":" in text


def function_of(option: str, text: str) -> Callable[..., Any]:
    """The function of `option: module:function`.

    Raises:
        ValueError: the module cannot be imported, or has no such function.
    """
    module, _, name = text.partition(":")
    try:
        found = getattr(import_module(module), name, None)
    except Exception as error:  # of the user's file
        raise ValueError(f"{option}={text!r}: importing {module!r} raised {type(error).__name__}: {error}; {HOW}") from error
    if not callable(found):
        raise ValueError(f"{option}={text!r}: the module {module!r} has no function {name!r}; {HOW}")
    return found


def check_call(option: str, text: str, arguments: Sequence[Any], keywords: Mapping[str, Any], source: str) -> None:
    """Raise a ValueError unless the function of `option: text` takes these arguments. It is not called."""
    function = function_of(option, text)
    try:
        signature(function).bind(*arguments, **keywords)
    except TypeError as error:
        raise ValueError(f"{option}={text!r} does not take what {source} gives, {dict(keywords)}: {error}") from None


def source_of(text: str) -> dict[str, str]:
    """Where a function of the user's was and what it was: its file, and the hash of the file's content."""
    file = getattr(sys.modules.get(text.partition(":")[0]), "__file__", None)
    return {"place": text, "file": str(file), "sha256": sha256(Path(file).read_bytes()).hexdigest() if file else ""}


def own_rows(text: str, fields: Mapping[str, Any]) -> dict[str, TensorRows]:
    """All splits, from the function `text` with these fields.

    Raises:
        ValueError: a split is missing or has no `labels`, or its columns differ in length or cannot be tensors.
    """
    made = function_of("task", text)(**fields)
    if not isinstance(made, Mapping) or not {"train", "validation"} <= set(made):
        has = ", ".join(map(str, made)) if isinstance(made, Mapping) else f"a {type(made).__name__}"
        raise ValueError(f"task={text!r} must return a mapping with the splits 'train' and 'validation', but it returned {has}")
    return {str(name): _tensor_rows(f"task={text!r}: split {name!r}", split) for name, split in made.items()}


def _tensor_rows(where: str, split: Any) -> TensorRows:
    import torch

    from hf_radial.tasks.tensor_rows import TensorRows

    if isinstance(split, TensorRows):
        rows = split
    elif hasattr(split, "column_names"):
        rows = TensorRows.of(split, split.column_names)
    elif isinstance(split, Mapping):
        try:
            rows = TensorRows({str(name): torch.as_tensor(column) for name, column in split.items()})
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{where}: the columns cannot be tensors with equally many rows: {error}") from error
    else:
        raise ValueError(f"{where} must be a mapping from column to array, or a datasets.Dataset, not {type(split).__name__}")
    labels = rows.columns.get("labels")
    if labels is None or labels.is_floating_point() or not len(rows) or len(rows.columns) < 2:
        kind = "none" if labels is None else str(labels.dtype)
        raise ValueError(
            f"{where} must have rows, a column that the model takes, and a column 'labels' of whole numbers; its columns are "
            f"{', '.join(rows.columns)}, with {len(rows)} rows and labels: {kind}"
        )
    return TensorRows({**rows.columns, "labels": labels.long()})


def own_model(text: str, rows: TensorRows, options: Mapping[str, Any], methods: Sequence[Any]) -> nn.Module:
    """A new model from the function `text`. It returns its loss for a batch with labels.

    Args:
        rows: the training rows.
        options: `model_options` of the run.
        methods: interventions, which may change the configuration of a pair (class, configuration).

    Raises:
        ValueError: the function returns no model.
    """
    from torch import nn

    made = function_of("model", text)(rows, **options)
    if isinstance(made, tuple) and len(made) == 2 and callable(made[0]):
        kind, config = made
        for method in methods:
            method.configure(config)
        made = kind(config)
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"model={text!r} must return a torch.nn.Module, or a pair (class, configuration), not {type(made).__name__}"
        )
    return made if _takes_labels(signature(made.forward)) else _with_loss(made, text)


def _takes_labels(given: Signature) -> bool:
    return any(name == "labels" or one.kind is Parameter.VAR_KEYWORD for name, one in given.parameters.items())


def _with_loss(model: nn.Module, text: str) -> nn.Module:
    """The model, which returns logits, as one that also returns the cross-entropy of `labels`. Names of modules stay."""
    from torch import Tensor
    from torch.nn import functional as F

    plain: Any = type(model)

    class WithLoss(plain):
        accepts_loss_kwargs = False  # the mean over a batch is taken here

        def forward(self, *args: Any, labels: Tensor | None = None, **inputs: Any) -> dict[str, Tensor]:
            logits = super().forward(*args, **inputs)
            if not isinstance(logits, Tensor) or logits.ndim != 2:
                shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(
                    f"model={text!r}: forward returned {shape}, which must be logits of shape (rows, classes). For another "
                    "loss let forward take `labels` and return a mapping with `loss` and `logits`"
                )
            return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits.float(), labels), "logits": logits}

    before = signature(plain.forward)
    labels = Parameter("labels", Parameter.KEYWORD_ONLY, default=None)
    WithLoss.forward.__signature__ = before.replace(parameters=[*before.parameters.values(), labels])  # type: ignore[attr-defined]
    WithLoss.__name__, WithLoss.__qualname__ = plain.__name__, plain.__qualname__
    set_class(model, WithLoss)
    return model
