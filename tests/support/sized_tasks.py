"""Properties of every task that draws a given number of rows. The tests of each task check them on its configurations."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import datasets

from hf_radial.tasks.checksums import checksum
from hf_radial.tasks.load import builder_class, load_task, task_config
from hf_radial.tasks.tokenizer import task_tokenizer


def rows_of(task: str, folder: Path, **fields: Any) -> dict[str, list[dict[str, Any]]]:
    """The rows of every split, after all checks that do not depend on what they mean."""
    config = task_config(task, **fields)
    assert task_config(task, config.name).options() == config.options()
    splits = load_task(task, cache_dir=str(folder / "cache"), **fields)
    streamed = load_task(task, config.name, cache_dir=str(folder / "stream"), streaming=True)
    assert {name: checksum(rows) for name, rows in streamed.items()} == {name: checksum(rows) for name, rows in splits.items()}
    rows = {name: list(split) for name, split in splits.items()}
    # No row, by what a model is shown of it, twice in a split or in two.
    shown = {name: [tuple(row.get("input_ids", [])) or row.get("prompt") or row["text"] for row in rows[name]] for name in rows}
    assert all(len(set(keys)) == len(keys) for keys in shown.values())
    assert all(not set(shown[one]) & set(shown[two]) for one, two in combinations(shown, 2))
    if hasattr(config, "sizes"):
        assert {name: len(split) for name, split in rows.items()} == {name: size for name, size in config.sizes.items() if size}
    if "prompt" in splits["train"].column_names:
        spelt_by_tokenizer(task, fields, splits)
    return rows


def spelt_by_tokenizer(task: str, fields: dict[str, Any], splits: datasets.DatasetDict) -> None:
    """Every text comes back from its tokens, and prompt and completion have the tokens of the whole."""
    tokenizer = task_tokenizer(task, **fields)
    words = builder_class(task).vocabulary(task_config(task, **fields))
    for split in splits.values():
        texts = [prompt + completion for prompt, completion in zip(split["prompt"], split["completion"], strict=True)]
        ids = tokenizer(texts)["input_ids"]
        assert tokenizer.batch_decode(ids) == texts
        assert ids == [
            one + two
            for one, two in zip(
                tokenizer(split["prompt"][:])["input_ids"], tokenizer(split["completion"][:])["input_ids"], strict=True
            )
        ]
        assert all(text == " ".join(words[i] for i in row) for text, row in zip(texts, ids, strict=True))


def chi_square(counts: list[int], expected: list[float]) -> float:
    """Of counts against what was expected; its mean is the degrees of freedom, their number less one."""
    return sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True))
