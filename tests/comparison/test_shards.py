"""Shards of a grid: processes that share only a folder make every run once, and those of a shard that is killed."""

import json
import signal
import time
from pathlib import Path

import pytest
import yaml
from warm import WarmProcess

from hf_radial.comparison import jobs, shards
from hf_radial.comparison.grid import Arm, Grid, Tuning
from hf_radial.comparison.jobs import LOCK_FILE, Job, TuningJob, run_all
from hf_radial.comparison.outcome import FAILED_FILE, RESULT_FILE, write_json
from hf_radial.comparison.shards import Claim, locks_of, read_shard, shared
from hf_radial.comparison.trials import Cell
from hf_radial.comparison.workers import in_this_process
from hf_radial.safe_files import locked_if_free

ROOT = Path(__file__).parents[2]
BASE = {"task": "modular", "fields": {"operation": "add", "p": 11}, "train_fraction": 0.6, "width": 16, "embedding_size": 8}


def start(folder, grid, number):
    script = ROOT / "recipes" / "compare.py"
    words = ["--runs", folder / "runs", "--results", folder / f"out{number}", "--jobs", "0", "--shard", f"{number}/2"]
    return WarmProcess(script, grid, *words, stderr=(folder / f"{number}.log").open("w"))


def wait_for(condition, *processes):
    """Until the condition holds. It is not asked again then: its answer may be another one a moment later."""
    deadline = time.time() + 300
    while not condition():
        codes = [one.poll() for one in processes]
        assert time.time() < deadline and set(codes) == {None}, f"not in time; exit codes of the processes: {codes}"
        time.sleep(0.02)


def stop(process):
    """Stop a process, and wait until each of its threads stands still: a signal may take a while on a busy machine."""
    process.send_signal(signal.SIGSTOP)
    while process.poll() is None:
        states = [file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{process.pid}/task").glob("*/stat")]
        if set(states) == {"T"}:
            return
        time.sleep(0.002)


def test_two_processes_share_a_grid_and_one_makes_what_the_other_was_killed_in(tmp_path):
    arms = {"AdamW": {}, "dropout": {"options": {"interventions": ["dropout:p=0.1"]}}}
    tuning = {"trials": 2, "seeds": [9], "common": {"weight_decay": {"log": [0.1, 1.0]}}}
    # A shard looks once a second for what it may make: runs that are shorter could be over before both are in one.
    base = {**BASE, "epochs": 1500, "evaluate_every": 500}
    grid = tmp_path / "compare_tiny.yaml"
    grid.write_text(yaml.safe_dump({"title": "Tiny", "base": base, "arms": arms, "seeds": [0, 1, 2], "tuning": tuning}))
    both = [start(tmp_path, grid, number) for number in (1, 2)]
    runs = tmp_path / "runs"

    def going_on():
        return [file.parent for file in runs.glob("*/run.json") if not (file.parent / RESULT_FILE).exists()]

    def both_are_in_a_judged_run():
        """Asked while both stand still, so that the answer still holds when one of them is killed."""
        for process in both:
            stop(process)
        if len(list(runs.glob(f"*/{RESULT_FILE}"))) >= 4 and len(going_on()) == 2:
            return True
        for process in both:
            process.send_signal(signal.SIGCONT)
        return False

    wait_for(both_are_in_a_judged_run, *both)
    both[0].kill()
    assert both[0].wait() == -signal.SIGKILL
    both[1].send_signal(signal.SIGCONT)
    assert both[1].wait(timeout=300) == 0, (tmp_path / "2.log").read_text()
    data = json.loads((tmp_path / "out2" / "tiny.json").read_text())
    assert data["missing"] == 0 and len(data["rows"]) == 2 * (2 + 3)
    assert {row["status"] for row in data["rows"]} <= {"solved", "censored"}
    assert not list(runs.glob(f"*/{FAILED_FILE}"))  # being killed is no failure of the run

    made = {file: file.stat().st_mtime_ns for file in runs.glob(f"*/{RESULT_FILE}")}
    again = start(tmp_path, grid, 1)  # the killed shard, started again: nothing is left to make, and it writes the tables
    assert again.wait(timeout=300) == 0
    assert {file: file.stat().st_mtime_ns for file in made} == made
    assert json.loads((tmp_path / "out1" / "tiny.json").read_text())["rows"] == data["rows"]


def cells(count):
    return [Cell("", "AdamW", "judged", {}, {"seed": seed}) for seed in range(count)]


def test_each_shard_begins_at_its_own_place_and_makes_the_rest_if_nobody_does(tmp_path, monkeypatch):
    made = []

    def make(folder, options):
        made.append(options["seed"])
        write_json(folder / RESULT_FILE, {"status": "solved"})

    monkeypatch.setattr(jobs, "make_run", make)
    run_all(cells(6), tmp_path, shared(in_this_process, (2, 3)), "test")
    assert made == [2, 3, 4, 5, 0, 1]


def test_what_another_shard_makes_is_left_to_it_and_waited_for(tmp_path, monkeypatch):
    made, waits = [], []
    taken = cells(2)[0].folder(tmp_path)

    def make(folder, options):
        made.append(options["seed"])
        write_json(folder / RESULT_FILE, {"status": "solved"})

    def other_ends(seconds):
        waits.append(seconds)
        write_json(taken / RESULT_FILE, {"status": "censored"})

    monkeypatch.setattr(jobs, "make_run", make)
    monkeypatch.setattr(shards, "locked_if_free", lambda file: _Lock(file.parent != taken))
    monkeypatch.setattr(shards.time, "sleep", other_ends)
    run_all(cells(2), tmp_path, shared(in_this_process, (1, 1)), "test")
    assert made == [1] and waits == [shards.PAUSE]


class _Lock:
    def __init__(self, free):
        self.free = free

    def __enter__(self):
        return self.free

    def __exit__(self, *error):
        return None


def test_the_locks_of_a_job_are_those_that_its_runs_take(tmp_path):
    job = Job([(tmp_path / name, {"seed": 0}) for name in "ba"])
    assert locks_of(job) == [tmp_path / "a" / LOCK_FILE, tmp_path / "b" / LOCK_FILE]
    grid = Grid("x", "", "", {}, ({},), (Arm("a"), Arm("b")), (0,), Tuning(1, (9,), {}), "a")
    locks = {name: locks_of(TuningJob(grid, {}, Arm(name), tmp_path)) for name in "ab"}
    assert locks["a"] != locks["b"] and locks["a"] == locks_of(TuningJob(grid, {}, Arm("a"), tmp_path))


def test_a_lock_that_is_free_is_held_and_may_be_taken_again_by_its_holder(tmp_path):
    with locked_if_free(tmp_path / ".lock") as first, locked_if_free(tmp_path / ".lock") as second:
        assert first and second
    import subprocess
    import sys

    code = "import sys, time; from hf_radial.safe_files import locked_if_free\n"
    code += "with locked_if_free(sys.argv[1]) as free:\n    print(free, flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "True\n"
        with locked_if_free(tmp_path / ".lock") as free:
            assert not free
        assert Claim(Job([(tmp_path, {"seed": 0})])).undone() == []
        other.stdin.close()
        other.wait(60)
    with locked_if_free(tmp_path / ".lock") as free:
        assert free
    assert Claim(Job([(tmp_path, {"seed": 0})])).undone() == [(tmp_path, {"seed": 0})]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2"])
def test_a_wrong_shard_is_named(text):
    with pytest.raises(ValueError, match=rf"--shard {text} must be I/N"):
        read_shard(text)
