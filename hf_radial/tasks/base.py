"""What all tasks share: configurations that are named by their fields, and builders that make Arrow tables shard by shard.

In here: the two kinds of configuration (a finite table that is split by fraction, and rows that are drawn by number), the
builder, and the two views. Not in here: any task, and loading (`load.py`).

Two views. ``view="classification"``: `input_ids` `(k,)` int64, the operands, and `labels` int64, the class: for an MLP.
``view="lm"``: the operands as columns of their own, `prompt` and `completion` as text: for a language model, with
`vocabulary(config)` as its words (`tokenizer.py`). The completion begins with the space that separates words, so that
`prompt + completion` is the whole text; `trl` takes the two columns as they are.
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

from hf_radial.tasks.checks import fraction, one_of, shown, whole
from hf_radial.tasks.splits import deal, orbits_under_reordering

SPLITS = ("train", "validation", "test")
VIEWS = ("classification", "lm")
# Rows made at once, which bounds the memory of a stream at some MB; a shard of a stream is as large.
ROWS_PER_TABLE = 100_000
# A permutation of the whole table is drawn in memory (8 bytes a row, and as much again to sort it).
MOST_ROWS = 50_000_000
NUMBER = r"\d+(?:\.\d+)?(?:e-\d+)?"


@dataclass
class TaskConfig(datasets.BuilderConfig):
    """A configuration that is named by its fields: the fields make the name, and the name can be given in their place.

    Args:
        name: leave it out, or give it alone ("add_p97_f0.5_s0"): the fields are then read from it.
        seed: seeds every draw, at least 0 and below 2**128.

    Raises:
        ValueError: the name is not one that this task's fields can have (an example is shown), or a field is given beside it
            that says otherwise (unless it is given its default, which cannot be told from none here; `load_task` tells);
            a field is out of its range.
    """

    name: str = "default"
    seed: int = 0

    PATTERN: ClassVar[str]  # of all names, with a group for each field that it holds
    EXAMPLE: ClassVar[str]

    def __post_init__(self) -> None:
        """Read the name if there is one, check every field, then derive the name from them."""
        given = None if self.name == "default" else self.name
        if given is not None:
            for field, value in self.fields_in(given).items():
                before, default = getattr(self, field), type(self).__dataclass_fields__[field].default
                # Nothing but a word, a number or the default can be what a name says; arrays have no single answer to `in`.
                if not isinstance(before, str | Number | type(default)) or before not in (default, value):
                    raise ValueError(
                        f"{field}={shown(before)} is not what the name {given!r} says; give the name or the fields."
                    )
                setattr(self, field, value)
        self.seed = whole("seed", self.seed, 0)
        self.check()
        self.name = self.spell_name()
        if given is not None and given != self.name:
            raise ValueError(f"the configuration {given!r} is spelt {self.name!r}.")
        super().__post_init__()

    @classmethod
    def fields_in(cls, name: str) -> dict[str, Any]:
        """The fields that a name says. What `PATTERN` leaves unmatched keeps its default. ValueError if it is no such name."""
        # None is longer, as a folder has it for its name; and Python reads no numbers of thousands of digits.
        match = re.fullmatch(cls.PATTERN, name) if isinstance(name, str) and len(name) < 250 else None
        if match is None:
            raise ValueError(f"{shown(name)} is not a configuration of this task; one is {cls.EXAMPLE!r}.")
        return {field: cls.value_in_name(field, text) for field, text in match.groupdict().items() if text is not None}

    @classmethod
    def value_in_name(cls, field: str, text: str) -> Any:
        """The value of a field from its text in the name: a number where the field's default is one."""
        default = cls.__dataclass_fields__[field].default
        if isinstance(default, bool):
            return True
        return type(default)(text.removeprefix("_")) if isinstance(default, int | float) else text.removeprefix("_")

    def check(self) -> None:
        """Raise a ValueError for a field that is out of its range."""

    @abstractmethod
    def spell_name(self) -> str:
        """The name: one for each choice of the fields."""

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name of the cache folder: `name` alone, since it says everything already.

        The inherited method appends the arguments that were spelt out, so that a default left out and the same value
        given would be generated twice.
        """
        if custom_features is not None:
            return super().create_config_id(config_kwargs, custom_features=custom_features)
        return self.name

    def options(self) -> dict[str, Any]:
        """The fields that say what is drawn, without those that `datasets` adds."""
        inherited = {field.name for field in fields(datasets.BuilderConfig)}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in inherited}


@dataclass
class TableConfig(TaskConfig):
    """A task with finitely many rows, all of which are dealt to the splits.

    Args:
        train_fraction: share of all rows to train on, between 0 and 1 (rounded to whole rows).
        validation_fraction: share held out for choosing, from what is not trained on; by default everything else is "test".
        commutative: "split" as in the literature, where (a, b) may be trained on and (b, a) tested (`leakage` counts them), or
            "together", which keeps all orders of the same operands in one split.
        view: "classification" (input_ids the operands, labels the answer) or "lm" (prompt and completion as text, and the
            operands in columns of their own).
    """

    train_fraction: float = 0.5
    validation_fraction: float = 0.0
    commutative: str = "split"
    view: str = "classification"

    # Behind the group of the task's own fields.
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
    """A task with more rows than anyone wants: as many as are asked for are drawn, no two the same.

    Args:
        train_size: rows to train on, at least 1.
        validation_size: rows held out for choosing; 0 leaves the split out.
        test_size: rows to test on, at least 1.
    """

    train_size: int = 1000
    validation_size: int = 0
    test_size: int = 1000

    SIZES: ClassVar[str] = r"_n(?P<train_size>\d+)-(?P<validation_size>\d+)-(?P<test_size>\d+)_s(?P<seed>\d+)"

    def check(self) -> None:
        self.train_size = whole("train_size", self.train_size, 1)
        self.validation_size = whole("validation_size", self.validation_size, 0)
        self.test_size = whole("test_size", self.test_size, 1)

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

    # Part of the cache folder: raise it when the same configuration would give other rows.
    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS: Any = TaskConfig
    SHELF: tuple[str, ...] = ()  # configurations that people cite, whose checksums are committed
    SUMMARY: str = ""
    SOURCE: str = ""  # where the literature has it from
    LICENSE: str = "cc0-1.0"
    REORDERINGS: bool = False  # whether a row with its operands in another order is another row of the task
    config: Any

    @abstractmethod
    def shards(self) -> dict[str, list[Any]]:
        """What `table` makes of each split that has rows, in pieces of up to `ROWS_PER_TABLE` rows."""

    @abstractmethod
    def table(self, shard: Any) -> pa.Table:
        """The rows of one shard, with the columns of `features`."""

    @abstractmethod
    def features(self) -> datasets.Features:
        """Columns of the view."""

    @staticmethod
    @abstractmethod
    def vocabulary(config: Any) -> list[str] | str:
        """All words of the texts of ``view="lm"``, in the order of their ids; one string where words are characters."""

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.SUMMARY, features=self.features(), license=self.LICENSE)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # A list among the arguments is what `datasets` deals to the workers and shards of a stream.
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"shards": shards})
            for split, shards in self.shards().items()
            if shards
        ]

    def _generate_tables(self, shards: list[Any]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        for index, shard in enumerate(shards):
            yield (0, index), self.table(shard)


class TableBuilder(TaskBuilder):
    """The builder of a `TableConfig`: a task says the operands and the answer of each row number, and how both are written."""

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
        """Text of each row up to and with the equals sign."""

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
    """Texts, row by row, one behind the other; a plain string stands in every row.

    >>> join("a", pa.array(["1", "2"]), "!").to_pylist()
    ['a1!', 'a2!']
    """
    return pc.binary_join_element_wise(*parts, "")
