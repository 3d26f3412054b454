"""Files that several processes write: readers find complete files, no change is lost, and no two processes take one folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hf_radial import safe_files
from hf_radial.runs.start import choose_run_folder
from hf_radial.safe_files import new_folder, replacing, write_bytes, write_text


def test_a_file_keeps_its_content_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "below" / "run.json"
    write_text(file, "old")
    with replacing(file) as new:
        new.write_text("half of")
        assert file.read_text() == "old" and new.parent == file.parent and new.name.startswith(".")
        new.write_text("new")
    assert file.read_text() == "new" and list(file.parent.iterdir()) == [file]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "run.json"
    write_text(file, "old")
    with pytest.raises(RuntimeError, match="full"), replacing(file) as new:
        new.write_text("half of")
        raise RuntimeError("full")
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_new_file_gets_the_rights_of_any_new_file(tmp_path):
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link_and_a_pipe_is_written_to(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    seen = []
    reader = threading.Thread(target=lambda: seen.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "new")
    reader.join(60)
    assert seen == ["new"] and sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


def test_the_package_writes_no_file_in_place():
    # Whatever is written in place is read half written by another process one day.
    in_place = re.compile(r"\.write_(text|bytes)\(|\bos\.(replace|rename)\(|\bopen\([^)]*[\"'][wx]b?[\"']")
    package = Path(safe_files.__file__).parent
    found = [
        f"{file.relative_to(package)}:{number}: {line.strip()}"
        for file in sorted(package.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if in_place.search(line) and not line.lstrip().startswith(">>>") and file.name not in ("safe_files.py", "cache.py")
    ]
    assert not found, "use hf_radial.safe_files: " + "; ".join(found)


def test_readers_never_see_a_part_of_a_file(tmp_path):
    file, stop, seen = tmp_path / "run.json", threading.Event(), set()
    texts = [json.dumps([i] * 50_000) for i in range(4)]
    write_text(file, texts[0])

    def write(text):
        while not stop.is_set():
            write_text(file, text)

    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for writer in writers:
        writer.start()
    for _ in range(300):
        seen.add(json.loads(file.read_text())[0])
    stop.set()
    for writer in writers:
        writer.join()
    assert len(seen) > 1 and list(tmp_path.iterdir()) == [file]


def side_by_side(code, *arguments):
    """What processes print that run `code` and begin at the same moment."""
    code = "import sys; from hf_radial.safe_files import *; print('ready', flush=True); sys.stdin.readline()\n" + code
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate(timeout=600)[0].split() for process in processes]


def test_under_a_lock_no_change_is_lost(tmp_path):
    file = tmp_path / "count"
    write_text(file, "0")
    code = """
for _ in range(100):
    with locked(sys.argv[2], "counts"):
        write_text(sys.argv[1], str(int(Path(sys.argv[1]).read_text()) + 1))
"""
    side_by_side(code, file, tmp_path / ".lock")
    assert file.read_text() == "300"


def test_no_two_processes_take_one_new_folder(tmp_path):
    code = "print(*(new_folder(sys.argv[1]).name for _ in range(100)))"
    names = [name for printed in side_by_side(code, tmp_path / "runs" / "addition_cpu") for name in printed]
    assert len(names) == 300 and set(names) == {"addition_cpu"} | {f"addition_cpu-{number}" for number in range(2, 301)}


def test_a_chosen_folder_is_taken_at_once_and_what_is_there_is_left_alone(tmp_path):
    default = str(tmp_path / "runs" / "addition_cpu")
    first = choose_run_folder("", False, default)
    assert first == Path(default) and first.is_dir()
    Path(f"{default}-2").write_text("a file of the user")
    assert choose_run_folder("", False, default) == Path(f"{default}-3")
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    with pytest.raises(FileExistsError):
        new_folder(tmp_path / "link" / "addition_cpu")
