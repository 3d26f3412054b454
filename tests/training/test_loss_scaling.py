"""Trainer scales its loss in several ways. The penalty is always the mean over the vectors of the whole effective batch."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from loss_scaling_worker import CASES, LAMBDA, MAKE, train
from reference import check_step, reference_of_step, token_mean, whole_error
from transformers import Trainer
from two_processes import launch

smoothed = functools.partial(token_mean, smoothing=0.2)


def doubled(logits, batch, sizes):
    return 2 * token_mean(logits, batch, sizes)


def mean_over_ranks(logits, batch, sizes):
    """Without `average_tokens_across_devices`: each rank's mean over its own tokens, then the mean of these."""
    rows = sum(sizes[: len(sizes) // 2])
    halves = (slice(None, rows), slice(rows, None))
    return torch.stack([token_mean(logits[h], {"labels": batch["labels"][h]}, []) for h in halves]).mean()


def mean_over_micro_batches(logits, batch, sizes):
    parts = zip(logits.split(sizes), batch["labels"].split(sizes), strict=True)
    return torch.stack([token_mean(part, {"labels": labels}, []) for part, labels in parts]).mean()


TASK = {"not_averaged": mean_over_ranks, "smoothed": smoothed, "own_loss": doubled}


def check(name, model, batches, gradients, log, task_loss):
    if name != "bf16":
        check_step(model, batches, gradients, log, LAMBDA, task_loss)
        return
    # bfloat16 has 8 bits: 0.4 % in each operation. The penalty itself is taken in float32.
    expected = reference_of_step(model, batches, LAMBDA, task_loss, torch.float32)
    without = reference_of_step(model, batches, 0.0, task_loss, torch.float32)["gradients"]
    error = whole_error(gradients, expected["gradients"])
    print(f"bf16: gradient {error:.1e}, penalty {abs(log['radial_penalty'] / expected['radial_penalty'] - 1):.1e}")
    assert error < 0.04 < 0.1 < whole_error(without, expected["gradients"])
    assert log["radial_penalty"] == pytest.approx(expected["radial_penalty"], rel=0.01)
    assert log["task_loss"] == pytest.approx(expected["task_loss"], rel=0.01)


def test_both_models_tie_their_weights():
    for make in MAKE.values():
        model = make()
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("not_averaged", "compiled")])
def test_one_process(name, tmp_path):
    kind, door, options = CASES[name]
    trainer = train(kind, door, tmp_path, **options)
    batches = trainer.kept_batches[0]
    assert len({batch["input_ids"].shape for batch in batches}) > 1
    check(name, MAKE[kind](), batches, trainer.kept_gradients[0], trainer.state.log_history[0], TASK.get(name, token_mean))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loss_scaling")
    launch("loss_scaling_worker.py", str(folder))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes(name, two_processes):
    batches = [batch for rank in range(2) for batch in torch.load(two_processes / f"{name}_{rank}.pt")]
    assert len(batches) == 6
    gradients, log = torch.load(two_processes / f"{name}.pt"), json.loads((two_processes / f"{name}.json").read_text())
    check(name, MAKE[CASES[name][0]](), batches, gradients, log, TASK.get(name, token_mean))


@pytest.mark.parametrize("door", ["trainer", "callback"])
def test_the_short_step_at_the_end_of_an_epoch(door, tmp_path):
    """11 rows in threes are four micro-batches: a step of three, and one of the two rows left."""
    trainer = train("llama", door, tmp_path, rows=11, steps=4)
    assert [[len(batch["input_ids"]) for batch in batches] for batches in trainer.kept_batches] == [[3, 3, 3], [2]] * 2
    for batches, gradients, log in zip(
        trainer.kept_batches, trainer.kept_gradients, trainer.state.log_history[:4], strict=True
    ):
        check_step(MAKE["llama"](), batches, gradients, log, LAMBDA)


class InTwoCalls(Trainer):
    """Calls the model on each half of the rows, one after the other; its loss is a mean that Trainer divides by three."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        parts = [{name: tensor[i::2] for name, tensor in inputs.items()} for i in range(2)]
        with torch.no_grad():
            model(**inputs)  # a look that does not count
        tokens = [(part["labels"][:, 1:] != -100).sum() for part in parts]
        return sum(model(**part).loss * n for part, n in zip(parts, tokens, strict=True)) / sum(tokens)


@pytest.mark.parametrize("door", ["trainer", "callback"])
def test_a_model_that_is_called_twice_in_a_step(door, tmp_path):
    trainer = train("llama", door, tmp_path, trainer_class=InTwoCalls)
    gradients, log = trainer.kept_gradients[0], trainer.state.log_history[0]
    check_step(MAKE["llama"](), trainer.kept_batches[0], gradients, log, LAMBDA, mean_over_micro_batches)


class LooksTwiceAtLongRows(InTwoCalls):
    """Some vectors of the batch are seen twice: how many, the batch does not tell."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        long = inputs["attention_mask"].sum(1) > 5
        again = model(**{name: tensor[long] for name, tensor in inputs.items()}) if long.any() else outputs
        return outputs.loss + 0 * again.loss


@pytest.mark.parametrize("door", ["trainer", "callback"])
def test_vectors_that_the_batch_does_not_tell_of_are_refused(door, tmp_path):
    with pytest.raises(RuntimeError, match="not in proportion"):
        train("llama", door, tmp_path, trainer_class=LooksTwiceAtLongRows)


def test_but_not_where_a_step_is_one_micro_batch(tmp_path):
    """There the mean is over what was seen, however often."""
    trainer = train(
        "llama", "trainer", tmp_path, rows=9, steps=3, trainer_class=LooksTwiceAtLongRows, gradient_accumulation_steps=1
    )
    assert all("radial_penalty" in log for log in trainer.state.log_history[:3])
