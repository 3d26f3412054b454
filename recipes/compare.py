"""Many ways of training under the same rules: a grid of tasks, models, methods, settings and seeds, run, judged and printed.

    python recipes/compare.py recipes/configs/compare_rivals.yaml --jobs 2             # again to go on where it stopped
    python recipes/compare.py recipes/configs/compare_rivals.yaml --again Muon "seed 0"   # committed cells, then and now
    python recipes/compare.py recipes/configs/compare_rivals.yaml --table              # the tables from what there is
    python recipes/compare.py recipes/configs/compare_rivals.yaml --ray auto             # on a Ray cluster with a shared folder
    python recipes/compare.py recipes/configs/compare_decay.yaml --together 16           # MLPs that can share their steps do

Each run is made in a folder of its own, named by a hash of its options, and writes `run.json` first and `result.json` last. A
run that fails writes `failed.json` with the traceback and is tried once more (and again with --retry); it stays in the table.
What is tuned, and how much, is in the grid file (hf_radial/comparison/grid.py): each arm has as many trials (tuning.py), on
seeds that are not judged. Rows, tables and the figure go to recipes/results/compare.

Read from top to bottom: what a run is, how one is made, how many are, tuning, and `main`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a script, this folder is on the path, but not the one above it

from hf_radial.comparison.grid import Arm, Grid, ranges_of, read_grid, run_name, run_options
from hf_radial.comparison.table import markdown, write
from hf_radial.comparison.tuning import sampler_name, score, search
from hf_radial.runs.record import describe_environment, made_on

RESULTS = Path(__file__).resolve().parent / "results" / "compare"
RUN_FILE, RESULT_FILE, FAILED_FILE = "run.json", "result.json", "failed.json"
ATTEMPTS = 2
SHARED = ("learning_rate", "weight_decay", "radial_lambda", "seed")  # what runs that share their steps may differ in


# A run ----------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One run's options. Lengths of time are in epochs."""

    task: str = "modular"
    fields: dict[str, Any] = field(default_factory=dict)  # of the task, as `load_task` takes them
    train_fraction: float | None = None  # over that in `fields`
    split_by_seed: bool = False  # whether rows are drawn and dealt by the run's seed too, and not by the task's alone
    model: str = "mlp"  # or "transformer"
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
    epochs: int = 300
    evaluate_every: int = 5
    solved_at: float = 0.95
    solved_evaluations: int = 3
    stop: bool = True  # whether it ends after so many evaluations in a row at `solved_at`
    radial_lambda: float = 0.0
    interventions: list[str] = field(default_factory=list)
    follows: str = ""  # the run whose folder is `{followed}` in the interventions
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in ("mlp", "transformer"):
            raise ValueError(f"model={self.model!r} is unknown; choose 'mlp' or 'transformer'")
        for name in ("width", "embedding_size", "layers", "heads", "epochs", "evaluate_every", "solved_evaluations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.solved_at <= 1:
            raise ValueError(f"solved_at={self.solved_at} must be above 0 and at most 1")


def read_run(options: dict[str, Any]) -> Run:
    """Options as a `Run`. ValueError, with the name, if there is one that means nothing."""
    unknown = sorted(set(options) - set(Run.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} of a run; there are {', '.join(Run.__dataclass_fields__)}")
    from hf_radial.interventions import interventions

    run = Run(**options)
    interventions([text for text in run.interventions if "{followed}" not in text])
    return run


def make_run(
    folder: Path, options: dict[str, Any], then: Callable[[Any, dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Train one run in `folder` and return its result, which is also written there as its last file.

    `then` is called with the trainer and the result before.
    """
    from transformers.trainer_callback import PrinterCallback

    from hf_radial import RadialTrainer
    from hf_radial.interventions import add_interventions

    be_quiet()
    run = read_run(options)
    rows = load_rows(run)
    trainer, methods = make_trainer(folder, run, rows, RadialTrainer)
    trainer.remove_callback(PrinterCallback)
    clock = Clock(time.process_time if trainer.args.device.type == "cpu" else time.perf_counter)
    trainer.add_callback(clock.callback())
    add_interventions(trainer, methods)
    trainer.train()
    result = judge(trainer, run, rows, clock)
    if then is not None:
        then(trainer, result)
    write_json(folder / RESULT_FILE, result)
    return result


def make_runs(together: Runs) -> None:
    """Train runs that are alike (see `jobs_of`), a step of all of them at a time; each writes its result.

    One whose loss is no number any more has failed; the others go on.
    """
    from hf_radial.sweep.members import SweepMember
    from hf_radial.sweep.together import train_together

    be_quiet()
    runs = {str(folder): read_run(options) for folder, options in together}
    rows = load_rows(next(iter(runs.values())))
    members = [make_trainer(Path(folder), run, rows, SweepMember)[0] for folder, run in runs.items()]
    for member in members:
        member.eval_dataset = members[0].eval_dataset  # one object for all

    def keep(member: SweepMember) -> None:
        folder = Path(str(member.args.output_dir))
        if member.failure is not None:
            note_failure(folder, member.failure, "")
            return
        result = judge(member, runs[str(folder)], rows, None)
        write_json(folder / RESULT_FILE, {**result, "together": len(members)})
        (folder / FAILED_FILE).unlink(missing_ok=True)

    train_together(members, on_end=keep)


def be_quiet() -> None:
    """One thread, and no bars or messages of the libraries, in this process."""
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    disable_progress_bars()


def make_trainer(folder: Path, run: Run, rows: tuple[dict[str, Any], int, bool], kind: Any) -> tuple[Any, list[Any]]:
    """A run's trainer, of class `kind`, and its interventions, which its model knows of and its trainer does not yet."""
    from transformers import set_seed

    from hf_radial import GrokkingCallback, RadialArguments
    from hf_radial.interventions import interventions
    from hf_radial.tasks.tensor_rows import as_batch

    splits, classes, language = rows
    batch = run.batch_size or len(splits["train"])
    steps = -(-len(splits["train"]) // batch)
    methods = interventions([text.replace("{followed}", str(folder.parent / run.follows)) for text in run.interventions])
    set_seed(run.seed)
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
        max_grad_norm=0.0,
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
    )
    trainer = kind(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset={"train": splits["train"].first(1000), "validation": splits["validation"]},
        data_collator=as_batch,
        compute_metrics=exact_match,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        callbacks=[
            GrokkingCallback(stop_evaluations=run.solved_evaluations, stop_threshold=run.solved_at)
            if run.stop
            else GrokkingCallback()
        ],
    )
    trainer.run_facts = {"comparison": asdict(run), "steps_per_epoch": steps}
    return trainer, methods


def judge(trainer: Any, run: Run, rows: tuple[dict[str, Any], int, bool], clock: Clock | None) -> dict[str, Any]:
    """What became of a run that has ended. Seconds are those of `clock`, and unknown of a run that shared its steps."""
    from hf_radial.runs.onset import HELD_OUT_METRIC, curve, first_of_run, summarise
    from hf_radial.tasks.tensor_rows import TensorRows

    splits = rows[0]
    log = trainer.state.log_history
    found = whole = summarise(log)
    solved = first_of_run(log, HELD_OUT_METRIC, run.solved_at, run.solved_evaluations)
    if solved is not None:  # a run that goes on after that is judged as one that ends there
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
    """Seconds of training at each evaluation, without those that evaluations take.

    Of a run on the CPU, which has one thread, its CPU time: what else the machine does then is no part of the comparison.
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


def exact_match(prediction: Any) -> dict[str, float]:
    """Share of rows whose answer is right: one class, or every token of a text's answer, each given those before it."""
    right = prediction.predictions == prediction.label_ids
    if right.ndim == 2:  # position i predicts the token at i + 1
        predicted, labels = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
        right = ((predicted == labels) | (labels == -100)).all(1)
    return {"exact_match": float(right.mean())}


def load_rows(run: Run) -> tuple[dict[str, Any], int, bool]:
    """Splits as `TensorRows`, how many classes (or tokens) there are, and whether the rows are texts."""
    from hf_radial.tasks.load import load_task
    from hf_radial.tasks.tensor_rows import TensorRows
    from hf_radial.tasks.tokenizer import encode, task_tokenizer

    fields = dict(run.fields)
    if run.train_fraction is not None:
        fields |= {"train_fraction": run.train_fraction, "validation_fraction": round((1 - run.train_fraction) / 2, 4)}
    if run.split_by_seed:
        fields["seed"] = run.seed
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
    classes = 1 + max(int(max(part.columns[name].max() for name in ("input_ids", "labels"))) for part in rows.values())
    return rows, classes, False


def build_model(run: Run, classes: int, length: int, methods: Sequence[Any], language: bool = False) -> Any:
    """A fresh model of rows of `length` tokens; `methods` may change its configuration first."""
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
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    options: dict[str, Any] = {"num_labels": classes, "pad_token_id": classes}
    config = GPT2Config(
        vocab_size=classes + 1,
        n_positions=length,
        n_embd=run.width,
        n_layer=run.layers,
        n_head=run.heads,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        **options,
    )
    for method in methods:
        method.configure(config)
    if language:
        model: Any = GPT2LMHeadModel(config)
        model.loss_type = "ForCausalLM"  # transformers cannot tell from the name of this class that its loss shifts the labels
    else:
        model = GPT2ForSequenceClassification(config)  # answers at the last operand: no sign of equality is needed
    if not run.layer_norm:
        for block in model.transformer.h:
            block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
        model.transformer.ln_f = nn.Identity()
    return model


# Many runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    setting: str
    arm: str
    stage: str
    drawn: dict[str, Any]
    options: dict[str, Any]

    def folder(self, root: Path) -> Path:
        return root / run_name(self.options)


Runs = list[tuple[Path, dict[str, Any]]]


@dataclass(frozen=True)
class Job:
    """Runs that are made in one piece of work: one, or several that share their steps."""

    runs: Runs

    def make(self) -> None:
        """Make those that are not done yet, each to a result or a failure, which is written to its folder."""
        attempt(self.runs)

    def undone(self) -> Runs:
        return undone(self.runs)


@dataclass(frozen=True)
class TuningJob:
    """The tuning of one arm at one setting, trial after trial."""

    grid: Grid
    setting: dict[str, Any]
    arm: Arm
    root: Path

    def make(self) -> None:
        while todo := self.undone():
            attempt(todo[:1])

    def undone(self) -> Runs:
        """What is to be run next: the trial after those that are done, or what is left of the finalists."""
        cells = tuning_cells(self.grid, self.setting, self.arm, self.root)[1]
        return undone([(cell.folder(self.root), cell.options) for cell in cells])


def jobs_of(todo: Runs, together: int) -> list[Job]:
    """Runs as jobs: MLPs without interventions that differ in nothing but numbers of the optimizer and seeds go together."""
    alike: dict[str, Runs] = {}
    for folder, options in todo:
        can = options.get("model", "mlp") == "mlp" and not options.get("interventions") and not options.get("split_by_seed")
        rest = {name: value for name, value in options.items() if name not in SHARED}
        key = json.dumps(rest, sort_keys=True, default=str) if can and together > 1 else str(folder)
        alike.setdefault(key, []).append((folder, options))
    return [
        Job(sorted(runs[i::parts], key=lambda pair: [pair[1].get(name, 0) for name in SHARED]))
        for runs in alike.values()
        for parts in [-(-len(runs) // together)]
        for i in range(parts)
    ]


def attempt(runs: Runs) -> None:
    """See `Job.make`."""
    for folder, options in runs:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "options.json", options)
    if len(runs) > 1:
        try:
            make_runs(runs)
            return
        except Exception:  # of one of them or of what they share: run by run it can be seen
            traceback.print_exc()
    for folder, options in runs:
        if (folder / RESULT_FILE).is_file() or (len(runs) > 1 and (folder / FAILED_FILE).is_file()):
            continue
        try:
            make_run(folder, options)
            (folder / FAILED_FILE).unlink(missing_ok=True)
        except Exception as error:
            note_failure(folder, f"{type(error).__name__}: {error}", traceback.format_exc())


def note_failure(folder: Path, message: str, details: str) -> dict[str, Any]:
    attempts = 1 + (json.loads((folder / FAILED_FILE).read_text())["attempts"] if (folder / FAILED_FILE).is_file() else 0)
    failure = {"status": "failed", "failure": message, "attempts": attempts, "traceback": details}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILED_FILE, failure)
    return failure


def note_failures(job: Job | TuningJob, message: str) -> None:
    """The failure of a process, for each of the runs that it may have had in hand."""
    for folder, _ in job.undone()[: 1 if isinstance(job, TuningJob) else None]:
        note_failure(folder, message, "")


def undone(runs: Runs) -> Runs:
    return [(folder, options) for folder, options in runs if outcome(folder) is None]


def write_json(file: Path, value: Any) -> None:
    """Whole or not at all: whoever is killed while writing leaves nothing that looks done."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=1, default=str) + "\n")
    os.replace(partial, file)


def outcome(folder: Path) -> dict[str, Any] | None:
    """What became of a run; `None` if it is to be made, or made again."""
    if (folder / RESULT_FILE).is_file():
        result: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text())
        return result
    if (folder / FAILED_FILE).is_file():
        failure: dict[str, Any] = json.loads((folder / FAILED_FILE).read_text())
        return failure if failure["attempts"] >= ATTEMPTS else None
    return None


Jobs = Sequence[Job | TuningJob]
Runner = Callable[[Jobs], Iterator[Job | TuningJob]]


def in_processes(processes: int) -> Runner:
    """Jobs side by side in so many processes. A process that dies is a failure of the runs that it may have had."""

    def runner(todo: Jobs) -> Iterator[Job | TuningJob]:
        waiting = list(todo)
        while waiting:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
                running: dict[Future[Any], Job | TuningJob] = {}
                broken = False
                while (waiting or running) and not broken:
                    while waiting and len(running) < processes:
                        job = waiting.pop(0)
                        running[pool.submit(job.make)] = job
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        job = running.pop(future)
                        try:
                            future.result()
                        except BrokenProcessPool as error:
                            broken = True
                            note_failures(job, str(error))
                        yield job
                if broken:  # whichever of them was not at fault has lost nothing but time
                    waiting += [job for job in running.values() if job.undone()]

    return runner


def end_with_parent() -> None:
    """End this process when the one that started it has ended, however that was: a worker would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def made_by_ray(job: Job | TuningJob) -> None:
    job.make()


def on_ray(address: str) -> Runner:
    """Runs on a Ray cluster whose machines share the folder. A worker that dies has its run made again elsewhere."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("--ray needs Ray: pip install 'hf_radial[ray]'") from error

    def runner(todo: Jobs) -> Iterator[Job | TuningJob]:
        ray.init(address=None if address == "local" else address, ignore_reinit_error=True, log_to_driver=False)
        remote = ray.remote(num_cpus=1, max_retries=3)(made_by_ray)
        running = {remote.remote(job): job for job in todo}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                job = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    note_failures(job, f"{type(error).__name__}: {error}")
                yield job

    return runner


def run_all(cells: Sequence[Cell], root: Path, runner: Runner, title: str, together: int = 1) -> None:
    """Make the runs that are not done, those that follow another last, and those that fail once more; each of them once.

    A run that fails among others is made again by itself.
    """
    for follows in (False, True):
        all_of_them = {cell.folder(root): cell.options for cell in cells if ("follows" in cell.options) is follows}
        while todo := undone(list(all_of_them.items())):
            again = [(folder, options) for folder, options in todo if (folder / FAILED_FILE).is_file()]
            first = [one for one in todo if one not in again]
            _run([*jobs_of(first, together), *jobs_of(again, 1)], runner, title)


def tune_all(grid: Grid, root: Path, runner: Runner, title: str) -> None:
    """Tune the arms of a grid, side by side; the trials of one arm are made one after the other."""
    for first in (True, False):  # the others begin where the reference has ended
        arms = [arm for arm in grid.arms if (arm.name == grid.reference) is first]
        jobs = [TuningJob(grid, setting, arm, root) for setting in grid.settings for arm in arms]
        while todo := [job for job in jobs if job.undone()]:
            _run(todo, runner, title)


def _run(todo: Jobs, runner: Runner, title: str) -> None:
    with tqdm(total=len(todo), desc=title, unit="job", dynamic_ncols=True, disable=None) as bar:
        for job in runner(todo):
            if isinstance(job, Job):
                for folder, _ in job.runs:
                    said = outcome(folder)
                    bar.set_postfix_str(
                        "failed, to be made again" if said is None else f"{said['status']} {said.get('onset') or ''}"
                    )
                    if said is not None and said["status"] == "failed":
                        print(f"  FAILED {folder}: {said['failure']}", flush=True)
            else:
                bar.set_postfix_str(f"{job.arm.name}: {best_trial(job.grid, job.setting, job.arm, job.root) or 'not yet'}")
            bar.update()


# Tuning ---------------------------------------------------------------------------------------------------------------


def tuning_cells(grid: Grid, setting: dict[str, Any], arm: Arm, root: Path) -> tuple[list[Cell], list[Cell]]:
    """The runs of an arm's tuning that are done, in their order, and those that are next: none if it is through.

    What is drawn depends on how the runs before went, so that those after the next are not known.
    """
    if grid.tuning is None:
        return [], []

    def cells(drawn: dict[str, Any], seeds: Sequence[int]) -> list[Cell]:
        options = [run_options(grid, setting, arm, drawn, seed) for seed in seeds]
        return [Cell(label(setting), arm.name, "tuning", drawn, one) for one in options]

    done: list[Cell] = []
    tried: dict[str, tuple[float, dict[str, Any]]] = {}
    start = start_of(grid, setting, arm, root)
    asked = search(ranges_of(arm, grid.tuning), grid.tuning.trials, start, grid.tuning.sampler_seed)
    drawn = next(asked)
    while True:
        trial = cells(drawn, grid.tuning.seeds)
        found = median_score(trial, root)
        if found is None:
            return done, trial
        done += [cell for cell in trial if cell not in done]  # what is drawn twice is run once
        tried.setdefault(json.dumps(drawn), (found, drawn))
        try:
            drawn = asked.send(found)
        except StopIteration:
            break
    best = sorted(tried.values(), key=lambda pair: pair[0])[: grid.tuning.finalists]
    finalists = [cell for _, drawn in best for cell in cells(drawn, grid.tuning.finalist_seeds)]
    waiting = [cell for cell in finalists if outcome(cell.folder(root)) is None]
    return done + [cell for cell in finalists if cell not in waiting], waiting


_REFERENCES: dict[tuple[str, str, Path], dict[str, Any]] = {}  # what the reference is tuned to, once it is


def start_of(grid: Grid, setting: dict[str, Any], arm: Arm, root: Path) -> list[dict[str, Any]]:
    """The first trials of an arm: at what the reference is tuned to, twice if there are numbers of its own to draw beside it.

    Whatever else is drawn, a method has thus been tried on top of the tuned reference.
    """
    if grid.tuning is None or arm.name == grid.reference:
        return []
    key = (grid.name, label(setting), root)
    if key not in _REFERENCES:
        reference = next(one for one in grid.arms if one.name == grid.reference)
        found = best_trial(grid, setting, reference, root)
        if found is None:
            return []
        _REFERENCES[key] = found
    ranges = ranges_of(arm, grid.tuning)
    shared = {name: value for name, value in _REFERENCES[key].items() if name in grid.tuning.common and name in ranges}
    return [shared] * (2 if set(ranges) - set(shared) else 1)


def median_score(cells: Sequence[Cell], root: Path) -> float | None:
    """The median of the runs' scores; `None` if one is not done."""
    found = [(outcome(cell.folder(root)), read_run(cell.options).epochs) for cell in cells]
    scores = sorted(score(one, epochs) for one, epochs in found if one is not None)
    return scores[len(scores) // 2] if len(scores) == len(cells) else None


def judged_cells(grid: Grid, root: Path) -> list[Cell]:
    """The runs on the judged seeds; an arm whose tuning is not through has none yet."""
    cells = []
    for setting in grid.settings:
        for arm in grid.arms:
            drawn = best_trial(grid, setting, arm, root)
            if drawn is not None:
                cells += [
                    Cell(label(setting), arm.name, "judged", drawn, run_options(grid, setting, arm, drawn, seed))
                    for seed in grid.seeds
                ]
    return cells


def best_trial(grid: Grid, setting: dict[str, Any], arm: Arm, root: Path) -> dict[str, Any] | None:
    """The finalist with the best median over all seeds of the tuning; `None` before the tuning is through."""
    if grid.tuning is None:
        return {}
    done, waiting = tuning_cells(grid, setting, arm, root)
    if waiting:
        return None
    runs: dict[str, list[Cell]] = {}
    for cell in done:
        runs.setdefault(json.dumps(cell.drawn), []).append(cell)
    longest = max(map(len, runs.values()))  # finalists have runs on more seeds
    scored = [(median_score(cells, root) or 0.0, cells[0].drawn) for cells in runs.values() if len(cells) == longest]
    return min(scored, key=lambda pair: pair[0])[1]


def label(setting: dict[str, Any]) -> str:
    """A setting as text.

    >>> label({"task": "modular", "fields": {"operation": "add", "p": 97}, "train_fraction": 0.3})
    'modular, operation add, p 97, train_fraction 0.3'
    """
    parts = []
    for name, value in setting.items():
        if isinstance(value, dict):
            parts += [f"{key} {inner}" for key, inner in value.items()]
        else:
            parts.append(str(value) if name in ("task", "model") else f"{name} {value}")
    return ", ".join(parts)


# Committed runs, again --------------------------------------------------------------------------------------------------


def run_again(grid: Grid, options: argparse.Namespace, runner: Runner) -> str:
    """Make judged runs of the committed comparison anew, with the options that they have there, and tell both outcomes.

    Raises:
        ValueError: the comparison is not there, or none of its judged runs has all of the words.
    """
    file = options.results / f"{grid.name}.json"
    if not file.is_file():
        raise ValueError(f"--again: there is no {file}; make the comparison first, without --again")
    judged = [row for row in json.loads(file.read_text())["rows"] if row["stage"] == "judged"]
    said = {row["run"]: ", ".join(filter(None, [row["setting"], row["arm"], f"seed {row['seed']}"])) for row in judged}
    rows = [row for row in judged if all(word in said[row["run"]] for word in options.again)]
    if not rows:
        raise ValueError(
            f"--again {' '.join(options.again)}: no judged run has all of these words; the first is {said[judged[0]['run']]!r}"
        )
    followed = {row["options"].get("follows") for row in rows}
    cells = [
        Cell(row["setting"], row["arm"], "judged", row["drawn"], row["options"])
        for row in judged
        if row in rows or row["run"] in followed
    ]
    root = options.runs / "again"
    for cell in cells:
        shutil.rmtree(cell.folder(root), ignore_errors=True)
    run_all(cells, root, runner, f"{grid.name} again", options.together)
    lines = ["| run | committed: onset | held out, at the end | now: onset | held out, at the end |", "|" + "---|" * 5]
    for row in rows:
        now = outcome(root / row["run"]) or {"status": "failed"}
        told = [
            f"{one['onset'] if one['status'] == 'solved' else one['status']} | {one.get('held_out', '–')}" for one in (row, now)
        ]
        lines.append(f"| {said[row['run']]} | {told[0]} | {told[1]} |")
    return "\n".join(lines)


# The whole ------------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> Path:
    options = parse(argv)
    grid = read_grid(options.grid)
    root = options.runs.resolve()
    arms = [(setting, arm) for setting in grid.settings for arm in grid.arms]
    for cells in (part for one in arms for part in tuning_cells(grid, *one, root)):
        for cell in cells:
            read_run(cell.options)  # what is wrong is said before anything is trained
    for cell in judged_cells(grid, root):
        read_run(cell.options)
    if options.retry:
        for folder in root.glob("*"):
            (folder / FAILED_FILE).unlink(missing_ok=True)
    runner = on_ray(options.ray) if options.ray else in_processes(options.jobs)
    if options.again:
        print(run_again(grid, options, runner))
        return options.results / f"{grid.name}.md"
    if not options.table:
        for i, setting in enumerate(grid.settings, 1):  # one after the other: what is there early is whole
            part, title = replace(grid, settings=(setting,)), f"{grid.name} {i}/{len(grid.settings)}"
            if "tuning" in options.only:
                tune_all(part, root, runner, f"{title}: tuning")
            if "judged" in options.only:
                run_all(judged_cells(part, root), root, runner, f"{title}: judged", options.together)
    data = collect(grid, root, options)
    entries = write(data, options.results)
    print(f"\n{grid.title}\n\n{markdown(entries)}")
    print(f"  table    {options.results / grid.name}.md, .tex, .parquet, .json, .png")
    print(f"  runs     {root}")
    return options.results / f"{grid.name}.md"


def collect(grid: Grid, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All rows of a grid, and what must be known to judge them."""
    rows = []
    judged = judged_cells(grid, root)
    tuned = [tuning_cells(grid, setting, arm, root) for setting in grid.settings for arm in grid.arms]
    missing = len(grid.settings) * len(grid.arms) * len(grid.seeds) - len(judged) + sum(len(waiting) for _, waiting in tuned)
    for cell in [*(cell for done, _ in tuned for cell in done), *judged]:
        found = outcome(cell.folder(root))
        if found is None:
            missing += 1
            continue
        found.pop("traceback", None)
        if found["status"] == "failed":
            found["last"] = read_run(cell.options).epochs
        if cell.stage == "tuning":
            found.pop("curve", None)
        where = {
            "setting": cell.setting,
            "arm": cell.arm,
            "stage": cell.stage,
            "seed": cell.options["seed"],
            "drawn": cell.drawn,
        }
        made_at = json.loads((cell.folder(root) / RUN_FILE).read_text()) if (cell.folder(root) / RUN_FILE).is_file() else {}
        environment = made_at.get("environment", {})
        facts = {"run": cell.folder(root).name, "revision": environment.get("revision"), "made_on": made_on(environment)}
        rows.append({**where, **found, "options": cell.options, **facts})
    base = Run(**{key: value for key, value in grid.base.items() if key in Run.__dataclass_fields__})
    return {
        "grid": grid.name,
        "title": grid.title,
        "question": grid.question,
        "reference": grid.reference,
        "published": list(grid.published),
        "command": f"python recipes/compare.py recipes/configs/{options.grid.name}",
        "seeds": list(grid.seeds),
        "tuning": None
        if grid.tuning is None
        else {
            **asdict(grid.tuning),
            "sampler": sampler_name(),
            "own": {arm.name: arm.tune for arm in grid.arms if arm.tune},
        },
        "solved_at": base.solved_at,
        "solved_evaluations": base.solved_evaluations,
        "missing": missing,
        "jobs": options.jobs,
        "environment": describe_environment(),
        "rows": rows,
    }


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="a grid file: recipes/configs/compare_*.yaml")
    parser.add_argument("--jobs", type=int, default=max(1, os.cpu_count() or 1), help="runs at a time (%(default)s)")
    parser.add_argument(
        "--together",
        type=int,
        default=1,
        help="at most so many MLPs share their steps that differ in seed, learning rate, weight decay, lambda (%(default)s)",
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: its address, 'auto', or 'local'")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="where runs are kept (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where tables go (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=["tuning", "judged"], default=["tuning", "judged"], help="stages to run")
    parser.add_argument(
        "--again",
        nargs="+",
        metavar="WORD",
        help="make anew those committed judged runs that have all of these words in 'SETTING, ARM, seed N'; tell both outcomes",
    )
    parser.add_argument("--retry", action="store_true", help="forget which runs failed, and make them again")
    parser.add_argument("--table", action="store_true", help="run nothing, make the tables from the runs that there are")
    options = parser.parse_args(argv)
    if options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs} must be at least 1")
    if options.together < 1:
        raise ValueError(f"--together {options.together} must be at least 1")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
