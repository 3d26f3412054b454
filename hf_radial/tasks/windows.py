"""Random windows of a long token stream as a map-style dataset.

In here: `CharacterWindows`, which draws its offsets once, from a seed, and `windows_of_rows`, for a task's prompts and
completions. Not in here: batching (a `DataLoader` or a `Trainer` does that).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch


class CharacterWindows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    r"""`num_windows` windows of `window_length` tokens, at offsets drawn uniformly with replacement.

    This is how nanoGPT reads a corpus, but the offsets are drawn in advance:

    .. math:: o_i \sim \mathrm{Uniform}\{0, \ldots, T - L\}, \qquad x_i = (s_{o_i}, \ldots, s_{o_i + L - 1})

    Item `i` is therefore the same in every process, for any number of workers, and after a resume. If `__getitem__` drew the
    offset, none of the three would hold.

    Args:
        stream: token ids `(T,)` of any integer dtype. A `numpy.memmap` stays on disk: only windows are read.
        window_length: `L`, tokens per window.
        num_windows: length of the dataset.
        seed: seeds the offsets.

    Attributes:
        offsets: `(num_windows,)` int64, first position of each window.

    Raises:
        ValueError: `stream` is not a 1-D array of integers or is shorter than a window; `window_length`, `num_windows`
            or `seed` is out of range.

    Example:
        >>> windows = CharacterWindows(np.arange(100), window_length=4, num_windows=10, seed=0)
        >>> len(windows), windows[3]["input_ids"].shape
        (10, torch.Size([4]))
        >>> bool((windows[3]["input_ids"] == torch.arange(4) + windows.offsets[3]).all())
        True
    """

    def __init__(self, stream: np.ndarray | Sequence[int], window_length: int, num_windows: int, seed: int = 0) -> None:
        # asarray, not array: a memory-mapped corpus must stay on disk.
        tokens = np.asarray(stream)
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"stream must be a 1-D array of integer token ids, got shape {tokens.shape} of dtype {tokens.dtype}; "
                "concatenate the tokenized texts first."
            )
        for name, value, smallest in (
            ("window_length", window_length, 1),
            ("num_windows", num_windows, 1),
            ("seed", seed, 0),
        ):
            if value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {value}.")
        if len(tokens) < window_length:
            raise ValueError(
                f"stream has {len(tokens)} tokens, fewer than window_length={window_length}; "
                "give a longer stream or a shorter window."
            )
        self.stream = tokens
        self.window_length = window_length
        rng = np.random.Generator(np.random.PCG64(seed))
        # +1: the last start is T - L, and `integers` excludes its upper end.
        self.offsets = rng.integers(0, len(tokens) - window_length + 1, size=num_windows, dtype=np.int64)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.offsets)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Window `index` as int64 `input_ids` `(L,)` and equal `labels` `(L,)`. IndexError past either end.

        The labels are not shifted, because Transformers' causal language models shift them.
        """
        start = int(self.offsets[index])
        # A copy in int64: the stream may be uint16 on disk, and in-place edits of an item must not change the stream.
        input_ids = torch.from_numpy(np.array(self.stream[start : start + self.window_length], dtype=np.int64))
        return {"input_ids": input_ids, "labels": input_ids.clone()}


def windows_of_rows(
    rows: Iterable[tuple[str, str]], tokenizer: Any, window_length: int, num_windows: int, seed: int = 0
) -> CharacterWindows:
    """Random windows of all rows in one text. A row is a line of it: end sign, prompt, completion, end sign.

    Args:
        rows: prompt and completion of each row.
        tokenizer: of characters; it has an `eos_token`.
        window_length: as in `CharacterWindows`.
        num_windows: as in `CharacterWindows`.
        seed: as in `CharacterWindows`.

    Raises:
        ValueError: as in `CharacterWindows`.
    """
    eos = tokenizer.eos_token
    text = "".join(f"{eos}{prompt}{completion}{eos}\n" for prompt, completion in rows)
    return CharacterWindows(np.asarray(tokenizer(text)["input_ids"], dtype=np.int16), window_length, num_windows, seed)
