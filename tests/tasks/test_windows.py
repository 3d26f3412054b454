"""Windows of a stream, each against a plain slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_radial.tasks.tokenizer import character_tokenizer
from hf_radial.tasks.windows import CharacterWindows, windows_of_rows

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_every_window_is_a_slice_and_its_labels_are_its_own(dtype: Any) -> None:
    stream = np.random.default_rng(0).integers(0, 65, size=200).astype(dtype)
    windows = CharacterWindows(stream, window_length=16, num_windows=50, seed=1)
    assert len(windows) == len(windows.offsets) == 50 and windows.offsets.dtype == np.int64
    for index, offset in enumerate(windows.offsets.tolist()):
        item = windows[index]
        assert item["input_ids"].dtype == item["labels"].dtype == torch.int64
        assert item["input_ids"].tolist() == item["labels"].tolist() == stream[offset : offset + 16].tolist()


def test_offsets_cover_first_and_last_start_evenly() -> None:
    windows = CharacterWindows(np.arange(12), window_length=4, num_windows=9000)
    seen = np.bincount(windows.offsets, minlength=9)
    assert len(seen) == 9 and np.abs(seen / 1000 - 1).max() < 0.15


def test_offsets_follow_the_seed_and_nothing_else() -> None:
    stream = np.arange(1000)
    first, again, other = (CharacterWindows(stream, 8, 100, seed=seed) for seed in (0, 0, 1))
    assert (first.offsets == again.offsets).all() and (first.offsets != other.offsets).any()
    # Pinned: a resumed run on another NumPy must go on with the same windows.
    assert first.offsets[:4].tolist() == [844, 632, 507, 267]
    state = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    first[3]
    assert (
        torch.equal(state[0], torch.random.get_rng_state())
        and state[1] == np.random.get_state(legacy=False)["state"]["key"].tolist()
    )


def test_editing_an_item_reaches_neither_labels_nor_stream() -> None:
    stream = np.arange(10, dtype=np.int64)
    windows = CharacterWindows(stream, window_length=10, num_windows=1)
    item = windows[0]
    item["input_ids"][:] = -1
    assert item["labels"].tolist() == windows[0]["input_ids"].tolist() == list(range(10))


def test_a_memory_mapped_stream_stays_on_disk(tmp_path: Path) -> None:
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "stream.bin")
    stream = np.memmap(tmp_path / "stream.bin", dtype=np.uint16, mode="r")
    windows = CharacterWindows(stream, window_length=4, num_windows=3)
    assert np.shares_memory(windows.stream, stream)
    assert windows[0]["input_ids"][0] == windows.offsets[0]


def test_iteration_ends_and_a_loader_batches() -> None:
    windows = CharacterWindows([1, 2, 3, 4, 5], window_length=5, num_windows=7)
    # By index until IndexError, which is how `for` reads a class without __iter__.
    assert len(list(windows)) == 7  # type: ignore[call-overload]
    batch = next(iter(torch.utils.data.DataLoader(windows, batch_size=7)))
    assert batch["input_ids"].shape == batch["labels"].shape == (7, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stream": np.arange(7)}, r"stream has 7 tokens, fewer than window_length=8"),
        ({"stream": np.zeros((4, 4), dtype=int)}, r"stream must be a 1-D array .* shape \(4, 4\)"),
        ({"stream": np.zeros(20)}, r"stream must be .* integer .* float64"),
        ({"window_length": 0}, r"window_length must be at least 1, got 0"),
        ({"num_windows": 0}, r"num_windows must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be at least 0, got -1"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CharacterWindows(**{"stream": np.arange(20), "window_length": 8, "num_windows": 2, **arguments})


def test_rows_become_one_text_with_a_line_for_each() -> None:
    tokenizer = character_tokenizer("0123456789+=\n")
    found = windows_of_rows([("1+2=", "3"), ("4+5=", "9")], tokenizer, window_length=5, num_windows=3, seed=0)
    assert tokenizer.decode(found.stream) == "$1+2=3$\n$4+5=9$\n" and len(found) == 3
