"""Products in a finite group: the complete table of x y, x y x^-1 or x y x, divided into splits.

Composition in S_5 and its two variants are the permutation tasks of Power et al. (arXiv 2201.02177, appendix A.1; `s5`,
`s5conj` and `s5aba` in their code). Chughtai et al. (arXiv 2302.03025) learn cyclic, dihedral, symmetric and alternating
groups, Stander et al. (arXiv 2312.06581) S_5 and S_6.

Elements are numbered from 0, and 0 is the identity of every group that has a name:

| group | order | elements, in the order of their numbers | words |
|---|---|---|---|
| `s3` to `s6`, symmetric | n! | permutations of 0 .. n-1, in lexicographic order | one-line notation, `10234` |
| `a3` to `a6`, alternating | n!/2 | the even ones, in the same order | the same |
| `c2`, ..., cyclic | n | r^0, ..., r^(n-1) | `r0`, `r1`, ... |
| `d2`, ..., dihedral | 2n | r^0, ..., r^(n-1), then s, r s, ..., r^(n-1) s; s r s = r^-1 | `r0`, ..., `s0`, ... |
| `q8`, `q12`, ..., dicyclic | n = 4m | a^0, ..., a^(2m-1), then b, a b, ...; b^2 = a^m, b^-1 a b = a^-1 | `a0`, `b0`, ... |

The number in `d12` counts the polygon's corners (D_12 has 24 elements). The number in `q12` is the order. `q16`, `q32`, ... are
the generalised quaternion groups. The elements of `q8` have the words 1 i -1 -i j k -j -k.

Permutations are composed from left to right, as in the code of Power et al. and in SymPy: x y is first x, then y, so that
(x y)(i) = y(x(i)). In the other convention, x y is our y x, and x y x^-1 is our x^-1 y x; x y x is the same in both.

In here: the groups, their configuration and the builder. Not in here: how a given table is checked (`cayley.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations
from math import factorial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_radial.tasks.base import TableBuilder, TableConfig, join
from hf_radial.tasks.cayley import check_group, read_table
from hf_radial.tasks.checks import one_of, shown, whole_number

# Operation -> formula, sign between the operands in text, suffix in the configuration's name.
OPERATIONS = {"compose": ("x y", "*", ""), "conjugate": ("x y x^-1", "o", "_conj"), "aba": ("x y x", "o", "_aba")}
RESERVED = ("*", "o", "=", "<pad>", "<eos>")  # words that no element can have


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group: the word of each element `(n,)`, and the number of each product, `table[x, y]`, `(n, n)` int32."""

    words: tuple[str, ...]
    table: np.ndarray

    def inverses(self) -> np.ndarray:
        """Number of each element's inverse `(n,)`."""
        identity = int((self.table.diagonal() == np.arange(len(self.table))).argmax())  # the only x with x x = x
        return (self.table == identity).argmax(axis=1)


def symmetric(n: int) -> Group:
    """S_n for n up to 9, in one-line notation, composed from left to right.

    >>> group = symmetric(3)
    >>> group.words
    ('012', '021', '102', '120', '201', '210')
    >>> group.words[group.table[1, 2]]  # swap 1 and 2, then 0 and 1: 2 -> 1 -> 0
    '120'
    """
    return _permutation_group(np.array(list(permutations(range(n))), dtype=np.int32))


def alternating(n: int) -> Group:
    """A_n for n up to 9: the permutations with an even number of inversions.

    >>> alternating(3).words
    ('012', '120', '201')
    """
    elements = np.array(list(permutations(range(n))), dtype=np.int32)
    inversions = sum((elements[:, i] > elements[:, j]).astype(int) for j in range(n) for i in range(j))
    return _permutation_group(elements[inversions % 2 == 0])


def _permutation_group(elements: np.ndarray) -> Group:
    """The group of the permutations `(order, n)`. They must be closed under composition."""
    n = elements.shape[1]
    place = np.array([n ** (n - 1 - i) for i in range(n)], dtype=np.int32)  # one-line notation as a number in base n
    number = np.zeros(n**n, dtype=np.int32)
    number[elements @ place] = np.arange(len(elements))
    # y(x(i)) of all pairs, one point i at a time. Memory stays at the size of the table.
    key = np.zeros((len(elements), len(elements)), dtype=np.int32)
    for i in range(n):
        key += elements[:, elements[:, i]].T * place[i]
    return Group(tuple("".join(map(str, element)) for element in elements.tolist()), number[key])


def cyclic(n: int) -> Group:
    """C_n, the rotations r^i: the table of addition mod n.

    >>> cyclic(3).table.tolist()
    [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    i = np.arange(n, dtype=np.int32)
    return Group(tuple(f"r{k}" for k in i), (i[:, None] + i) % n)


def dihedral(n: int) -> Group:
    """D_n of order 2n: (r^i s^j) (r^k s^l) = r^(i + k) s^(j + l), or r^(i - k) s^(j + l) where j = 1.

    >>> group = dihedral(4)
    >>> group.words[group.table[4, 1]]  # s r = r^-1 s
    's3'
    """
    rotation, reflected = np.arange(2 * n, dtype=np.int32) % n, np.arange(2 * n, dtype=np.int32) // n
    i, j = rotation[:, None], reflected[:, None]
    table = (i + (1 - 2 * j) * rotation) % n + n * (j ^ reflected)
    return Group((*(f"r{k}" for k in range(n)), *(f"s{k}" for k in range(n))), table)


def dicyclic(order: int) -> Group:
    """The dicyclic group of order 4m: (a^i b^j) (a^k b^l) = a^(i +- k) b^(j + l), with b^2 = a^m. Q_8 for order 8.

    >>> group = dicyclic(8)
    >>> group.words
    ('1', 'i', '-1', '-i', 'j', 'k', '-j', '-k')
    >>> [group.words[group.table[x, y]] for x, y in ((1, 4), (4, 1), (4, 4))]  # i j, j i, j j
    ['k', '-k', '-1']
    """
    m = order // 4
    power, flipped = np.arange(order, dtype=np.int32) % (2 * m), np.arange(order, dtype=np.int32) // (2 * m)
    i, j = power[:, None], flipped[:, None]
    table = (i + (1 - 2 * j) * power + m * (j & flipped)) % (2 * m) + 2 * m * (j ^ flipped)
    if order == 8:
        return Group(("1", "i", "-1", "-i", "j", "k", "-j", "-k"), table)
    return Group((*(f"a{k}" for k in range(2 * m)), *(f"b{k}" for k in range(2 * m))), table)


@dataclass(frozen=True)
class Family:
    """Groups named by a letter and a number: the lowest and highest number, the order, and the function that builds one."""

    title: str
    low: int
    high: int | None
    order: Callable[[int], int]
    make: Callable[[int], Group]


FAMILIES = {
    "s": Family("symmetric", 3, 6, factorial, symmetric),
    "a": Family("alternating", 3, 6, lambda n: factorial(n) // 2, alternating),
    "c": Family("cyclic", 2, None, lambda n: n, cyclic),
    "d": Family("dihedral", 2, None, lambda n: 2 * n, dihedral),
    "q": Family("dicyclic", 8, None, lambda n: n, dicyclic),
}


@lru_cache(maxsize=8)
def named_group(name: str) -> Group:
    """The group of a checked name such as "s5". It is built once."""
    return FAMILIES[name[0]].make(int(name[1:]))


@dataclass
class GroupConfig(TableConfig):
    """One table.

    Args:
        group: "s5" by default. "s3" to "s6" and "a3" to "a6" are permutations in lexicographic order, composed from left to
            right, with one-line notation as words. "c97" has the rotations r^i. "d12" has order 24: r^0 to r^11, then r^0 s to
            r^11 s. "q8", "q12", ... are dicyclic: powers of a, then these times b. Elements are numbered in this order from 0,
            the identity.
        operation: "compose" (x y), "conjugate" (x y x^-1) or "aba" (x y x).
        cayley_table: any other group, as rows of element numbers (lists or an array) where `table[x][y]` is x y, or as the path
            of a .csv, .npy or .json file with them. The table is read once, here. The configuration's name then holds the order
            and a hash of the table (`table8-0123456789ab_f0.5_s0`), and needs the table next to it.
        elements: words of the given table's elements; g0, g1, ... by default.
        train_fraction: share of all rows to train on.
        validation_fraction: share of all rows for validation; 0 leaves the split out.
        commutative: "split", or "together", which keeps (x, y) and (y, x) in one split (their answers usually differ).
        view: "classification" (input_ids [x, y], labels: element numbers) or "lm" (one word for each element).
        seed: seeds the split.

    Raises:
        ValueError: the group is unknown; the table is not a group's (the error names the axiom and the place); or as for
            `TableConfig`.

    Example:
        >>> GroupConfig(operation="conjugate").name
        's5_conj_f0.5_s0'
        >>> GroupConfig(name="d12_f0.4_s1_lm").group
        'd12'
        >>> GroupConfig(cayley_table=[[0, 1], [1, 0]]).name
        'table2-ec20dda9d606_f0.5_s0'
    """

    group: str | None = None
    operation: str = "compose"
    # Left out of comparisons: arrays have no single answer, and the name contains a hash of the table.
    cayley_table: Any = field(default=None, compare=False)
    elements: Sequence[str] | None = None

    PATTERN: ClassVar[str] = rf"(?P<group>[sacdq]\d+|table\d+-[0-9a-f]{{12}})(?:_(?P<operation>conj|aba))?{TableConfig.TAIL}"
    EXAMPLE: ClassVar[str] = "s5_f0.5_s0"

    @classmethod
    def value_in_name(cls, field: str, text: str) -> Any:
        return "conjugate" if (field, text) == ("operation", "conj") else super().value_in_name(field, text)

    def check(self) -> None:
        one_of("operation", self.operation, OPERATIONS)
        if self.cayley_table is not None:
            self.check_table()
        elif self.elements is not None:
            raise ValueError("elements are the words of a given cayley_table; pass that too, or leave elements out.")
        elif isinstance(self.group, str) and self.group.startswith("table"):
            raise ValueError(
                f"{shown(self.group)} is the name of a given Cayley table, which cannot be made from its name alone; pass it "
                "as cayley_table=..."
            )
        else:
            self.group = check_name("s5" if self.group is None else self.group)
        super().check()

    def check_table(self) -> None:
        """Read and check the given table, its words, and its name."""
        table = read_table(self.cayley_table)
        check_group(table)
        if len(table) == 1:
            raise ValueError("cayley_table has one element, so one row, which cannot be split; give a larger group.")
        words = check_words(self.elements, len(table))
        digest = hashlib.sha256(table.astype("<i4").tobytes() + "\n".join(words).encode()).hexdigest()[:12]
        name = f"table{len(table)}-{digest}"
        if self.group is not None and (not isinstance(self.group, str) or self.group != name):
            raise ValueError(
                f"group={shown(self.group)} is not the given cayley_table, which is {name!r}; give one of the two."
            )
        self.group, self.cayley_table, self.elements = name, table, words

    @property
    def order(self) -> int:
        """Elements of the group."""
        if self.cayley_table is not None:
            return len(self.cayley_table)
        return FAMILIES[str(self.group)[0]].order(int(str(self.group)[1:]))

    @property
    def rows(self) -> int:
        return self.order**2

    def smaller(self) -> str:
        return f"take a smaller group than {self.group}, which has {self.order:,} elements"

    def stem(self) -> str:
        return f"{self.group}{OPERATIONS[self.operation][2]}"

    def structure(self) -> Group:
        """The group itself."""
        if self.cayley_table is not None:
            return Group(tuple(self.elements or ()), self.cayley_table)
        return named_group(str(self.group))

    def options(self) -> dict[str, Any]:
        """As for every task. The table is given as lists, so it can be written as JSON."""
        table = self.cayley_table
        return {**super().options(), "cayley_table": None if table is None else table.tolist()}


def check_name(group: Any) -> str:
    """The checked name of a group in `FAMILIES`, in lower case. If it is unknown, the ValueError lists the known groups.

    >>> check_name("S5")
    's5'
    """
    match = re.fullmatch(r"([a-z])([0-9]{1,18})", group.lower()) if isinstance(group, str) else None
    if match is None or match[1] not in FAMILIES:
        raise ValueError(
            f"group={shown(group)} is unknown. There are: s3 to s6 (symmetric), a3 to a6 (alternating), c2, c3, ... (cyclic), "
            "d2, d3, ... (dihedral, of order 2n), q8, q12, q16, ... (dicyclic, of that order); any other as cayley_table=..."
        )
    family, number = FAMILIES[match[1]], int(match[2])
    whole_number(f"group={group!r} ({family.title}): its number", number, family.low, family.high)
    if match[1] == "q" and number % 4:
        raise ValueError(
            f"group={group!r} (dicyclic): its order must be a multiple of 4; the nearest are {number - number % 4} and "
            f"{number - number % 4 + 4}."
        )
    return f"{match[1]}{number}"


def check_words(elements: Any, order: int) -> tuple[str, ...]:
    """The words of a given table's elements. ValueError if a word is invalid or repeated, or if there are too few or too many.

    >>> check_words(None, 2)
    ('g0', 'g1')
    """
    if elements is None:
        return tuple(f"g{x}" for x in range(order))
    words = tuple(elements) if isinstance(elements, list | tuple | np.ndarray) else None
    if words is None or not all(isinstance(word, str) for word in words):
        raise ValueError(f"elements must be a list of words, got {elements!r}.")
    if len(words) != order:
        raise ValueError(f"elements must name each of the {order} elements of cayley_table, got {len(words)} words.")
    first: dict[str, int] = {}
    for x, word in enumerate(words):
        if word.split() != [word]:
            raise ValueError(f"elements must be words without spaces, but element {x} is {word!r}.")
        if word in RESERVED:
            raise ValueError(f"elements must not be {', '.join(RESERVED)}, which have other meanings: element {x} is {word!r}.")
        if first.setdefault(word, x) < x:
            raise ValueError(f"elements must differ, but elements {first[word]} and {x} are both {word!r}.")
    return tuple(map(str, words))


class GroupMultiplication(TableBuilder):
    """Builder of `GroupConfig`: every pair of elements x and y, and the result of the operation."""

    BUILDER_CONFIG_CLASS = GroupConfig
    SUMMARY = "Group multiplication: the complete table of x y, x y x^-1 or x y x in a finite group, split at random."
    SOURCE = "Power et al. 2022, arXiv 2201.02177; Chughtai et al. 2023, arXiv 2302.03025"
    SHELF = (
        "s5_f0.5_s0",
        "s5_f0.5_s0_lm",
        "s5_f0.5_s0_together",
        "s5_conj_f0.5_s0",
        "s5_aba_f0.5_s0",
        "s4_f0.5_s0",
        "s6_f0.5_s0",
        "a5_f0.5_s0",
        "d59_f0.5_s0",
        "d59_f0.5_s0_lm",
        "q8_f0.5_s0_lm",
    )

    @property
    def operand_names(self) -> tuple[str, ...]:
        return ("x", "y")

    def operands(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([rows // self.config.order, rows % self.config.order], axis=1)

    def answers(self, rows: np.ndarray, operands: np.ndarray) -> np.ndarray:
        group, (x, y) = self.config.structure(), operands.T
        product = group.table[x, y]
        if self.config.operation == "conjugate":
            product = group.table[product, group.inverses()[x]]
        elif self.config.operation == "aba":
            product = group.table[product, x]
        return product.astype(np.int64)

    def words(self) -> pa.Array:
        return pa.array(self.config.structure().words)

    def prompt(self, operands: np.ndarray) -> pa.Array:
        x, y = (self.words().take(pa.array(column)) for column in operands.T)
        return join(x, f" {OPERATIONS[self.config.operation][1]} ", y, " =")

    @staticmethod
    def vocabulary(config: GroupConfig) -> list[str]:
        return [*config.structure().words, OPERATIONS[config.operation][1], "="]
