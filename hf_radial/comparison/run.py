"""One run of a comparison: its data, its model, its trainer, and how it is judged.

In here: making a run in a folder, alone or together with others. Not in here: its options (`run_options`), the list of runs
(`trials`), and what happens when one fails (`jobs`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from hf_radial.comparison.outcome import FAILED_FILE, RESULT_FILE, Runs, note_failure, write_json
from hf_radial.comparison.own import is_own, own_model, own_rows, source_of
from hf_radial.comparison.run_options import Run, read_run, task_fields

KEPT_ROWS = 32  # number of data sets (task and seed) that a process keeps
_ROWS: dict[str, tuple[dict[str, Any], int, bool]] = {}


def make_run(
    folder: Path,
    options: dict[str, Any],
    then: Callable[[Any, dict[str, Any]], None] | None = None,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train one run in `folder` and return its result. The result file is written last.

    `then` is called with the trainer and the result before the file is written. `callbacks` are added to the trainer; they must
    not change the training.
    """
    from transformers.trainer_callback import PrinterCallback

    from hf_radial import RadialTrainer
    from hf_radial.interventions import add_interventions

    run = read_run(options)
    prepare_process(run.flush_denormals)
    rows = load_rows(run)
    trainer, methods = make_trainer(folder, run, rows, RadialTrainer)
    trainer.remove_callback(PrinterCallback)
    clock = Clock(time.process_time if trainer.args.device.type == "cpu" else time.perf_counter)
    trainer.add_callback(clock.callback())
    add_interventions(trainer, methods)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    result = judge(trainer, run, rows, clock)
    if then is not None:
        then(trainer, result)
    write_json(folder / RESULT_FILE, result)
    return result


def make_runs(together: Runs) -> None:
    """Train runs that can share their steps (see `jobs_of`), one step of all at a time. Each writes its result.

    A run whose loss becomes NaN or infinite has failed; the others continue.
    """
    from hf_radial.sweep.members import SweepMember
    from hf_radial.sweep.together import train_together

    runs = {str(folder): read_run(options) for folder, options in together}
    first = next(iter(runs.values()))
    prepare_process(first.flush_denormals)
    shared = None if first.split_by_seed else load_rows(first)
    rows = {folder: shared or load_rows(run) for folder, run in runs.items()}
    members: list[Any] = []
    for folder, run in runs.items():
        member, methods = make_trainer(Path(folder), run, rows[folder], SweepMember)
        for method in methods:
            method.join_sweep(member)
        if shared and members:
            member.eval_dataset = members[0].eval_dataset  # one object for all
        members.append(member)

    def keep(member: SweepMember) -> None:
        folder = Path(str(member.args.output_dir))
        if member.failure is not None:
            note_failure(folder, member.failure, "")
            return
        result = judge(member, runs[str(folder)], rows[str(folder)], None)
        write_json(folder / RESULT_FILE, {**result, "together": len(members)})
        (folder / FAILED_FILE).unlink(missing_ok=True)

    train_together(members, on_end=keep)


def prepare_process(flush_denormals: bool) -> None:
    """Set up this process: one thread, denormal numbers flushed or not, and no progress bars or messages of the libraries."""
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging

    torch.set_num_threads(1)
    if not torch.set_flush_denormal(flush_denormals) and flush_denormals:
        print("denormal numbers cannot be flushed on this processor: runs whose weights decay to nothing will be slow")
    logging.set_verbosity_error()
    disable_progress_bars()


def make_trainer(folder: Path, run: Run, rows: tuple[dict[str, Any], int, bool], kind: Any) -> tuple[Any, list[Any]]:
    """A run's trainer, of class `kind`, and its interventions. The model is already configured for them; the trainer is not."""
    from transformers import set_seed

    from hf_radial import GrokkingCallback, RadialArguments
    from hf_radial.geometry.measure import predicts_next
    from hf_radial.interventions import interventions
    from hf_radial.tasks.tensor_rows import as_batch

    splits, classes, language = rows
    batch = run.batch_size or len(splits["train"])
    steps = -(-len(splits["train"]) // batch)
    methods = interventions([text.replace("{followed}", str(folder.parent / run.follows)) for text in run.interventions])
    set_seed(run.seed)
    if is_own(run.model):
        model = own_model(run.model, splits["train"], run.model_options, methods)
    else:
        model = build_model(run, classes, splits["train"].columns["input_ids"].shape[1], methods, language)
    args = RadialArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=8192,
        num_train_epochs=run.epochs,
        learning_rate=run.learning_rate,
        weight_decay=run.weight_decay,
        adam_beta2=run.adam_beta2,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=run.warmup_steps,
        max_grad_norm=run.max_grad_norm,
        optim="adamw_torch_fused",
        seed=run.seed,
        radial_lambda=run.radial_lambda,
        eval_strategy="steps",
        eval_steps=run.evaluate_every * steps,
        logging_steps=20 * steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=["labels"] if is_own(run.model) else None,  # not every class says so in its signature
    )
    trainer = kind(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset={"train": splits["train"].first(1000), "validation": splits["validation"]},
        data_collator=as_batch,
        compute_metrics=partial(exact_match, shift=predicts_next(model)),
        preprocess_logits_for_metrics=lambda logits, labels: (logits[0] if isinstance(logits, tuple) else logits).argmax(-1),
        callbacks=[
            GrokkingCallback(stop_evaluations=run.solved_evaluations, stop_threshold=run.solved_at)
            if run.stop
            else GrokkingCallback()
        ],
    )
    trainer.run_facts = {"comparison": asdict(run), "steps_per_epoch": steps}
    if own := [source_of(text) for text in (run.task, run.model) if is_own(text)]:
        trainer.run_facts["own"] = own
    return trainer, methods


def judge(trainer: Any, run: Run, rows: tuple[dict[str, Any], int, bool], clock: Clock | None) -> dict[str, Any]:
    """The result of a run that has ended. Seconds come from `clock`; a run that shared its steps has none."""
    from hf_radial.runs.onset import HELD_OUT_METRIC, curve, first_streak, summarise
    from hf_radial.tasks.tensor_rows import TensorRows

    splits = rows[0]
    log = trainer.state.log_history
    found = whole = summarise(log)
    solved = first_streak(log, HELD_OUT_METRIC, run.solved_at, run.solved_evaluations)
    if solved is not None:  # a longer run is judged as if it had ended here
        steps = curve(log, HELD_OUT_METRIC)[0]
        end = steps[steps.index(solved) + run.solved_evaluations - 1]
        found = summarise([entry for entry in log if entry["step"] <= end])
    values: Any = trainer.predict(TensorRows(splits["test"].columns)).metrics if "test" in splits else {}
    return {
        "status": "solved" if solved is not None and found["onset_90"] is not None else "censored",
        "fit": found["fit_epoch"],
        "onset": found["onset_90_epoch"],
        "onset_steps": found["onset_90"],
        "onset_99": found["onset_99_epoch"],
        "seconds": clock and clock.at(found["onset_90"]),
        "last": whole["last_epoch"],
        "last_steps": whole["last_step"],
        "last_seconds": clock and clock.at(whole["last_step"]),
        "held_out": whole["last_held_out"],
        "held_out_at_fit": found["held_out_at_fit"],
        "test": values.get("test_exact_match"),
        "curve": [[round(e["epoch"], 3), e["eval_validation_exact_match"]] for e in log if "eval_validation_exact_match" in e],
    }


class Clock:
    """Seconds of training at each evaluation, without the time of the evaluations.

    On the CPU, which has one thread, it is CPU time: other work of the machine is not part of the comparison.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: dict[int, float] = {}
        self.training, self.since = 0.0, 0.0

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Ticks(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                clock.since = clock.now()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if control.should_evaluate:
                    clock.training += clock.now() - clock.since
                    clock.seconds[state.global_step] = clock.training

            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step in clock.seconds:
                    clock.since = clock.now()

        return Ticks()

    def at(self, step: int | None) -> float | None:
        return self.seconds.get(step) if step is not None else None


def exact_match(prediction: Any, shift: bool = True) -> dict[str, float]:
    """Share of rows with the right answer: one class, or every token of a text's answer, each given the tokens before it.

    Args:
        prediction: of `Trainer`: predicted classes `(n,)` or tokens `(n, positions)`, and labels of the same shape.
        shift: whether position i predicts the token at i + 1, as in a causal language model.
    """
    predicted, labels = prediction.predictions, prediction.label_ids
    if labels.ndim == 2 and shift:
        predicted, labels = predicted[:, :-1], labels[:, 1:]
    right = predicted == labels
    if labels.ndim == 2:
        right = (right | (labels == -100)).all(1)
    return {"exact_match": float(right.mean())}


def load_rows(run: Run) -> tuple[dict[str, Any], int, bool]:
    """Splits as `TensorRows`, the number of classes (or tokens), and whether the rows are texts.

    A process keeps the rows of its latest runs, because all arms use the same rows.
    """
    key = json.dumps(
        [run.task, run.fields, run.train_fraction, run.seed if run.split_by_seed else None, run.model], default=str
    )
    if key not in _ROWS:
        while len(_ROWS) >= KEPT_ROWS:
            del _ROWS[next(iter(_ROWS))]
        _ROWS[key] = _make_rows(run)
    return _ROWS[key]


def _make_rows(run: Run) -> tuple[dict[str, Any], int, bool]:
    from hf_radial.tasks.load import load_task
    from hf_radial.tasks.tensor_rows import TensorRows
    from hf_radial.tasks.tokenizer import encode, task_tokenizer

    fields = task_fields(run)
    if is_own(run.task):
        rows = own_rows(run.task, fields)
        return rows, 0 if is_own(run.model) else _classes(run, rows), rows["train"].columns["labels"].ndim == 2
    data: Any = load_task(run.task, **fields)
    if "validation" not in data:
        raise ValueError(f"task {run.task!r} with {fields} has no validation split; give it a validation_fraction or size")
    names = data["train"].column_names
    if "prompt" in names:
        if run.model == "mlp":
            raise ValueError(f"task {run.task!r} with {fields} has texts, which model='mlp' cannot read; choose 'transformer'")
        tokenizer = task_tokenizer(run.task, **fields)
        data = data.map(encode, batched=True, remove_columns=names, fn_kwargs={"tokenizer": tokenizer}, keep_in_memory=True)
        return {name: TensorRows.of(split) for name, split in data.items()}, len(tokenizer), True
    rows = {name: TensorRows.of(split) for name, split in data.items()}
    return rows, _classes(run, rows), False


def _classes(run: Run, rows: dict[str, Any]) -> int:
    """How many classes or tokens there are: one more than the largest number."""
    columns = rows["train"].columns
    if set(columns) != {"input_ids", "labels"} or columns["input_ids"].ndim != 2:
        raise ValueError(
            f"task {run.task!r} has the columns {', '.join(columns)}; model={run.model!r} reads rows with input_ids of shape "
            "(rows, k) and labels"
        )
    if run.model == "mlp" and columns["labels"].ndim == 2:
        raise ValueError(f"task {run.task!r} has texts, which model='mlp' cannot read; choose 'transformer'")
    return 1 + max(int(max(part.columns[name].max() for name in ("input_ids", "labels"))) for part in rows.values())


def build_model(run: Run, classes: int, length: int, methods: Sequence[Any], language: bool = False) -> Any:
    """A new model for rows of `length` tokens. `methods` may change its configuration first."""
    from torch import nn

    from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification

    if run.model == "mlp":
        config: Any = ModularMLPConfig(
            modulus=classes,
            num_operands=length,
            embedding_size=run.embedding_size,
            hidden_size=run.width,
            num_hidden_layers=run.layers,
        )
        for method in methods:
            method.configure(config)
        return ModularMLPForSequenceClassification(config)
    from transformers import GPT2ForSequenceClassification

    from hf_radial.models.gpt2 import causal_gpt2, gpt2_config

    options: dict[str, Any] = {"num_labels": classes, "pad_token_id": classes}
    sizes: dict[str, Any] = {"width": run.width, "layers": run.layers, "heads": run.heads}
    config = gpt2_config(classes + 1, length, **sizes, activation_function="relu", eos_token_id=None, **options)
    for method in methods:
        method.configure(config)
    if language:
        model: Any = causal_gpt2(config)
    else:
        model = GPT2ForSequenceClassification(config)  # answers at the last operand: no equals sign is needed
    if not run.layer_norm:
        for block in model.transformer.h:
            block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
        model.transformer.ln_f = nn.Identity()
    return model
