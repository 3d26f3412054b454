"""Random splits of a finite table, which can keep the reorderings of a row together, and a count of leaks.

In here: `deal` and `leakage`. Not in here: the rows themselves (each task's own file).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import datasets


def random_generator(seed: int | Sequence[int]) -> np.random.Generator:
    """The generator of all draws. Use only its `integers`: NumPy has kept that stream stable, and a checksum guards it."""
    return np.random.Generator(np.random.PCG64(seed))


def random_order(rng: np.random.Generator, length: int) -> np.ndarray:
    """A random permutation of `range(length)`. It sorts random integers: only `integers` is stable over NumPy versions."""
    return np.argsort(rng.integers(0, 2**63 - 1, size=length), kind="stable")


def deal(rows: int, sizes: Sequence[int], seed: int, orbits: np.ndarray | None = None) -> list[np.ndarray]:
    """Assign all row numbers `0 .. rows - 1` to splits, at random.

    With `orbits`, rows of one orbit, such as (a, b) and (b, a), stay together. The orbits come in random order, and each goes
    to the first split that has room for it. If a large orbit does not fit into a nearly full split, it goes to the next split.
    Smaller orbits, such as the diagonal pairs (a, a), fill the last places. So the sizes are exact, unless no orbit is small
    enough; the remainder then goes to the last split. In each split, at most one orbit's number of rows is therefore chosen by
    orbit size. All other rows have equal chances.

    Args:
        rows: number of rows, `N`.
        sizes: rows of each split; they sum to `rows`.
        seed: seeds the order.
        orbits: `(N,)` integers, equal for rows that stay together; by default each row is its own orbit.

    Returns:
        For each split, its row numbers as int64, in random order.

    Raises:
        ValueError: the sizes do not sum to `rows`, or a split with a size above 0 would stay empty.

    Example:
        >>> [part.tolist() for part in deal(6, [4, 2], seed=0)]
        [[3, 2, 1, 0], [4, 5]]
        >>> [sorted(part.tolist()) for part in deal(6, [4, 2], seed=0, orbits=np.array([0, 0, 1, 1, 2, 2]))]
        [[2, 3, 4, 5], [0, 1]]
    """
    if sum(sizes) != rows:
        raise ValueError(f"sizes {list(sizes)} must sum to rows={rows}.")
    rng = random_generator(seed)
    if orbits is None:
        return np.split(random_order(rng, rows), np.cumsum(sizes)[:-1])
    _, orbit, orbit_sizes = np.unique(orbits, return_inverse=True, return_counts=True)
    split_of_orbit = np.full(len(orbit_sizes), len(sizes) - 1)
    remaining = random_order(rng, len(orbit_sizes))
    for split, size in enumerate(sizes[:-1]):
        # From the front, take all orbits that fit. After the first that does not, try the others one by one until it is full.
        fit = int(np.searchsorted(np.cumsum(orbit_sizes[remaining]), size, side="right"))
        taken = np.zeros(len(remaining), dtype=bool)
        taken[:fit] = True
        room = size - int(orbit_sizes[remaining[:fit]].sum())
        for candidate in range(fit, len(remaining)) if room else ():
            if orbit_sizes[remaining[candidate]] <= room:
                taken[candidate] = True
                room -= int(orbit_sizes[remaining[candidate]])
                if not room:
                    break
        split_of_orbit[remaining[taken]] = split
        remaining = remaining[~taken]
    order = random_order(rng, rows)
    split_of_row = split_of_orbit[orbit][order]
    parts = [order[split_of_row == split] for split in range(len(sizes))]
    if any(size and not len(part) for size, part in zip(sizes, parts, strict=True)):
        raise ValueError(f"a split of sizes {list(sizes)} stays empty when reorderings are kept together; ask for larger ones.")
    return parts


def orbits_under_reordering(operands: np.ndarray) -> np.ndarray:
    """One number per row of operands `(N, k)` below 2**(63 / k). All orders of the same operands have the same number.

    >>> orbits_under_reordering(np.array([[1, 2], [2, 1], [1, 1]])).tolist()
    [5, 5, 4]
    """
    ordered = np.sort(operands, axis=1)
    key, base = np.zeros(len(ordered), dtype=np.int64), int(ordered.max(initial=0)) + 1
    for column in ordered.T:
        key = key * base + column
    return key


def leakage(splits: Mapping[str, datasets.Dataset], reorderings: bool = True) -> dict[str, int]:
    """Count the rows of each split that are also in an earlier split. A row counts once, even if several splits have it.

    Args:
        splits: a `DatasetDict`, or streams, whose operands are read into memory. The operands are the lists in `input_ids` (or
            `pixels`), all of one length. Without them, they are all integer columns but `labels` (such as `a` and `b`), and
            without such columns the whole `prompt`. Large numbers may be decimals.
        reorderings: whether to look also for the same operands in another order.

    Returns:
        "ordered": distinct rows of operands that are also in an earlier split. The tasks' own splits have 0. "commuted":
        distinct rows whose operands are in an earlier split in another order. With ``commutative="together"`` it is 0, too.
        Without `reorderings`, there is only "ordered".

    Raises:
        ValueError: a split has no operands, or lists of different lengths.

    Example:
        >>> import datasets
        >>> one = datasets.Dataset.from_dict({"a": [1, 3], "b": [2, 4]})
        >>> two = datasets.Dataset.from_dict({"a": [2, 3], "b": [1, 4]})
        >>> leakage({"train": one, "test": two})
        {'ordered': 1, 'commuted': 1}
    """
    operands = {split: operands_of(dataset, split) for split, dataset in splits.items()}
    arrays = list(operands.values())
    pairs = [(np.concatenate(arrays[:i]), arrays[i]) for i in range(1, len(arrays))]
    shared = {"ordered": sum(len(found(later, earlier)) for earlier, later in pairs)}
    if reorderings:
        shared["commuted"] = sum(len(found(later, earlier, reordered=True)) for earlier, later in pairs)
    return shared


def operands_of(dataset: datasets.Dataset, split: str = "train") -> np.ndarray:
    """The operands `(N, k)` of a split: int64, or objects for large numbers and texts. Columns and errors as for `leakage`."""
    from datasets import Value

    lists_in = next((name for name in ("input_ids", "pixels") if name in dataset.column_names), None)
    if lists_in is not None:
        lists = _read(dataset, [lists_in])[lists_in]
        lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
        if len(lengths) > 1:
            raise ValueError(
                f"split {split!r} has {lists_in} of {len(lengths)} lengths, so they are not operands; give it as it was loaded."
            )
        return pc.list_flatten(lists).to_numpy().reshape(len(lists), lengths[0] if lengths else 0)
    columns = [
        name
        for name, feature in dataset.features.items()
        if name != "labels" and isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "decimal"))
    ]
    if not columns and "prompt" in dataset.column_names:
        columns = ["prompt"]
    if not columns:
        raise ValueError(
            f"split {split!r} needs the operands as columns (input_ids, or a and b, say), but has {dataset.column_names}."
        )
    table = _read(dataset, columns)
    return np.stack([table[name].to_numpy() for name in columns], axis=1)


def _read(dataset: datasets.Dataset, columns: list[str]) -> pa.Table:
    """Some columns of a dataset or a stream. The arrow format follows the order of filtered or shuffled rows."""
    from datasets import Features

    none = Features({name: dataset.features[name] for name in columns}).arrow_schema.empty_table()
    return pa.concat_tables([none, *dataset.select_columns(columns).with_format("arrow").iter(100_000)])


def found(rows: np.ndarray, among: np.ndarray, reordered: bool = False) -> np.ndarray:
    """Distinct rows of `(N, k)` that are among the rows of `(M, k)`; with `reordered`, those in it in another order."""
    if rows.shape[1] != among.shape[1]:  # one of them has no rows, for example
        return rows[:0]
    both, known = np.concatenate([among, rows]), len(among)
    key = _row_keys(both)
    distinct = np.unique(key[known:], return_index=True)[1]
    present = np.isin(key[known:][distinct], key[:known])
    if not reordered:
        return rows[distinct[present]]
    # `among` has another order of a row if it has more orders of these operands than the row itself.
    content = _row_keys(np.sort(both, axis=1))
    contents, orders = np.unique(content[:known][np.unique(key[:known], return_index=True)[1]], return_counts=True)
    asked = content[known:][distinct]
    at = np.minimum(np.searchsorted(contents, asked), max(len(contents) - 1, 0))
    known_orders = np.where(contents[at] == asked, orders[at], 0) if len(contents) else np.zeros(len(asked), dtype=np.int64)
    return rows[distinct[known_orders > present]]


def _row_keys(rows: np.ndarray) -> np.ndarray:
    """One key per row, equal for equal rows: a number if it fits int64, else text."""
    width = rows.shape[1]
    negative = rows.dtype != object and rows.min(initial=0) < 0
    if rows.dtype == object or negative or (base := int(rows.max(initial=0)) + 1) ** width >= 2**63:
        return np.array([" ".join(map(str, row)) for row in rows.tolist()])
    return rows.astype(np.int64) @ np.array([base**place for place in range(width)], dtype=np.int64)
