r"""The draw of operand pairs without memory: row i is computed from i alone, no pair is repeated, and the order looks random.

In here: `streamed_pairs`, and the keyed permutation under it. Not in here: draws of up to a million rows of up to nine digits
(`draw.py`), which are an exact sample from one generator.

The permutation
---------------
A Feistel network on pairs of residues: `ROUNDS` times in turn :math:`x \leftarrow x + F_k(y) \bmod X` and
:math:`y \leftarrow y + G_k(x) \bmod Y`, where F and G are keyed hashes. Each round can be undone, so for every X and Y this
is a bijection of :math:`Z_X \times Z_Y`, and with hashes that look random its order does too (Luby and Rackoff 1988; over
whole numbers, as in Black and Rogaway 2002). Residues of up to 21 digits are kept as two limbs, so nothing leaves int64. The
hashes' remainders are uniform to within one part in :math:`10^7`.

The strata
----------
The same as in `draw.py`: all pairs of operands below :math:`H = 10^{digits}`, or the pairs whose longer operand has exactly
that many digits. In the second case, for two or more digits, let :math:`L = H / 10`, and split each operand into its first
digit (which may be 0) and the rest below L.

``commutative="split"``: all ordered pairs are :math:`(x, y) = (a, b)` in :math:`Z_H \times Z_H`. For exactly that many digits,
x is the rest of a. y is the rest of b with the two first digits before it, any pair of them but (0, 0):
:math:`Z_L \times Z_{99 L}`.

``commutative="together"``: at most one of (a, b) and (b, a) is a row, and a keyed coin decides which. x and d < H/2 stand for
the unordered pair :math:`\{x, x + d \bmod H\}`. This gives every pair of distance 1 to H/2 - 1 (mod H) once. With d = 0, x <
H/2 stands for :math:`\{x, x + H/2\}`, the pairs of distance H/2. With d = 0, x = H/2 + k stands for the diagonal pair of 2k or
of 2k + 1, and another keyed coin decides which. So there are :math:`H^2 / 2` rows in all, with half of the diagonal among them,
and **every ordered pair has the same probability to be a row**, as in `draw.py`. For exactly that many digits, there are 45
unordered choices of different first digits with both rests free, and 9 choices of equal first digits (not 0) whose rests are as
above: :math:`Z_L \times Z_{99 L / 2}`.

The rows of a stratum are numbered in the order of its permutation. Splits are ranges of these numbers: first training, then
validation, then test. If a split has rows of several strata (``sampling="balanced"``), a second keyed permutation assigns the
split's row numbers to the strata.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import isqrt

import numpy as np

from hf_radial.tasks.digits.arithmetic import digits_of
from hf_radial.tasks.digits.draw import DrawnFields, even_shares, proportional_table
from hf_radial.tasks.permutation import keyed_hash
from hf_radial.tasks.splits import random_generator

ROUNDS = 8
# Digits of the low limb. Two limbs hold 20 digits, and int64 has room for the first digits that a stratum adds.
LIMB = 10
# First digits (a, b) with a > b.
_FIRST_DIGITS = np.array([(a, b) for a in range(10) for b in range(a)], dtype=np.int64)
# The purposes of keys. No two purposes share a key.
_PAIRS, _ROWS = 0, 1


@dataclass(frozen=True)
class Modulus:
    """The residues below `high * low`, each as a limb below `high` and one below `low`: arrays `(2, n)` int64."""

    high: int
    low: int

    @property
    def value(self) -> int:
        return self.high * self.low

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Sum of residues."""
        low = x[1] + y[1]
        carry = low >= self.low
        high = x[0] + y[0] + carry
        return np.stack([high - self.high * (high >= self.high), low - self.low * carry])

    def hash(self, number: np.ndarray, key: int) -> np.ndarray:
        """A residue that looks random for each number (of any modulus)."""
        # Wraps around if the two limbs exceed 64 bits. That is allowed: a round may use any function of the number.
        mixed = keyed_hash(number[0].astype(np.uint64) * np.uint64(0xF1357AEA2E62A9C5) + number[1].astype(np.uint64), key)
        if self.value < 2**40:
            value = (mixed % np.uint64(self.value)).astype(np.int64)
            return np.stack([value // self.low, value % self.low])
        high, low = keyed_hash(mixed, key) % np.uint64(self.high), mixed % np.uint64(self.low)
        return np.stack([high, low]).astype(np.int64)


def permute(
    x: np.ndarray, y: np.ndarray, moduli: tuple[Modulus, Modulus], keys: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The Feistel network on residues `(2, n)` each: a bijection of all pairs of residues, for any keys."""
    numbers = [x, y]
    for turn, key in enumerate(keys):
        changed, other = turn % 2, 1 - turn % 2
        numbers[changed] = moduli[changed].add(numbers[changed], moduli[changed].hash(numbers[other], key))
    return numbers[0], numbers[1]


@lru_cache(maxsize=256)
def _keys(purpose: int, part: int, seed: int) -> tuple[int, ...]:
    """One key for each round and two for coins."""
    # The seed comes last, because it may be of any length.
    return tuple(random_generator((purpose, part, seed)).integers(0, 2**63 - 1, size=ROUNDS + 2).tolist())


@dataclass(frozen=True)
class Stratum:
    """All operand pairs of a kind, in pseudo-random order.

    Args:
        digits: digits of the longer operand, 1 to 20: at most that many, or with `exactly` exactly that many (0 has one digit).
        exactly: see `digits`.
        together: at most one of (a, b) and (b, a) is a row.
        seed: seeds the order and the coins, and under `together` which half of the diagonal is drawn.

    Example:
        >>> a, b = Stratum(digits=1, exactly=False, together=False, seed=0).pairs(np.arange(100))
        >>> len(set(zip(a[:, 0].tolist(), b[:, 0].tolist())))
        100
    """

    digits: int
    exactly: bool
    together: bool
    seed: int

    @property
    def rows(self) -> int:
        """How many there are."""
        x, y = self._moduli
        return x.value * y.value

    @cached_property
    def _width(self) -> int:
        """Digits of a residue: those of an operand, or those after its first digit."""
        return self.digits - 1 if self.exactly and self.digits > 1 else self.digits

    @cached_property
    def _moduli(self) -> tuple[Modulus, Modulus]:
        """X and Y. The low limb has fewer digits than `_width`, so the high limb is even and can be halved."""
        low = 10 ** min(LIMB, self._width - 1)
        x = Modulus(10**self._width // low, low)
        cells = 99 if self._width < self.digits else 1
        return x, Modulus(cells * x.high // (2 if self.together else 1), low)

    def pairs(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Digits `(n, digits)` of a and of b, most significant first, of the pairs with these numbers `(n,)` below `rows`."""
        x_modulus, y_modulus = moduli = self._moduli
        rest, y_low = np.divmod(index, y_modulus.low)
        # Row numbers and sizes of limbs are below 2**63. The product of all sizes is not.
        rest, y_high = np.divmod(rest, y_modulus.high)
        keys = _keys(_PAIRS, 2 * self.digits + self.exactly, self.seed)
        x, y = permute(np.stack(np.divmod(rest, x_modulus.low)), np.stack([y_high, y_low]), moduli, keys[:ROUNDS])

        first = np.zeros((len(index), 2), dtype=np.int64)
        shell = self._width < self.digits
        if not self.together:
            if shell:  # 1 to 99: any two first digits but (0, 0)
                cell = y[0] // x_modulus.high
                first = np.stack(np.divmod(cell + 1, 10), axis=1)
                y[0] -= cell * x_modulus.high
            a, b = x, y
        else:
            half = x_modulus.high // 2
            a, b = x, y
            near = np.arange(len(index))  # rows whose rests form an unordered pair
            if shell:
                cell = y[0] // half
                y[0] -= cell * half
                far = cell < 90  # 45 choices of first digits, with b's rest in the lower or the upper half
                first[far] = _FIRST_DIGITS[cell[far] // 2]
                first[~far] = cell[~far, None] - 89
                b[0, far] += cell[far] % 2 * half
                near = np.flatnonzero(~far)
            a[:, near], b[:, near] = self._unordered(x[:, near], y[:, near], keys[ROUNDS])
            swapped = keyed_hash(index, keys[ROUNDS + 1]) % np.uint64(2) == 1
            a, b = np.where(swapped, b, a), np.where(swapped, a, b)
            first = np.where(swapped[:, None], first[:, ::-1], first)
        return self._digits(first[:, 0], a), self._digits(first[:, 1], b)

    def _unordered(self, x: np.ndarray, d: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray]:
        """The unordered pair of x and d, as in this file's docstring."""
        modulus = self._moduli[0]
        half = modulus.high // 2
        first, second = x.copy(), modulus.add(x, d)
        none = np.flatnonzero((d == 0).all(axis=0))
        low, high = none[x[0, none] < half], none[x[0, none] >= half]
        second[0, low] = x[0, low] + half
        k = x[:, high] - np.array([[half], [0]])
        coin = (modulus.hash(k, key).sum(axis=0) % 2)[None]
        first[:, high] = second[:, high] = modulus.add(modulus.add(k, k), np.concatenate(np.divmod(coin, modulus.low)))
        return first, second

    def _digits(self, first: np.ndarray, rest: np.ndarray) -> np.ndarray:
        low = min(LIMB, self._width - 1)
        parts = [digits_of(rest[0], self._width - low), digits_of(rest[1], low)]
        if self._width < self.digits:
            parts.insert(0, digits_of(first, 1))
        return np.concatenate(parts, axis=1)


def row_order(index: np.ndarray, rows: int, keys: tuple[int, ...]) -> np.ndarray:
    """The place of each row number `(n,)` below `rows` in a keyed permutation of them.

    Example:
        >>> sorted(row_order(np.arange(5), 5, keys=(1, 2, 3, 4)).tolist())
        [0, 1, 2, 3, 4]
    """
    side = isqrt(rows - 1) + 1
    place, outside = index.copy(), np.arange(len(index))
    # The network permutes the numbers below side**2, slightly more than `rows`. A number outside `rows` is permuted again until
    # it is inside. It ends at the latest where it began (cycle walking).
    while len(outside):
        x, y = (np.stack([np.zeros_like(outside), half]) for half in np.divmod(place[outside], side))
        x, y = permute(x, y, moduli=(Modulus(1, side), Modulus(1, side)), keys=keys)
        place[outside] = x[1] * side + y[1]
        outside = outside[place[outside] >= rows]
    return place


def strata(config: DrawnFields, split: str) -> list[Stratum]:
    """The strata that a split is drawn from. For a length-generalisation split: the operands of its length."""
    together = config.commutative == "together"
    if split not in config.sizes:
        kinds = [(config.digits_of_split(split), True)]
    elif config.sampling == "uniform":
        kinds = [(config.digits, False)]
    else:
        kinds = [(count, True) for count in range(1, config.digits + 1)]
    return [Stratum(digits, exactly, together, config.seed) for digits, exactly in kinds]


def streamed_pairs(config: DrawnFields, split: str, rows: range) -> tuple[np.ndarray, np.ndarray]:
    """Digits `(n, width)` of a and of b, for some rows of a split. Memory and time depend only on the number of these rows.

    Example:
        >>> from hf_radial.tasks.digits import DigitsConfig
        >>> config = DigitsConfig(digits=20, train_size=10_000_000)
        >>> a, b = streamed_pairs(config, "train", range(9_999_998, 10_000_000))
        >>> a.shape
        (2, 20)
    """
    sources, index = strata(config, split), np.arange(rows.start, rows.stop, dtype=np.int64)
    starts, counts = [0], [config.all_sizes[split]]
    if split in config.sizes:
        shares = even_shares(sum(config.sizes.values()), [source.rows for source in sources])
        table = proportional_table(shares, tuple(config.sizes.values()))
        place = list(config.sizes).index(split)
        starts, counts = [sum(row[:place]) for row in table], [row[place] for row in table]
    if len(sources) > 1:
        keys = _keys(_ROWS, list(config.sizes).index(split), config.seed)
        index = row_order(index, sum(counts), keys[:ROUNDS])
    a, b = (np.zeros((len(index), config.digits_of_split(split)), dtype=np.uint8) for _ in range(2))
    below = 0
    for source, start, count in zip(sources, starts, counts, strict=True):
        mine = np.flatnonzero((index >= below) & (index < below + count))
        a[mine, -source.digits :], b[mine, -source.digits :] = source.pairs(index[mine] - below + start)
        below += count
    return a, b
