"""Exact match of a causal language model's answers: those that it predicts, and those that it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_radial.metrics import load_exact_match

BATCH_SIZE = 500


def predicted_exact_match() -> Callable[[Any], dict[str, float]]:
    """A function for `compute_metrics`: the share of rows whose answer is right, from the predicted ids of a forward pass.

    Position `i` predicts the token at `i + 1`. If all predictions of an answer are right, greedy decoding writes it.
    """
    metric = load_exact_match()

    def exact_match(prediction: Any) -> dict[str, float]:
        return metric.compute(predictions=prediction.predictions[:, :-1], references=prediction.label_ids[:, 1:])

    return exact_match


@torch.no_grad()
def generated_exact_match(
    model: Any, tokenizer: Any, prompts: Sequence[str], answers: Sequence[str], start: str = ""
) -> dict[str, Any]:
    """Let a model write the answer of every prompt, greedily, and count those that are right.

    The end sign counts as part of the answer: an answer that goes on is wrong.

    Args:
        model: a causal language model with `generate`, in evaluation mode.
        tokenizer: of the model; it pads on the left.
        prompts: texts that the model goes on from.
        answers: the right texts, without the end sign, one for each prompt.
        start: text before each prompt, as in training.

    Returns:
        `exact_match`, a fraction of 1; `problems`, the number of prompts; and `examples`, the first five prompts with what
        the model wrote.
    """
    metric, examples = load_exact_match(), []
    for first in range(0, len(prompts), BATCH_SIZE):
        part = slice(first, first + BATCH_SIZE)
        batch = tokenizer([start + prompt for prompt in prompts[part]], padding=True, return_tensors="pt")
        references = tokenizer([answer + tokenizer.eos_token for answer in answers[part]])["input_ids"]
        length = max(map(len, references))
        written = model.generate(
            **batch.to(model.device), do_sample=False, min_new_tokens=length, max_new_tokens=length, eos_token_id=None
        )[:, batch["input_ids"].shape[1] :].tolist()
        written = [row[: len(reference)] for row, reference in zip(written, references, strict=True)]
        metric.add_batch(predictions=written, references=references)
        examples += [prompt + tokenizer.decode(row) for prompt, row in zip(prompts[part], written, strict=True)]
    return {"exact_match": metric.compute()["exact_match"], "problems": len(prompts), "examples": examples[:5]}
