"""GPT-2 learns digit addition, with and without the hypersphere penalty, side by side.

    accelerate launch recipes/addition.py                                           # the CPU preset, minutes
    accelerate launch recipes/addition.py recipes/configs/addition_nanogpt.yaml     # 10.6M parameters, the paper's set-up
    accelerate launch recipes/addition.py --preset addition_cpu --radial_lambda 0.03 --arms none penalty paper

Read from top to bottom: the options, the data, the model, one arm's training, the test of the saved model, and `main`.
A preset is a YAML file in recipes/configs; options on the command line win over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import DatasetDict
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    default_data_collator,
    set_seed,
)

from hf_radial import GrokkingCallback, RadialArguments, RadialTrainer
from hf_radial.callbacks.clock import CpuClock
from hf_radial.callbacks.progress import print_sites, show_accuracies
from hf_radial.hub.usage import GENERATION
from hf_radial.interventions import configure, restore
from hf_radial.metrics.answers import generated_exact_match, predicted_exact_match
from hf_radial.models.gpt2 import causal_gpt2, gpt2_config
from hf_radial.report.arms import write_arms
from hf_radial.report.plots import plot_runs_if_possible
from hf_radial.runs.results import RESULTS_FILE, penalty_label, results_of, write_card
from hf_radial.runs.resume import train_or_resume
from hf_radial.runs.script import run_recipe
from hf_radial.runs.start import at_least, end_processes, open_run, option, parse_options
from hf_radial.tasks.load import load_task
from hf_radial.tasks.tokenizer import IGNORED, character_tokenizer, encode_splits
from hf_radial.tasks.windows import windows_of_rows
from hf_radial.training.precision import PRECISIONS, remembered_precision

CONFIGS = Path(__file__).parent / "configs"
ARMS = ("none", "penalty", "paper")
CHARACTERS = "0123456789+=\n"
LIMITS = "It adds, and nothing else: prompts must be spelt as in training, with operands of the digits that it saw."


@dataclass
class AdditionArguments:
    """The task, the model and the comparison. Everything about training itself is in `RadialArguments`."""

    preset: str = option("addition_cpu", "Name of a YAML file in recipes/configs.")
    arms: list[str] = option(
        ["none", "penalty"],
        "Trained one after the other from the same seed: 'none' (no penalty), 'penalty' (the radial_* options), "
        "'paper' (radial_lambda as set by paper_lambda, both sides, radius sqrt(d), no warm-up).",
        nargs="+",
    )
    paper_lambda: float = option(0.01, "radial_lambda of the arm 'paper' (its value for nanoGPT).")
    digits: int = option(3, "Digits of the operands, 1 to 20.")
    sampling: str = option("uniform", "'uniform' over pairs, or 'balanced' over digit counts.")
    reverse: bool = option(True, "Write the answer least significant digit first.")
    zero_pad: bool = option(True, "Pad operands and answer with zeros to equal length.")
    commutative: str = option("together", "'together': (a,b) and (b,a) in one split; 'split': anywhere.")
    train_size: int = option(350, "Training rows.")
    validation_size: int = option(1000, "Held-out rows for the curves and for model selection.")
    test_size: int = option(2000, "Held-out rows for the final test, never looked at before it.")
    task_seed: int = option(0, "Seed of the draw of the rows.")
    window: int = option(
        0,
        "0: a row is an example, and the loss is on its answer. N: examples are random windows of N characters of "
        "all rows in one text, and the loss is on every character (nanoGPT's way).",
    )
    layers: int = option(2, "Transformer blocks.")
    heads: int = option(4, "Attention heads.")
    width: int = option(128, "Width d of the residual stream.")
    dropout: float = option(0.0, "Dropout everywhere.")
    solved_at: float = option(0.995, "Held-out exact match that counts as solved; above 1: never.")
    solved_evaluations: int = option(3, "Stop after so many evaluations in a row at solved_at.")
    measure_precision: bool = option(
        False,
        "Time a few steps first, and train all arms in the faster of float32 and bfloat16 autocast. "
        "False: in what --bf16 (or accelerate's configuration) says.",
    )
    tuned_on: str = option("", "Where the penalty's options were tuned; goes into the card.")

    def __post_init__(self) -> None:
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.arms or len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms={self.arms} must be different names out of {', '.join(ARMS)}")
        if self.window < 0:
            raise ValueError(f"window={self.window} must be 0 (rows) or a positive number of characters")
        at_least(self, 1, "layers", "heads", "width", "solved_evaluations")
        at_least(self, 0, "paper_lambda", "dropout", "solved_at")
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        if self.dropout >= 1:
            raise ValueError(f"dropout={self.dropout} must be below 1")
        if self.validation_size < 1:
            raise ValueError(f"validation_size={self.validation_size} must be at least 1: the curves are made from these rows")


# The data -------------------------------------------------------------------------------------------------------------


def load_data(task: AdditionArguments) -> DatasetDict:
    """Rows with the columns a, b, prompt ("012+345=") and completion ("7530"); no pair of operands is in two splits."""
    names = ("digits", "sampling", "reverse", "zero_pad", "commutative", "train_size", "validation_size", "test_size")
    return load_task("digits", operation="add", seed=task.task_seed, **{name: getattr(task, name) for name in names})


def windows(data: DatasetDict, tokenizer: PreTrainedTokenizerFast, task: AdditionArguments, args: RadialArguments) -> Any:
    """Random windows of the training rows as one text, `$a+b=c$` a line; as many as the run will draw."""
    rows = zip(data["train"]["prompt"], data["train"]["completion"], strict=True)
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return windows_of_rows(rows, tokenizer, task.window, args.max_steps * per_step, args.seed)


# The model ------------------------------------------------------------------------------------------------------------


def build_model(
    task: AdditionArguments, tokenizer: PreTrainedTokenizerFast, given: Sequence[str] | None = None
) -> GPT2LMHeadModel:
    """A fresh model; interventions may change its configuration first."""
    config = gpt2_config(
        len(tokenizer),
        max(task.window, 4 * task.digits + 8),
        width=task.width,
        layers=task.layers,
        heads=task.heads,
        dropout=task.dropout,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return causal_gpt2(configure(config, given))


def measured_precision(task: AdditionArguments, args: RadialArguments, folder: Path) -> dict[str, Any]:
    """The faster precision for this model and its batches; see `hf_radial.training.precision.remembered_precision`."""
    length = task.window or 3 * task.digits + 4  # of a window, or of a row of the longest spelling
    shape = (args.per_device_train_batch_size, length)
    return remembered_precision(folder, lambda: build_model(task, character_tokenizer(CHARACTERS)), shape, args.device)


# One arm --------------------------------------------------------------------------------------------------------------


def arm_arguments(arm: str, task: AdditionArguments, args: RadialArguments, folder: Path) -> RadialArguments:
    """The arguments of one arm. Arms differ only in the penalty."""
    options: dict[str, Any] = {"output_dir": str(folder), "resume_from_checkpoint": None}
    if arm == "none":
        options.update(radial_lambda=0.0)
    if arm == "paper":
        options.update(radial_lambda=task.paper_lambda, radial_radius="sqrt_d", radial_side="both")
        options.update(radial_warmup_steps=0, radial_schedule="constant")
    if args.push_to_hub:
        options.update(hub_model_id=f"{args.hub_model_id or task.preset}-{arm}")
    return replace(args, **options)


def train_arm(
    arm: str, task: AdditionArguments, args: RadialArguments, data: DatasetDict, resume: bool = False
) -> RadialTrainer:
    """Train one arm and save its model and log in `args.output_dir`. With `resume`, go on with the run that is there."""
    tokenizer = character_tokenizer(CHARACTERS)
    start = tokenizer.eos_token if task.window else ""
    rows = encode_splits(data, tokenizer, start)
    held_out = {"train": rows["train"].select(range(min(1000, len(rows["train"])))), "validation": rows["validation"]}
    # Rows of one length need no padding, and a model without a mask is faster. Generation pads on the left. Training pads on
    # the right, because GPT-2 numbers its positions from the first column.
    padded = DataCollatorForSeq2Seq(character_tokenizer(CHARACTERS, padding_side="right"), label_pad_token_id=IGNORED)
    stops: dict[str, Any] = {"stop_threshold": task.solved_at, "stop_evaluations": task.solved_evaluations}
    folder = Path(str(args.output_dir))
    set_seed(args.seed)  # the same initial weights in every arm
    model = build_model(task, tokenizer, args.intervention)
    trainer = RadialTrainer(
        model=model,
        args=args,
        train_dataset=windows(data, tokenizer, task, args) if task.window else rows["train"],
        eval_dataset=held_out,
        processing_class=tokenizer,
        data_collator=default_data_collator if task.zero_pad and task.sampling == "uniform" else padded,
        compute_metrics=predicted_exact_match(),
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        callbacks=[GrokkingCallback(**(stops if task.solved_at <= 1 else {})), CpuClock()],
    )
    if arm == task.arms[0]:
        print_sites(trainer, "measured in every arm, and penalised in arms with a penalty")
    show_accuracies(trainer, title=arm)
    trainer.run_facts = {
        "arm": arm,
        "title": f"{task.digits}-digit addition, {penalty_label(trainer)}",
        "task": "digit addition",
        "dataset": "hf_radial/digits",
        "usage": GENERATION.replace("PROMPT", start + data["test"][0]["prompt"]).replace("LENGTH", str(task.digits + 2)),
        "limits": LIMITS,
        "license": "apache-2.0",
        **vars(task),
    }
    train_or_resume(trainer, folder, resume)
    return trainer


def test_saved_model(folder: Path, data: DatasetDict, task: AdditionArguments) -> dict[str, Any]:
    """Load the saved model from disk and let it write the answers of all test rows, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = restore(AutoModelForCausalLM.from_pretrained(folder)).to(PartialState().device).eval()
    start, rows = tokenizer.eos_token if task.window else "", data["test"]
    return generated_exact_match(model, tokenizer, list(rows["prompt"]), list(rows["completion"]), start)


# From start to end ----------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> Path:
    task, args = parse_options((AdditionArguments, RadialArguments), argv, CONFIGS, "addition_cpu", __doc__ or "")
    if task.window and args.max_steps < 1:
        raise ValueError(f"max_steps={args.max_steps} must be positive: random windows (window={task.window}) have no epochs")
    if args.eval_strategy == "no":
        raise ValueError("eval_strategy must be 'steps' or 'epoch': the curves are made from evaluations")
    state, folder, resume = open_run(args, f"runs/{task.preset}")
    with state.main_process_first():
        data = load_data(task)
    if task.measure_precision:
        with state.main_process_first():
            found = measured_precision(task, args, folder)
        args = replace(args, bf16=PRECISIONS[found["precision"]])
        if state.is_main_process:
            each = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in found["seconds_a_step"].items())
            print(f"precision: {found['precision']} (a step of {found['rows']} rows takes: {each})")
    trainers = {arm: train_arm(arm, task, arm_arguments(arm, task, args, folder / arm), data, resume) for arm in task.arms}
    if state.is_main_process:
        report(trainers, task, data, folder)
    state.wait_for_everyone()
    return folder


def report(trainers: dict[str, RadialTrainer], task: AdditionArguments, data: DatasetDict, folder: Path) -> None:
    """Test every arm's saved model, write table, figure and cards, and say where they are."""
    results, logs = {}, {}
    for arm, trainer in trainers.items():
        label = penalty_label(trainer)
        label = f"{label} ({arm})" if label in results else label  # the arm "penalty" may be set to be the paper's
        logs[label] = trainer.state.log_history
        results[label] = {"arm": arm, **results_of(trainer, test_saved_model(folder / arm, data, task))}
        title = f"{task.digits}-digit addition, {label}"
        plot_runs_if_possible({label: logs[label]}, folder / arm / "curves.png", title)
        write_card(trainer, results[label])
    print("\n" + write_arms(results, logs, folder, f"{task.digits}-digit addition, {task.train_size:,} training rows"))
    for label, result in results.items():
        if task.solved_at <= 1 and result["test"]["exact_match"] < 0.99:
            print(f"warning: {label} ended below 99 % exact match; give it more steps with --max_steps")
    for arm in trainers:
        print(f"\n{arm}:")
        print(f"  model    {folder / arm} (model.safetensors, config.json, tokenizer.json)")
        print(f"  card     {folder / arm / 'README.md'}")
        print(f"  curves   {folder / arm / 'curves.png'}")
        print(f"  log      {folder / arm / 'trainer_state.json'}, TensorBoard in {folder / arm / 'runs'}")
    print(f"\nboth side by side: {folder / 'comparison.png'}, {folder / 'comparison.md'}, {folder / RESULTS_FILE}")


if __name__ == "__main__":
    run_recipe(main)
    end_processes()
