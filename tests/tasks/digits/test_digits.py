"""Digit arithmetic: every row against Python's integers, and the same rows by every way to load them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets.distributed import split_dataset_by_node
from digit_pairs import SMALL, as_tuples, longer
from torch.utils.data import DataLoader

from hf_radial.tasks.checksums import checksum, checksum_of_tables
from hf_radial.tasks.digits import DigitArithmetic, DigitsConfig
from hf_radial.tasks.digits.draw import draw_pairs
from hf_radial.tasks.digits.text import most_characters
from hf_radial.tasks.load import load_task
from hf_radial.tasks.splits import leakage
from hf_radial.tasks.tokenizer import task_tokenizer

# Tried on every task at once, in another file.
BAD_INPUT: list[tuple[str, dict[str, Any], str]] = [
    ("digits", {"operation": "adds"}, r"operation='adds' is unknown; did you mean 'add'"),
    ("digits", {"operation": ["add"]}, r"operation=\['add'\] is unknown"),
    ("digits", {"digits": 0}, r"digits must be a whole number of at least 1, got 0"),
    ("digits", {"digits": 21}, r"digits \+ longer_digits = 21 \+ 0 must be at most 20: .*two 64-bit numbers.*lower"),
    ("digits", {"digits": 18, "longer_digits": 3}, r"digits \+ longer_digits = 18 \+ 3 must be at most 20"),
    ("digits", {"digits": 2.0}, r"digits .* got 2\.0"),
    ("digits", {"digits": True}, r"digits .* got True"),
    ("digits", {"sampling": "even"}, r"sampling='even' is unknown.*uniform, balanced"),
    ("digits", {"commutative": "apart"}, r"commutative='apart' is unknown.*together, split"),
    ("digits", {"reverse": "no"}, r"reverse must be True or False, got 'no'"),
    ("digits", {"zero_pad": 1}, r"zero_pad must be True or False, got 1"),
    ("digits", {"scratchpad": "yes"}, r"scratchpad must be True or False, got 'yes'"),
    ("digits", {"train_size": 0}, r"train_size must be a whole number of at least 1, got 0"),
    ("digits", {"train_size": -5}, r"train_size .* got -5"),
    ("digits", {"validation_size": -1}, r"validation_size must be a whole number of at least 0, got -1"),
    ("digits", {"test_size": 0}, r"test_size must be a whole number of at least 1, got 0"),
    ("digits", {"seed": -1}, r"seed must be a whole number of at least 0, got -1"),
    ("digits", {"digits": 2, "train_size": 9851}, r"train_size .* = 12851 rows, but there are only 10000"),
    ("digits", {"digits": 2, "train_size": 9851, "sampling": "balanced"}, r"12851 rows, but there are only 10000"),
    ("digits", {"train_size": 10**6}, r"1003000 rows, but there are only 500000 .*commutative='split' or raise digits=3"),
    (
        "digits",
        {"train_size": 10**6, "commutative": "split"},
        r"only 1000000 different ones; ask for fewer rows or raise digits=3",
    ),
    ("digits", {"digits": 4, "train_size": 5 * 10**7, "sampling": "balanced"}, r"50003000 rows, .*only 50000000"),
    ("digits", {"digits": 20, "train_size": 10**11}, r"train_size=100,000,000,000 is above 10,000,000,000 rows"),
    ("digits", {"longer_digits": -1}, r"longer_digits must be a whole number of at least 0, got -1"),
    ("digits", {"longer_digits": 1, "longer_size": 0}, r"longer_size must be a whole number of at least 1, got 0"),
    ("digits", {"longer_size": 10}, r"longer_size=10 needs longer_digits of at least 1"),
    (
        "digits",
        {"digits": 1, "train_size": 1, "validation_size": 0, "test_size": 1, "longer_digits": 1, "longer_size": 4951},
        r"longer_size=4951, but test_2_digits can have 4950 rows at most",
    ),
    ("digits", {"config": "add3_uniform"}, r"'add3_uniform' is not a configuration of this task; one is 'add3_uniform_rev_pad"),
    ("digits", {"config": "add03_uniform_rev_pad_n500-1000-2000_together_s0"}, r"must be written 'add3_uniform"),
    ("digits", {"config": "add3_uniform_rev_pad_n500-1000-2000_together_s0", "digits": 4}, r"digits=4 contradicts the name"),
]


def reference(config: DigitsConfig, a: int, b: int, width: int) -> tuple[str, str]:
    """Prompt and completion in plain Python: on whole numbers, and from the definition, not from the implementation."""
    value = {"add": a + b, "sub": a - b, "mul": a * b}[config.operation]
    sign = {"add": "+", "sub": "-", "mul": "*"}[config.operation]
    pad = config.zero_pad
    answer_width = (2 * width if config.operation == "mul" else width + 1) if pad else 0

    def write(number: int) -> str:
        text = f"{number:0{answer_width}d}"
        return "".join(reversed(text)) if config.reverse else text

    prompt = f"{a:0{width if pad else 0}d}{sign}{b:0{width if pad else 0}d}="
    if not config.scratchpad:
        return prompt, write(value)
    steps = []
    if config.operation == "mul":
        running = 0
        for place in range(width if pad else len(str(b))):
            digit = b // 10**place % 10
            running += a * digit * 10**place
            steps.append(f"*{digit}={write(a * digit * 10**place)},{write(running)};")
    else:
        x, y, carry = a, b, 0
        if config.operation == "sub":
            steps.append("-;" if a < b else "+;")
            x, y = max(a, b), min(a, b)
        for _ in range(width if pad else len(str(max(a, b)))):
            (x, u), (y, v) = divmod(x, 10), divmod(y, 10)
            out, digit = divmod(u + v + carry, 10) if config.operation == "add" else divmod(u - v - carry, 10)
            steps.append(f"{u}{sign}{v}{sign}{carry}={abs(out)}{digit};")
            carry = abs(out)
    return prompt, "".join(steps) + "#" + write(value)


SPELT: list[dict[str, Any]] = [
    {"operation": operation, "reverse": reverse, "zero_pad": zero_pad, "scratchpad": scratchpad, **more}
    for operation in ("add", "sub", "mul")
    for reverse, zero_pad, scratchpad in itertools.product((True, False), repeat=3)
    for more in (
        {"digits": 1, "longer_digits": 2},
        {"digits": 4, "sampling": "balanced", "commutative": "split"},
        {"digits": 13, "sampling": "balanced", "seed": 5},
        {"digits": 17, "longer_digits": 3, "seed": 2**70},
    )
]


@pytest.mark.parametrize("fields", SPELT, ids=lambda fields: "-".join(map(str, fields.values())))
def test_every_row_is_what_python_writes(fields: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"train_size": 40, "validation_size": 10, "test_size": 20}
    builder = DigitArithmetic(
        cache_dir=str(tmp_path), **sizes, **fields, **({"longer_size": 30} if "longer_digits" in fields else {})
    )
    config, tokenizer = builder.config, task_tokenizer("digits", builder.config.name)
    seen: dict[tuple[int, int], str] = {}
    for split, shards in builder.shards().items():
        width = config.digits_of_split(split)
        rows = [row for shard in shards for row in builder.table(shard).to_pylist()]
        assert len(rows) == config.all_sizes[split]
        for row in rows:
            a, b = int(row["a"]), int(row["b"])
            assert type(row["a"]) is (int if config.digits + config.longer_digits <= 18 else Decimal)
            assert (row["prompt"], row["completion"]) == reference(config, a, b, width)
            assert min(a, b) >= 0 and (longer(a, b) == width if split in config.longer_splits else longer(a, b) <= width)
            text = row["prompt"] + row["completion"]
            assert len(text) <= most_characters(config.operation, width, config.scratchpad)
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
            assert (a, b) not in seen
            assert config.commutative == "split" or seen.get((b, a), split) == split
            seen[a, b] = split


def test_no_character_of_the_alphabet_is_idle(tmp_path: Path) -> None:
    for operation, scratchpad in itertools.product(("add", "sub", "mul"), (True, False)):
        builder = DigitArithmetic(cache_dir=str(tmp_path), operation=operation, scratchpad=scratchpad)
        (shard,) = builder.shards()["train"]
        table = builder.table(shard)
        used = set("".join(table["prompt"].to_pylist() + table["completion"].to_pylist()))
        assert used == set(builder.vocabulary(builder.config)) and len(used) == len(builder.vocabulary(builder.config))


def test_the_operation_and_the_spelling_do_not_change_the_operands(tmp_path: Path) -> None:
    def operands(**fields: Any) -> list[Any]:
        table = load_task("digits", cache_dir=str(tmp_path), streaming=True, digits=11, train_size=30, **fields)["train"]
        return [(row["a"], row["b"]) for row in table]

    first = operands()
    assert first == operands(operation="mul", reverse=False) == operands(operation="sub", zero_pad=False, scratchpad=True)


def test_every_field_reaches_the_name_and_the_cache_folder(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"operation": "sub"},
        {"operation": "*"},
        {"digits": 3},
        {"sampling": "balanced"},
        {"reverse": False},
        {"zero_pad": False},
        {"scratchpad": True},
        {"train_size": 201},
        {"validation_size": 51},
        {"test_size": 101},
        {"seed": 1},
        {"commutative": "split"},
        {"longer_digits": 1},
        {"longer_digits": 2},
        {"longer_digits": 1, "longer_size": 99},
    ]
    builders = [DigitArithmetic(cache_dir=str(tmp_path), **{**SMALL, **change}) for change in changes]
    assert len({builder.config.name for builder in builders}) == len(changes)
    assert len({builder.cache_dir for builder in builders}) == len(changes)
    for builder in builders:  # and the name says every field
        assert DigitsConfig(name=builder.config.name).options() == builder.config.options()
    # A default that is spelt out is the same data set, hence the same folder.
    assert DigitArithmetic(cache_dir=str(tmp_path), **SMALL, seed=0).cache_dir == builders[0].cache_dir
    assert builders[0].config.name in Path(builders[0].cache_dir).parts
    assert str(tmp_path) in builders[0].cache_dir


def test_load_is_quiet_cached_and_leaves_progress_bars_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = datasets.utils.are_progress_bars_disabled()
    first = load_task("digits", cache_dir=str(tmp_path), **SMALL)
    files = sorted(tmp_path.rglob("*.arrow"))
    stamps = [file.stat().st_mtime_ns for file in files]
    second = load_task("digits", cache_dir=str(tmp_path), **SMALL)
    out, err = capfd.readouterr()
    assert out == "" and err == ""
    assert datasets.utils.are_progress_bars_disabled() == before
    assert len(files) == 3 and [file.stat().st_mtime_ns for file in files] == stamps
    assert {split: rows.to_dict() for split, rows in first.items()} == {s: r.to_dict() for s, r in second.items()}
    assert first["train"].features == datasets.Features(
        a=datasets.Value("int64"),
        b=datasets.Value("int64"),
        prompt=datasets.Value("string"),
        completion=datasets.Value("string"),
    )
    drawn = draw_pairs(DigitsConfig(**SMALL))
    assert list(zip(first["test"]["a"], first["test"]["b"], strict=True)) == as_tuples(drawn["test"])


def test_a_validation_size_of_zero_leaves_the_split_out(tmp_path: Path) -> None:
    splits = load_task("digits", cache_dir=str(tmp_path), digits=2, train_size=5, validation_size=0, test_size=1)
    assert set(splits) == {"train", "test"} and len(splits["test"]) == 1


def test_leakage_counts_as_sets_do() -> None:
    rng = np.random.default_rng(0)
    frames = {name: rng.integers(0, 12, size=(60, 2)) for name in ("train", "validation", "test")}
    splits = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"a": rows[:, 0], "b": rows[:, 1]}) for name, rows in frames.items()}
    )
    ordered = commuted = 0
    earlier: set[tuple[int, ...]] = set()
    for frame in frames.values():
        rows = set(as_tuples(frame))
        ordered += len(earlier & rows)
        commuted += len({(b, a) for a, b in earlier if a != b} & rows)
        earlier |= rows
    assert leakage(splits) == {"ordered": ordered, "commuted": commuted}
    # Follows row selections, not the table underneath.
    few = datasets.DatasetDict(train=splits["train"].select([0]), test=splits["train"].select([0, 1]))
    assert leakage(few)["ordered"] == 1
    with pytest.raises(ValueError, match="needs the operands as columns"):
        leakage(datasets.DatasetDict(train=splits["train"].remove_columns(["a", "b"]), test=splits["test"]))


def test_leakage_of_a_draw(tmp_path: Path) -> None:
    together = load_task("digits", cache_dir=str(tmp_path), **SMALL)
    assert leakage(together) == {"ordered": 0, "commuted": 0}
    split = load_task("digits", cache_dir=str(tmp_path), commutative="split", **SMALL)
    assert leakage(split)["ordered"] == 0 and leakage(split)["commuted"] > 0


def test_fields_of_the_builder_are_no_fields_of_the_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hash"):
        load_task("digits", cache_dir=str(tmp_path), hash="x", **SMALL)


STREAMED: list[dict[str, Any]] = [
    {**SMALL},
    {"digits": 10, "sampling": "balanced", "operation": "sub", "train_size": 900, "longer_digits": 2, "longer_size": 70},
    {"digits": 20, "operation": "mul", "scratchpad": True, "zero_pad": False, "train_size": 300, "test_size": 100},
]


@pytest.mark.parametrize("fields", STREAMED, ids=["in memory", "row by row", "decimals"])
def test_stream_cache_and_parquet_hold_the_same_rows(fields: dict[str, Any], tmp_path: Path) -> None:
    cached = load_task("digits", cache_dir=str(tmp_path), **fields)
    streamed = load_task("digits", cache_dir=str(tmp_path), streaming=True, **fields)
    assert set(cached) == set(streamed)
    assert leakage(cached) == {"ordered": 0, "commuted": 0}
    for split, rows in cached.items():
        tables = [pa.table(batch) for batch in streamed[split].with_format("arrow").iter(17)]
        assert checksum_of_tables(tables, rows.column_names) == checksum(rows), split
        file = tmp_path / f"{split}.parquet"
        rows.to_parquet(str(file))
        again = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "parquet"))
        assert again.features == rows.features and checksum(again) == checksum(rows), split
        # What a card of the Hub says about the columns is read back as the same columns.
        assert datasets.Features._from_yaml_list(rows.features._to_yaml_list()) == rows.features


def test_leakage_is_found_among_decimals_too(tmp_path: Path) -> None:
    splits = load_task("digits", cache_dir=str(tmp_path), digits=20, train_size=50, test_size=30, validation_size=0)
    assert all(isinstance(a, Decimal) for a in splits["train"]["a"])
    mirrored = splits["train"].select([1, 2]).rename_columns({"a": "b", "b": "a"}).select_columns(["a", "b"])
    own = splits["train"].select([3]).select_columns(["a", "b"])
    test = datasets.concatenate_datasets([mirrored, own, splits["test"].select_columns(["a", "b"])])
    assert leakage(datasets.DatasetDict(train=splits["train"], test=test)) == {"ordered": 1, "commuted": 2}


def test_workers_nodes_and_shuffling_lose_and_repeat_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_radial.tasks.digits.ROWS_PER_TABLE", 100)
    fields = {"digits": 12, "sampling": "balanced", "train_size": 1050}
    rows = load_task("digits", cache_dir=str(tmp_path), streaming=True, **fields)["train"].select_columns(["prompt"])
    whole = [row["prompt"] for row in rows]
    assert rows.num_shards == 11 and len(set(whole)) == 1050
    shuffled = [row["prompt"] for row in rows.shuffle(seed=1, buffer_size=50)]
    assert shuffled != whole and sorted(shuffled) == sorted(whole)
    for world in (2, 11):  # shards are dealt to 11 nodes whole; of 2 nodes each skips the other's rows
        nodes = [split_dataset_by_node(rows, rank, world) for rank in range(world)]
        assert sorted(row["prompt"] for node in nodes for row in node) == sorted(whole)
    loaded = [prompt for batch in DataLoader(rows, batch_size=32, num_workers=2) for prompt in batch["prompt"]]
    assert sorted(loaded) == sorted(whole)
    # A stream that was stopped goes on where it was.
    iterator = iter(rows)
    first = [next(iterator)["prompt"] for _ in range(317)]
    rest = load_task("digits", cache_dir=str(tmp_path), streaming=True, **fields)["train"].select_columns(["prompt"])
    rest.load_state_dict(rows.state_dict())
    assert first + [row["prompt"] for row in rest] == whole


def test_the_longest_texts_are_put_together_in_small_tables(tmp_path: Path) -> None:
    builder = DigitArithmetic(cache_dir=str(tmp_path), digits=20, operation="mul", scratchpad=True, train_size=10**7)
    assert max(len(rows) for _, rows in builder.shards()["train"]) < 15_000
    builder = DigitArithmetic(cache_dir=str(tmp_path), digits=20, train_size=10**7)
    assert len(builder.shards()["train"]) == 100


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
def test_a_stream_of_many_rows_takes_no_memory_for_them() -> None:
    """Peak of a process that reads 1,200,000 rows (some 90 MB of Arrow tables) against its peak after the first 200,000."""
    program = (
        "from pathlib import Path\n"
        "from hf_radial.tasks.load import load_task\n"
        # Not ru_maxrss, which begins at that of the process that started this one.
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 2**10\n"
        "rows = load_task('digits', streaming=True, digits=12, train_size=10_000_000)['train'].with_format('arrow')\n"
        "count, size = 0, 0\n"
        "for table in rows.iter(50_000):\n"
        "    count, size = count + len(table), size + table.nbytes\n"
        "    if count == 200_000: first = peak()\n"
        "    if count == 1_200_000: break\n"
        "print(first, peak(), size / 2**20)\n"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    first, last, size = map(float, done.stdout.split())
    assert size > 60
    assert last - first < 15, (first, last)
