"""What all tasks share: configurations named by their fields, and builders that write Arrow tables shard by shard.

In here: two kinds of configuration (a finite table that is split by fractions, and rows that are drawn to a given number), the
builder and the two views. Not in here: any task, and loading (`load.py`).

The two views:

- ``view="classification"``, for an MLP: `input_ids` `(k,)` int64 are the operands, `labels` int64 is the class.
- ``view="lm"``, for a language model: each operand is a column, `prompt` and `completion` are text, and the words are
  `vocabulary(config)` (`tokenizer.py`). A completion begins with the space that separates words, so `prompt + completion` is
  the whole text. `trl` takes the two columns as they are.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from numbers import Number
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_radial.tasks.checks import fraction, one_of, shown, whole_number
from hf_radial.tasks.splits import deal, orbits_under_reordering

SPLITS = ("train", "validation", "test")
VIEWS = ("classification", "lm")
# Rows per Arrow table and per shard of a stream. It bounds the memory of a stream to some MB.
ROWS_PER_TABLE = 100_000
# The random order of the whole table is drawn in memory: 8 bytes a row, and as much again to sort it.
MOST_ROWS = 50_000_000
NUMBER = r"\d+(?:\.\d+)?(?:e-\d+)?"


@dataclass
class TaskConfig(datasets.BuilderConfig):
    """A configuration named by its fields. Give either the fields or the name.

    Args:
        name: leave it out, or give it alone ("add_p97_f0.5_s0"): the fields are then read from it.
        seed: seeds every draw, at least 0 and below 2**128.

    Raises:
        ValueError: the name does not fit this task (the error shows an example); a field contradicts the name; or a field is
            out of its range. A field that is given its default value counts as not given here; `load_task` does tell the two
            apart.
    """

    name: str = "default"
    seed: int = 0

    PATTERN: ClassVar[str]  # regular expression of all names, with one named group per field
    EXAMPLE: ClassVar[str]

    def __post_init__(self) -> None:
        """Read the name if there is one, check every field, then derive the name from them."""
        given = None if self.name == "default" else self.name
        if given is not None:
            for field, value in self.fields_in(given).items():
                before, default = getattr(self, field), type(self).__dataclass_fields__[field].default
                # A name can only hold words and numbers. An array is refused first: `in` has no single answer for it.
                if not isinstance(before, str | Number | type(default)) or before not in (default, value):
                    raise ValueError(f"{field}={shown(before)} contradicts the name {given!r}; give the name or the fields.")
                setattr(self, field, value)
        self.seed = whole_number("seed", self.seed, 0)
        self.check()
        self.name = self.spell_name()
        if given is not None and given != self.name:
            raise ValueError(f"the configuration {given!r} must be written {self.name!r}.")
        super().__post_init__()

    @classmethod
    def fields_in(cls, name: str) -> dict[str, Any]:
        """The fields that a name gives. Fields that it leaves out keep their defaults. ValueError if the name does not fit."""
        # The limit of 250: the name is also a folder's name, and Python refuses integers of thousands of digits.
        match = re.fullmatch(cls.PATTERN, name) if isinstance(name, str) and len(name) < 250 else None
        if match is None:
            raise ValueError(f"{shown(name)} is not a configuration of this task; one is {cls.EXAMPLE!r}.")
        return {field: cls.value_in_name(field, text) for field, text in match.groupdict().items() if text is not None}

    @classmethod
    def value_in_name(cls, field: str, text: str) -> Any:
        """A field's value, parsed from its text in the name: a number if the field's default is a number."""
        default = cls.__dataclass_fields__[field].default
        if isinstance(default, bool):
            return True
        return type(default)(text.removeprefix("_")) if isinstance(default, int | float) else text.removeprefix("_")

    def check(self) -> None:
        """Raise a ValueError for a field that is out of its range."""

    @abstractmethod
    def spell_name(self) -> str:
        """The name. Different fields give different names."""

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name of the cache folder: `name` alone, because it already holds every field.

        The inherited method appends the arguments that were given. A default that is left out and the same value given would
        then be generated twice.
        """
        if custom_features is not None:
            return super().create_config_id(config_kwargs, custom_features=custom_features)
        return self.name

    def options(self) -> dict[str, Any]:
        """The fields that decide the rows, without those that `datasets` adds."""
        inherited = {field.name for field in fields(datasets.BuilderConfig)}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in inherited}


@dataclass
class TableConfig(TaskConfig):
    """A task with finitely many rows. Every row goes to one of the splits.

    Args:
        train_fraction: share of all rows to train on, between 0 and 1 (rounded to whole rows).
        validation_fraction: share of all rows for validation, taken from the rows that are not trained on; 0 leaves the split
            out. All other rows are "test".
        commutative: "split", as in the literature: (a, b) may be in "train" and (b, a) in "test" (`leakage` counts them).
            "together" keeps all orders of the same operands in one split.
        view: "classification" (`input_ids` the operands, `labels` the answer) or "lm" (`prompt` and `completion` as text, and
            each operand in a column).
    """

    train_fraction: float = 0.5
    validation_fraction: float = 0.0
    commutative: str = "split"
    view: str = "classification"

    # The end of every name, after the task's own fields.
    TAIL: ClassVar[str] = (
        rf"_f(?P<train_fraction>{NUMBER})(?:_v(?P<validation_fraction>{NUMBER}))?_s(?P<seed>\d+)"
        r"(?P<commutative>_together)?(?P<view>_lm)?"
    )

    def check(self) -> None:
        self.train_fraction = fraction("train_fraction", self.train_fraction)
        self.validation_fraction = fraction("validation_fraction", self.validation_fraction, zero=True)
        one_of("commutative", self.commutative, ("split", "together"))
        one_of("view", self.view, VIEWS)
        if self.rows > MOST_ROWS:
            raise ValueError(f"this table has {self.rows:,} rows, but at most {MOST_ROWS:,} can be made; {self.smaller()}.")
        sizes = self.sizes
        for split, name in (("train", "train_fraction"), ("validation", "validation_fraction"), ("test", "train_fraction")):
            if sizes[split] < 1 and not (split == "validation" and self.validation_fraction == 0):
                raise ValueError(
                    f"{name}={getattr(self, name)} leaves the split {split!r} of {self.rows} rows empty; "
                    f"{'lower' if split == 'test' else 'raise'} it."
                )

    @property
    @abstractmethod
    def rows(self) -> int:
        """Rows of the whole table."""

    @abstractmethod
    def smaller(self) -> str:
        """What to change to have fewer rows."""

    @abstractmethod
    def stem(self) -> str:
        """The name's beginning: the task's own fields."""

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split; the fractions are rounded half up."""
        train = int(self.rows * self.train_fraction + 0.5)
        validation = int(self.rows * self.validation_fraction + 0.5)
        return {"train": train, "validation": validation, "test": self.rows - train - validation}

    def spell_name(self) -> str:
        validation = f"_v{self.validation_fraction!r}" if self.validation_fraction else ""
        options = ("_together" if self.commutative == "together" else "") + ("_lm" if self.view == "lm" else "")
        return f"{self.stem()}_f{self.train_fraction!r}{validation}_s{self.seed}{options}"


@dataclass
class SizedConfig(TaskConfig):
    """A task with too many rows to list. The given number of rows is drawn, all different.

    Args:
        train_size: rows to train on, at least 1.
        validation_size: rows of the split "validation"; 0 leaves the split out.
        test_size: rows to test on, at least 1.
    """

    train_size: int = 1000
    validation_size: int = 0
    test_size: int = 1000

    SIZES: ClassVar[str] = r"_n(?P<train_size>\d+)-(?P<validation_size>\d+)-(?P<test_size>\d+)_s(?P<seed>\d+)"

    def check(self) -> None:
        self.train_size = whole_number("train_size", self.train_size, 1)
        self.validation_size = whole_number("validation_size", self.validation_size, 0)
        self.test_size = whole_number("test_size", self.test_size, 1)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split."""
        return {"train": self.train_size, "validation": self.validation_size, "test": self.test_size}

    def sizes_in_name(self) -> str:
        """`_n1000-0-1000_s0`."""
        return f"_n{self.train_size}-{self.validation_size}-{self.test_size}_s{self.seed}"

    def check_enough(self, existing: int, advice: str) -> None:
        """Raise a ValueError if more rows are asked for than exist."""
        total = self.train_size + self.validation_size + self.test_size
        if total > existing:
            raise ValueError(
                f"train_size + validation_size + test_size = {total} rows, but there are only {existing} different ones; "
                f"{advice}."
            )


class TaskBuilder(datasets.ArrowBasedBuilder):
    """A `datasets` builder whose splits are lists of shards, each made into one Arrow table when its turn comes."""

    # Part of the cache folder. Raise it when the same configuration gives other rows than before.
    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS: Any = TaskConfig
    SHELF: tuple[str, ...] = ()  # standard configurations, with committed checksums
    SUMMARY: str = ""
    SOURCE: str = ""  # the papers that the task comes from
    LICENSE: str = "cc0-1.0"
    REORDERINGS: bool = False  # whether the operands in another order are another row of the task
    config: Any

    @abstractmethod
    def shards(self) -> dict[str, list[Any]]:
        """For each split with rows: its shards of up to `ROWS_PER_TABLE` rows, which `table` turns into Arrow tables."""

    @abstractmethod
    def table(self, shard: Any) -> pa.Table:
        """The rows of one shard, with the columns of `features`."""

    @abstractmethod
    def features(self) -> datasets.Features:
        """Columns of the view."""

    @staticmethod
    @abstractmethod
    def vocabulary(config: Any) -> list[str] | str:
        """All words of the texts of ``view="lm"``, in the order of their ids. One string if words are characters."""

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.SUMMARY, features=self.features(), license=self.LICENSE)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # `datasets` deals the items of a list argument to the workers and shards of a stream.
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"shards": shards})
            for split, shards in self.shards().items()
            if shards
        ]

    def _generate_tables(self, shards: list[Any]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        for index, shard in enumerate(shards):
            yield (0, index), self.table(shard)


class TableBuilder(TaskBuilder):
    """The builder of a `TableConfig`. A task defines operands and answer of each row number, and how both are written."""

    REORDERINGS = True

    @abstractmethod
    def operands(self, rows: np.ndarray) -> np.ndarray:
        """Operands `(n, k)` int64 of row numbers `(n,)`."""

    @abstractmethod
    def answers(self, rows: np.ndarray, operands: np.ndarray) -> np.ndarray:
        """Classes `(n,)` int64."""

    @property
    @abstractmethod
    def operand_names(self) -> tuple[str, ...]:
        """Columns of the operands in ``view="lm"``."""

    @abstractmethod
    def prompt(self, operands: np.ndarray) -> pa.Array:
        """Text of each row, up to and including the equals sign."""

    @abstractmethod
    def words(self) -> pa.Array:
        """Word of each class."""

    def shards(self) -> dict[str, list[np.ndarray]]:
        config = self.config
        sizes = {split: size for split, size in config.sizes.items() if size}
        orbits = None
        if config.commutative == "together":
            orbits = orbits_under_reordering(self.operands(np.arange(config.rows)))
        parts = deal(config.rows, list(sizes.values()), config.seed, orbits)
        return {split: in_pieces(part) for split, part in zip(sizes, parts, strict=True)}

    def table(self, shard: np.ndarray) -> pa.Table:
        operands = self.operands(shard)
        answers = self.answers(shard, operands)
        if self.config.view == "classification":
            return pa.table({"input_ids": fixed_lists(operands), "labels": pa.array(answers)})
        return pa.table(
            {
                **{name: pa.array(operands[:, i]) for i, name in enumerate(self.operand_names)},
                "prompt": self.prompt(operands),
                "completion": join(" ", self.words().take(pa.array(answers))),
            }
        )

    def features(self) -> datasets.Features:
        number = datasets.Value("int64")
        if self.config.view == "classification":
            return datasets.Features({"input_ids": datasets.List(number, length=len(self.operand_names)), "labels": number})
        text = datasets.Value("string")
        return datasets.Features({**dict.fromkeys(self.operand_names, number), "prompt": text, "completion": text})


def in_pieces(rows: np.ndarray, size: int = ROWS_PER_TABLE) -> list[np.ndarray]:
    """`rows` in consecutive pieces of up to `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def fixed_lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    """`(n, k)` integers as `n` Arrow lists of k."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])


def join(*parts: pa.Array | str) -> pa.Array:
    """Concatenate texts row by row. A plain string is repeated in every row.

    >>> join("a", pa.array(["1", "2"]), "!").to_pylist()
    ['a1!', 'a2!']
    """
    return pc.binary_join_element_wise(*parts, "")
