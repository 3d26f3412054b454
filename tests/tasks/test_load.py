"""Loading from a cache that is damaged, full, forbidden or shared: rows as they should be, or one clear error."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from hf_radial.tasks.checksums import checksum, checksum_of_tables, committed_checksums
from hf_radial.tasks.load import TASKS, builder_class, load_task, task_builder

CONFIG = "add_p23_f0.5_s0_lm"


def sums(splits):
    return {split: checksum(rows) for split, rows in splits.items()}


@pytest.fixture
def cached(tmp_path):
    """A cache folder with one task in it, and the checksums of its rows."""
    return tmp_path, sums(load_task("modular", CONFIG, cache_dir=str(tmp_path)))


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_truncated_arrow_file_is_rebuilt_with_a_warning(cached, share, split, caplog):
    folder, expected = cached
    (file,) = folder.rglob(f"*-{split}.arrow")
    cut(file, share)
    with caplog.at_level(logging.WARNING, "hf_radial"):
        assert sums(load_task("modular", CONFIG, cache_dir=str(folder))) == expected
    assert "is damaged" in caplog.text and "rebuilt" in caplog.text and CONFIG in caplog.text
    caplog.clear()
    assert sums(load_task("modular", CONFIG, cache_dir=str(folder))) == expected
    assert not caplog.text


def test_an_arrow_file_that_ends_between_two_batches_is_rebuilt(tmp_path, caplog):
    import pyarrow as pa

    expected = sums(load_task("modular", "add_p499_f0.9_s0", cache_dir=str(tmp_path)))
    (file,) = tmp_path.rglob("*-train.arrow")
    batches = list(pa.ipc.open_stream(pa.memory_map(str(file))))
    assert len(batches) > 1
    with pa.OSFile(str(file) + ".new", "wb") as sink, pa.ipc.new_stream(sink, batches[0].schema) as writer:
        writer.write_batch(batches[0])
    os.replace(str(file) + ".new", file)
    assert sums(load_task("modular", "add_p499_f0.9_s0", cache_dir=str(tmp_path))) == expected
    assert "rows of" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"features": {',
        b"not json",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"null",
        b'{"splits": 5}',
        b'{"splits": {}}',
        b'{"features": {}}',
    ],
)
def test_a_damaged_description_is_rebuilt(cached, content, caplog):
    folder, expected = cached
    (file,) = folder.rglob("dataset_info.json")
    file.write_bytes(content)
    assert sums(load_task("modular", CONFIG, cache_dir=str(folder))) == expected
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("key", ["features", "splits"])
def test_a_description_of_something_else_is_rebuilt(cached, key, caplog):
    folder, expected = cached
    (file,) = folder.rglob("dataset_info.json")
    info = json.loads(file.read_text())
    info[key].pop("completion" if key == "features" else "test")
    file.write_text(json.dumps(info))
    assert sums(load_task("modular", CONFIG, cache_dir=str(folder))) == expected
    assert "is damaged" in caplog.text


def test_a_missing_file_is_rebuilt(cached, caplog):
    folder, expected = cached
    (file,) = folder.rglob("*-train.arrow")
    file.unlink()
    assert sums(load_task("modular", CONFIG, cache_dir=str(folder))) == expected
    assert "is damaged" in caplog.text


def test_a_cache_dir_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cache_dir='.*file' cannot be written.*Give another cache_dir"):
        load_task("modular", CONFIG, cache_dir=str(tmp_path / "file"))


UNPRIVILEGED = """
import os, sys
from hf_radial.tasks.load import load_task
import pyarrow, datasets.load, hf_radial.tasks.modular
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    load_task("modular", p=5, cache_dir=sys.argv[1])
except PermissionError as error:
    print(error)
"""


@pytest.mark.parametrize("prepared", [False, True])
def test_a_cache_dir_without_write_permission_is_named(tmp_path, prepared):
    folder = tmp_path / "forbidden"
    folder.mkdir()
    if prepared:  # reading takes a lock, which is a file
        load_task("modular", p=5, cache_dir=str(folder))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
        if parent.name.startswith("pytest-of"):
            break
    run = subprocess.run([sys.executable, "-c", UNPRIVILEGED, str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert f"cache_dir={str(folder)!r} cannot be written" in run.stdout and "Give another cache_dir" in run.stdout


FULL_DISK = """
import resource, signal, sys
from hf_radial.tasks.load import load_task
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))  # as a disk that has this much left
try:
    load_task("modular", p=199, cache_dir=sys.argv[1])
except OSError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(sum(map(len, load_task("modular", p=199, cache_dir=sys.argv[1]).values())))
"""


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_made(tmp_path):
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    error, rows = run.stdout.splitlines()
    assert f"cache_dir={str(tmp_path)!r} cannot be written" in error and "make room" in error
    assert rows == str(199 * 199)


def test_processes_that_load_at_once_all_get_the_rows(tmp_path):
    code = (
        "import sys; from hf_radial.tasks.load import load_task; from hf_radial.tasks.checksums import checksum\n"
        "print(checksum(load_task('modular', 'mul_p499_f0.5_s0', cache_dir=sys.argv[1])['test']))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) for _ in range(3)]
    outputs = [run.communicate(timeout=600) for run in runs]
    assert len({out for out, _ in outputs}) == 1 and len(outputs[0][0]) == 65, outputs


def test_loading_is_quiet_cached_and_leaves_progress_bars_alone(tmp_path, capfd):
    before = datasets.utils.are_progress_bars_disabled()
    load_task("modular", CONFIG, cache_dir=str(tmp_path))
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.arrow")}
    load_task("modular", p=23, view="lm", cache_dir=str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert datasets.utils.are_progress_bars_disabled() == before
    assert len(stamps) == 2 and stamps == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.arrow")}


def test_the_checksum_is_of_rows_and_not_of_files(cached, tmp_path):
    folder, expected = cached
    splits = load_task("modular", CONFIG, cache_dir=str(folder))
    for split, rows in splits.items():
        file = str(tmp_path / f"{split}.parquet")
        rows.to_parquet(file, batch_size=17)
        assert checksum(datasets.Dataset.from_parquet(file, cache_dir=str(tmp_path))) == expected[split]
        in_pieces = (rows.with_format("arrow")[i : i + 7] for i in range(0, len(rows), 7))
        assert checksum_of_tables(in_pieces, rows.column_names) == expected[split]
        assert checksum(rows.select(range(len(rows)))) == expected[split]
        assert checksum(rows.select(list(reversed(range(len(rows)))))) != expected[split]
        changed = rows.map(lambda row, i: {"a": row["a"] + (i == 5)}, with_indices=True, load_from_cache_file=False)
        assert checksum(changed) != expected[split]
        assert checksum(rows.rename_column("a", "c")) != expected[split]


def shelf():
    return [(task, config) for task in TASKS for config in builder_class(task).SHELF]


@pytest.mark.parametrize(("task", "config"), shelf())
def test_rows_on_the_shelf_are_those_that_were_published(task, config, tmp_path):
    # A failure here means other rows under the same name: raise the builder's VERSION, or find what changed underneath.
    published = committed_checksums()[f"{task}/{config}"]
    rows = load_task(task, config, streaming=True, cache_dir=str(tmp_path))
    assert sums(rows) == published


def test_checksums_are_committed_for_the_shelf_and_for_nothing_else():
    assert sorted(committed_checksums()) == sorted(f"{task}/{config}" for task, config in shelf())


def test_every_configuration_on_the_shelf_is_spelt_by_its_fields(tmp_path):
    for task, config in shelf():
        builder = task_builder(task, config, cache_dir=str(tmp_path))
        assert builder.config.name == config and config in Path(builder.cache_dir).parts
        again = task_builder(task, cache_dir=str(tmp_path), **builder.config.options())
        assert again.config.name == config


def test_another_process_draws_the_same_rows_and_imports_neither_torch_nor_transformers(tmp_path):
    code = (
        "import sys, json, hf_radial.tasks as tasks\n"
        "before = [m for m in ('datasets', 'transformers', 'torch') if m in sys.modules]\n"
        "splits = tasks.load_task('modular', 'add_p97_f0.5_s0', cache_dir=sys.argv[1])\n"
        "from hf_radial.tasks.checksums import checksum\n"
        "after = [m for m in ('transformers', 'torch') if m in sys.modules]\n"
        "print(json.dumps([before, after, {k: checksum(v) for k, v in splits.items()}]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout) == [[], [], committed_checksums()["modular/add_p97_f0.5_s0"]]
