"""An MLP learns modular arithmetic, with the penalty or without: the paper's clearest case of delayed generalisation.

    accelerate launch recipes/modular.py                                                    # wd 1e-3, lambda 0.05: half an hour
    accelerate launch recipes/modular.py --weight_decay 1 --radial_lambda 0 --num_train_epochs 300              # a few minutes
    accelerate launch recipes/modular.py --preset modular_fast                                          # tuned: seconds
    accelerate launch recipes/modular.py --geometry_every 25 --geometry_metrics radial spectrum function drift

Read from top to bottom: the options, the data, the model, the training, the test of the saved model, and `main`.
A preset is a YAML file in recipes/configs; options on the command line win over it. One call is one run;
recipes/geometry_study.py makes several, side by side.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # during the imports: collecting garbage among a million new objects, which are all in use, takes a second

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import DatasetDict
from transformers import AutoModelForSequenceClassification, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from hf_radial import GrokkingCallback, RadialArguments, RadialTrainer
from hf_radial.callbacks.progress import print_sites, show_accuracies
from hf_radial.hub.usage import MODULAR_MLP
from hf_radial.interventions import configure, restore
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.report.plots import plot_runs_if_possible
from hf_radial.runs.epochs import in_steps
from hf_radial.runs.onset import format_step
from hf_radial.runs.results import RESULTS_FILE, penalty_label, results_of, write_card
from hf_radial.runs.resume import train_or_resume
from hf_radial.runs.script import run_recipe
from hf_radial.runs.start import at_least, end_processes, open_run, option, parse_options
from hf_radial.safe_files import write_text
from hf_radial.tasks.load import load_task
from hf_radial.tasks.modular import OPERATIONS, ModularConfig
from hf_radial.tasks.tensor_rows import TensorRows, as_batch

CONFIGS = Path(__file__).parent / "configs"
PRESET = "modular_mlp"
TRAIN_ROWS = 1000  # of the training split, for its curve; more rows would not change it visibly
PROBE_ROWS = 1024
CURVATURE_EVERY = 4  # measurements
LIMITS = "It knows one operation modulo one number, and nothing else."


@dataclass
class ModularArguments:
    """The task, the model and what is watched. Everything about training itself is in `RadialArguments`."""

    preset: str = option(PRESET, "Name of a YAML file in recipes/configs.")
    operation: str = option("add", f"One of {', '.join(OPERATIONS)}, or a formula such as 'a+b'.")
    p: int = option(97, "The modulus.")
    train_fraction: float = option(0.5, "Share of all rows to train on.")
    validation_fraction: float = option(0.25, "Share held out for the curves; what is left is for the test at the end.")
    task_seed: int = option(0, "Seed of the split.")
    embedding_size: int = option(256, "Width of an operand's embedding, N(0, 1) at the start.")
    hidden_size: int = option(512, "Width d of the hidden layers.")
    hidden_layers: int = option(2, "Hidden layers.")
    evaluate_every: int = option(5, "Epochs from one evaluation to the next.")
    log_every: int = option(10, "Epochs from one log of loss and radii to the next.")
    save_every: int = option(500, "Epochs from one checkpoint to the next; 0 for none.")
    geometry_every: int = option(0, "Epochs from one measurement of geometry to the next; 0: none.")
    geometry_metrics: list[str] = option(
        ["radial", "spectrum", "function", "drift"], "Groups that are measured; see hf_radial.callbacks.geometry.", nargs="+"
    )
    solved_evaluations: int = option(
        0, "Stop after so many evaluations in a row at solved_at; 0: never, since what comes after matters."
    )
    solved_at: float = option(0.99, "Held-out exact match that counts as solved.")
    threads: int = option(
        0,
        "Threads of torch on the CPU; 0: as many as it finds. In a small model they wait for each other at every "
        "layer: two gain little over one, and where another process is busy they are several times slower.",
    )

    def __post_init__(self) -> None:
        # Checks the fields of the task, and turns a formula into its name.
        fields = {name: getattr(self, name) for name in ("operation", "p", "train_fraction", "validation_fraction")}
        self.operation = ModularConfig(**fields, seed=self.task_seed).operation
        if self.validation_fraction <= 0:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} must be above 0: the curves are made from these rows"
            )
        for name in ("evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1 epoch")
        at_least(self, 1, "embedding_size", "hidden_size", "hidden_layers")
        if not 0 < self.solved_at <= 1:
            raise ValueError(f"solved_at={self.solved_at} must be above 0 and at most 1")
        for name in ("save_every", "geometry_every", "solved_evaluations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive, or 0 for never")
        if self.threads < 0:
            raise ValueError(f"threads={self.threads} must be positive, or 0 for as many as torch finds")
        if self.geometry_every and "fourier" in self.geometry_metrics and self.operation not in ("add", "sub"):
            raise ValueError(f"geometry_metrics: 'fourier' is for the operations add and sub, not for {self.operation!r}")


# The data -------------------------------------------------------------------------------------------------------------


def load_data(task: ModularArguments) -> DatasetDict:
    """All rows of the table, dealt to train, validation and test, as `input_ids` (the operands) and `labels` (the answer)."""
    names = ("operation", "p", "train_fraction", "validation_fraction")
    return load_task("modular", seed=task.task_seed, **{name: getattr(task, name) for name in names})


# The model ------------------------------------------------------------------------------------------------------------


def build_model(task: ModularArguments, given: Sequence[str] | None = None) -> ModularMLPForSequenceClassification:
    """A fresh model; interventions may change its configuration first."""
    config = ModularMLPConfig(
        modulus=task.p,
        num_operands=OPERATIONS[task.operation].operands,
        embedding_size=task.embedding_size,
        hidden_size=task.hidden_size,
        num_hidden_layers=task.hidden_layers,
    )
    return ModularMLPForSequenceClassification(configure(config, given))


# The training ---------------------------------------------------------------------------------------------------------


def geometry_callbacks(task: ModularArguments, steps_per_epoch: int, train_rows: TensorRows) -> list[TrainerCallback]:
    """The callback that measures geometry, if `geometry_every` asks for it."""
    if not task.geometry_every:
        return []
    from hf_radial.callbacks.geometry import GeometryCallback
    from hf_radial.geometry.modular_table import ModularTable

    table = None
    if "fourier" in task.geometry_metrics:
        table = ModularTable.trained_on(task.p, task.operation, train_rows.columns["input_ids"])
    every = task.geometry_every * steps_per_epoch
    # More rows than a layer has units; otherwise the rank would be that of the probe. The Hessian costs more than all other
    # groups together. No budget: the steps of the measurements must not depend on the machine.
    groups = {group: every * (CURVATURE_EVERY if group == "curvature" else 1) for group in task.geometry_metrics}
    return [GeometryCallback(None, every, groups, rows=PROBE_ROWS, held_out="validation", modular=table, budget=None)]


def exact_match(prediction: Any) -> dict[str, float]:
    """Share of rows whose answer, one class, is right."""
    return {"exact_match": float((prediction.predictions == prediction.label_ids).mean())}


def make_trainer(
    task: ModularArguments,
    args: RadialArguments,
    data: DatasetDict,
    rows: dict[str, TensorRows],
    folder: Path,
    kind: type[RadialTrainer] = RadialTrainer,
) -> RadialTrainer:
    """A trainer of a fresh model, which writes to `folder`; `rows` are those of `data` to train on and to validate with."""
    args, steps_per_epoch = in_steps(
        replace(args, output_dir=str(folder)), len(rows["train"]), task.evaluate_every, task.log_every, task.save_every
    )
    set_seed(args.seed)
    model = build_model(task, args.intervention)
    stops = task.solved_evaluations or None
    grokking = GrokkingCallback(stop_evaluations=stops, stop_threshold=task.solved_at if stops else None)
    trainer = kind(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset={"train": rows["train"].first(TRAIN_ROWS), "validation": rows["validation"]},
        data_collator=as_batch,
        compute_metrics=exact_match,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),  # on the device, one number a row
        callbacks=[grokking, *geometry_callbacks(task, steps_per_epoch, rows["train"])],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.run_facts = {
        "title": f"{OPERATIONS[task.operation].formula} mod {task.p}, {penalty_label(trainer)}",
        "task": "modular arithmetic",
        "dataset": "hf_radial/modular",
        "usage": MODULAR_MLP.replace("OPERANDS", str(data["test"][0]["input_ids"])),
        "limits": LIMITS,
        "license": "apache-2.0",
        "weight_decay": args.weight_decay,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "steps_per_epoch": steps_per_epoch,
        **vars(task),
    }
    return trainer


def train(
    task: ModularArguments, args: RadialArguments, data: DatasetDict, folder: Path, resume: bool = False
) -> RadialTrainer:
    """Train, and save the model and the log in `folder`. With `resume`, go on with the run that is there."""
    rows = {name: TensorRows.of(data[name]) for name in ("train", "validation")}
    trainer = make_trainer(task, args, data, rows, folder)
    show_accuracies(trainer, title=folder.name)
    print_sites(trainer, "measured, and penalised unless radial_lambda is 0")
    train_or_resume(trainer, folder, resume)
    return trainer


@torch.no_grad()
def test_saved_model(folder: Path, data: DatasetDict) -> dict[str, Any]:
    """Exact match of the saved model, loaded from disk, on all rows of each split. Nothing read the test rows before."""
    model = restore(AutoModelForSequenceClassification.from_pretrained(folder)).to(PartialState().device).eval()
    right = {}
    for name, rows in data.items():
        columns = TensorRows.of(rows).columns
        answers = model(input_ids=columns["input_ids"].to(model.device)).logits.argmax(-1).cpu()
        right[str(name)] = (answers == columns["labels"]).double().mean().item()
    return {"exact_match": right.pop("test"), "problems": len(data["test"]), "other_splits": right}


# From start to end ----------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> Path:
    task, args = parse_options((ModularArguments, RadialArguments), argv, CONFIGS, PRESET, __doc__ or "")
    if task.threads:
        torch.set_num_threads(task.threads)
    state, folder, resume = open_run(args, f"runs/{task.preset}")
    with state.main_process_first():
        data = load_data(task)
    trainer = train(task, args, data, folder, resume)
    if state.is_main_process:
        report(trainer, data, folder)
    state.wait_for_everyone()
    return folder


def report(trainer: RadialTrainer, data: DatasetDict, folder: Path) -> None:
    """Test the saved model, write results, figure and card, and say where they are."""
    results = results_of(trainer, test_saved_model(folder, data))
    curves = {penalty_label(trainer): trainer.state.log_history}
    plot_runs_if_possible(curves, folder / "curves.png", title=trainer.run_facts["title"])
    write_card(trainer, results)
    write_text(folder / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    print(f"{trainer.run_facts['title']}, weight decay {trainer.args.weight_decay:g}, seed {trainer.args.seed}")
    print(f"  training rows at 99 %: {at(results, 'fit_step', 'fit_epoch')}")
    print(f"  held-out rows stay above 90 %: {at(results, 'onset_90', 'onset_90_epoch')}")
    print(f"  test: {results['test']['exact_match']:.2%} of {results['test']['problems']} rows\n")
    print(f"  model    {folder} (model.safetensors, config.json)")
    print(f"  card     {folder / 'README.md'}")
    print(f"  log      {folder / 'trainer_state.json'}")
    print(f"  results  {folder / RESULTS_FILE}")


def at(results: dict[str, Any], step: str, epoch: str) -> str:
    """`step 380, epoch 20`, or `not by step 500`."""
    text = format_step(results[step], results["last_step"])
    return text if results[epoch] is None else f"{text}, epoch {results[epoch]:g}"


if __name__ == "__main__":
    gc.freeze()  # imported objects stay: later collections need not look at them
    gc.enable()
    run_recipe(main)
    end_processes()
