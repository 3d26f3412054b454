"""The options of one run of a comparison, and their checks. Not in here: making the run (`run.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_radial.comparison.own import check_call, is_own
from hf_radial.runs.text_files import check_known, check_types

MODELS = ("mlp", "transformer")
SIZES = ("width", "embedding_size", "layers", "heads", "layer_norm")  # options of these models only


@dataclass
class Run:
    """One run's options. Durations are in epochs."""

    task: str = "modular"
    fields: dict[str, Any] = field(default_factory=dict)  # of the task, as `load_task` takes them
    train_fraction: float | None = None  # replaces that in `fields`
    split_by_seed: bool = False  # whether the rows also depend on the run's seed; otherwise only on the task's
    model: str = "mlp"  # or "transformer", or MODULE:FUNCTION, see `own.py`; so may `task` be
    model_options: dict[str, Any] = field(default_factory=dict)  # of such a function
    width: int = 128
    embedding_size: int = 64
    layers: int = 2
    heads: int = 4
    layer_norm: bool = True  # of the transformer
    batch_size: int = 256  # 0 for all rows
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    adam_beta2: float = 0.999
    warmup_steps: int = 10
    max_grad_norm: float = 0.0  # longer gradients are clipped to this norm; 0 clips none
    epochs: int = 300
    evaluate_every: int = 5
    solved_at: float = 0.95
    solved_evaluations: int = 3
    stop: bool = True  # whether the run ends after `solved_evaluations` evaluations in a row at `solved_at`
    radial_lambda: float = 0.0
    interventions: list[str] = field(default_factory=list)
    follows: str = ""  # the run whose folder replaces `{followed}` in the interventions
    seed: int = 0
    flush_denormals: bool = True  # numbers below 1e-38 count as 0: decayed weights would otherwise be many times slower

    def __post_init__(self) -> None:
        check_types(self)
        if self.model not in MODELS and not is_own(self.model):
            raise ValueError(f"model={self.model!r} is unknown; choose 'mlp', 'transformer', or MODULE:FUNCTION of your own")
        if not isinstance(self.model_options, dict) or (self.model_options and not is_own(self.model)):
            raise ValueError(f"model_options={self.model_options!r} must be a mapping, and is for model=MODULE:FUNCTION only")
        for name in ("width", "embedding_size", "layers", "heads", "epochs", "evaluate_every", "solved_evaluations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.model == "transformer" and self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        if self.train_fraction is not None and not 0 < self.train_fraction < 1:
            raise ValueError(f"train_fraction={self.train_fraction} must be between 0 and 1")
        if not 0 < self.solved_at <= 1:
            raise ValueError(f"solved_at={self.solved_at} must be above 0 and at most 1")
        for name in ("batch_size", "warmup_steps", "seed", "learning_rate", "weight_decay", "radial_lambda"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.adam_beta2 < 1:
            raise ValueError(f"adam_beta2={self.adam_beta2} must be at least 0 and below 1")
        if not isinstance(self.fields, dict):
            raise ValueError(f"fields={self.fields!r} must be a mapping of the task's fields, such as {{p: 97}}")
        if not isinstance(self.interventions, list) or not all(isinstance(text, str) for text in self.interventions):
            raise ValueError(f"interventions={self.interventions!r} must be a list of texts, such as [dropout:p=0.1]")


def check_names(names: Iterable[str], where: str = "", without: Sequence[str] = ()) -> None:
    """Raise a ValueError that names the first of `names` that is no option of a run, and the option that is meant.

    Args:
        where: what the message begins with, such as the file that the names come from.
        without: options that cannot be given here.
    """
    check_known(names, [name for name in Run.__dataclass_fields__ if name not in without], where, "option {} of a run")


def read_run(options: dict[str, Any]) -> Run:
    """Options as a `Run`. A ValueError names an unknown option, field of the task or intervention."""
    check_names(options)
    from hf_radial.interventions import check_text, interventions
    from hf_radial.tasks.load import task_config

    run = Run(**options)
    if is_own(run.task):
        check_call("task", run.task, (), task_fields(run), "fields")
    else:
        task_config(run.task, **task_fields(run))
    if is_own(run.model):
        check_call("model", run.model, (None,), run.model_options, "model_options")
        if useless := [name for name in SIZES if name in options]:
            raise ValueError(f"{useless[0]} is for the models {', '.join(MODELS)}; give model={run.model!r} its model_options")
    interventions([text for text in run.interventions if "{followed}" not in text])
    for text in run.interventions:
        check_text(text)  # the file of a followed run does not exist yet
    return run


def task_fields(run: Run) -> dict[str, Any]:
    """The fields of the run's task, as `load_task` takes them."""
    fields = dict(run.fields)
    if run.train_fraction is not None:
        fields |= {"train_fraction": run.train_fraction, "validation_fraction": round((1 - run.train_fraction) / 2, 4)}
    if run.split_by_seed:
        fields["seed"] = run.seed
    return fields
