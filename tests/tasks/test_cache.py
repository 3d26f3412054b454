"""One configuration's cache under several processes, threads and programs: right rows, one repair, no false warning."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cache_stress import DAMAGES, LOSSES, stress

from hf_radial import safe_files
from hf_radial.tasks import cache
from hf_radial.tasks.checksums import checksum
from hf_radial.tasks.load import builder_class, load_task, task_builder

CONFIG = "add_p23_f0.5_s0"


def folder_of(cache_dir):
    (description,) = Path(cache_dir).rglob("dataset_info.json")
    return description.parent


def test_processes_that_load_and_damage_one_cache_all_get_the_rows_and_mend_it_once():
    rounds = 2 * len(DAMAGES | LOSSES)
    counts = stress(processes=4, rounds=rounds)
    assert not counts["errors"]
    warnings = {name.removeprefix("warnings, "): n for name, n in counts["counts"].items() if name.startswith("warnings")}
    assert counts["counts"]["right"] == 4 * (rounds + rounds // 2)
    # Only process 0 can find its own damage healed by another process before it has begun.
    assert set(warnings) <= set(DAMAGES) and max(warnings.values()) == 1


def test_a_load_that_waits_sees_the_other_ones_finished_cache(tmp_path, monkeypatch, caplog):
    # The interleaving that failed: another load finishes between the moment when this one finds no cache and its next look.
    others = []

    def load_meanwhile(builder, folder, *, prepare=cache.prepare):
        if not others:
            others.append(threading.Thread(target=load_task, args=("modular", CONFIG), kwargs={"cache_dir": str(tmp_path)}))
            others[0].start()
            others[0].join(0.5)
            assert others[0].is_alive()  # it waits for the lock
        prepare(builder, folder)

    monkeypatch.setattr(cache, "prepare", load_meanwhile)
    rows = load_task("modular", CONFIG, cache_dir=str(tmp_path))
    others[0].join(60)
    assert not others[0].is_alive() and not caplog.records
    assert checksum(rows["test"]) == checksum(load_task("modular", CONFIG, cache_dir=str(tmp_path))["test"])


def test_threads_of_one_process_exclude_each_other(tmp_path, caplog):
    sums = []

    def load():
        sums.append(checksum(load_task("modular", CONFIG, cache_dir=str(tmp_path))["test"]))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(sums) == 4 and len(set(sums)) == 1 and not caplog.records


def test_a_load_inside_of_one_that_holds_the_lock_goes_on(tmp_path):
    folder = tmp_path / "modular" / CONFIG / "1.0.0"
    with cache.lock_of(folder):
        rows = load_task("modular", CONFIG, cache_dir=str(tmp_path))
        assert len(rows["train"]) == 265
    assert folder_of(tmp_path) == folder


HOLDER = """
import sys, time
from pathlib import Path
from hf_radial import safe_files
from hf_radial.tasks import cache
with cache.lock_of(Path(sys.argv[1])):
    (Path(sys.argv[1]).parent / "1.0.0.new-left").mkdir()
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_process_that_is_killed_while_it_prepares_blocks_nobody_and_leaves_nothing(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "modular" / CONFIG / "1.0.0"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(safe_files, "PATIENCE", 0.2)
        killing = threading.Timer(1.0, holder.send_signal, [signal.SIGKILL])
        killing.start()
        began = time.monotonic()
        rows = load_task("modular", CONFIG, cache_dir=str(tmp_path))
        assert time.monotonic() - began > 0.5  # it waited
    finally:
        holder.kill()
        holder.wait()
    assert len(rows["train"]) == 265
    assert "Waiting for another process" in caplog.text and "load.lock" in caplog.text
    assert not list(folder.parent.glob("*.new-*"))


def test_files_that_other_processes_have_mapped_or_derived_outlive_a_mending(tmp_path):
    rows = load_task("modular", CONFIG, cache_dir=str(tmp_path))
    expected = checksum(rows["test"])
    folder = folder_of(tmp_path)
    derived = rows["test"].map(lambda row: {"labels": row["labels"] + 1})  # its cache file lies beside the rows
    (folder / "dataset_info.json").write_text("{")
    again = load_task("modular", CONFIG, cache_dir=str(tmp_path))
    assert checksum(rows["test"]) == checksum(again["test"]) == expected
    assert derived.cache_files and all(Path(file["filename"]).is_file() for file in derived.cache_files)


@pytest.mark.parametrize("lost", [lambda folder: folder, lambda folder: folder.parents[2]])
def test_a_cache_that_is_missing_is_not_called_damaged(tmp_path, lost, caplog):
    root = tmp_path / "root"
    load_task("modular", CONFIG, cache_dir=str(root))
    shutil.rmtree(lost(folder_of(root)))
    load_task("modular", CONFIG, cache_dir=str(root))
    assert not caplog.records


def test_a_cache_that_another_program_deletes_meanwhile_is_made_again(tmp_path, monkeypatch, caplog):
    opened, times = cache._opened, []

    def deleted_once(make, folder):
        builder = opened(make, folder)
        times.append(builder)
        if len(times) == 2:  # between preparing and reading
            shutil.rmtree(tmp_path / "root")
        return builder

    monkeypatch.setattr(cache, "_opened", deleted_once)
    assert len(load_task("modular", CONFIG, cache_dir=str(tmp_path / "root"))["train"]) == 265
    assert not caplog.records


@pytest.mark.parametrize("moment", ["_prepare_split_single", "_rename", "_save_info"])
def test_a_cache_that_is_deleted_while_it_is_prepared_is_prepared_again(tmp_path, monkeypatch, moment, caplog):
    builder, times = builder_class("modular"), []
    method = getattr(builder, moment)

    def deleted_once(self, *args, **kwargs):
        times.append(1)
        if len(times) == 1:
            shutil.rmtree(tmp_path / "root")
        return method(self, *args, **kwargs)

    monkeypatch.setattr(builder, moment, deleted_once)
    assert len(load_task("modular", CONFIG, cache_dir=str(tmp_path / "root"))["train"]) == 265
    assert len(times) > 1 and not caplog.records


def test_a_cache_that_is_always_deleted_is_one_clear_error_and_not_called_unwritable(tmp_path, monkeypatch):
    def deleted(builder, *, read=cache.read):
        shutil.rmtree(builder.cache_dir)
        return read(builder)

    monkeypatch.setattr(cache, "read", deleted)
    with pytest.raises(OSError, match=r"deleted or damaged 5 times.*Stop the program that writes or deletes there") as raised:
        load_task("modular", CONFIG, cache_dir=str(tmp_path))
    assert "cannot be written" not in str(raised.value)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_a_file_system_that_cannot_lock_is_named(tmp_path, monkeypatch, number):
    def refused(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(OSError, match=r"cache_dir='.*' cannot be written: .*Give another cache_dir"):
        load_task("modular", CONFIG, cache_dir=str(tmp_path))


def test_a_file_system_without_flock_is_served_by_lock_files(tmp_path, monkeypatch, recwarn):
    def refused(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refused)
    assert len(load_task("modular", CONFIG, cache_dir=str(tmp_path))["train"]) == 265
    assert len(load_task("modular", CONFIG, cache_dir=str(tmp_path))["train"]) == 265


def test_configurations_do_not_wait_for_each_other(tmp_path):
    with cache.lock_of(tmp_path / "modular" / CONFIG / "1.0.0"):
        other = threading.Thread(target=load_task, args=("modular", "sub_p23_f0.5_s0"), kwargs={"cache_dir": str(tmp_path)})
        other.start()
        other.join(60)
        assert not other.is_alive()


def test_a_stream_and_a_builder_take_the_lock_too(tmp_path):
    folder = tmp_path / "modular" / CONFIG / "1.0.0"
    for call in (
        lambda: task_builder("modular", CONFIG, cache_dir=str(tmp_path)),
        lambda: load_task("modular", CONFIG, cache_dir=str(tmp_path), streaming=True),
    ):
        with cache.lock_of(folder):
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(0.5)
            assert thread.is_alive()
        thread.join(60)
        assert not thread.is_alive()
    assert not folder.exists()


def test_the_lock_costs_a_load_from_the_cache_little(tmp_path, monkeypatch):
    # Against the same load without a lock, in turns, so that a busy machine slows both. It is about 0.2 ms.
    load_task("modular", CONFIG, cache_dir=str(tmp_path))
    folder, seconds = folder_of(tmp_path), []
    for _ in range(50):
        began = time.perf_counter()
        with cache.lock_of(folder):
            pass
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.002
