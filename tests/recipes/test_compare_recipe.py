"""recipes/compare.py from the command line: runs, failures, a killed worker and resuming; no run is lost."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from warm import WarmProcess, run_python

from hf_radial.comparison.run import make_run
from recipes.compare import main

ROOT = Path(__file__).parents[2]
BASE = {
    "task": "modular",
    "fields": {"operation": "add", "p": 11},
    "train_fraction": 0.6,
    "width": 16,
    "embedding_size": 8,
    "epochs": 4,
    "evaluate_every": 1,
}


def write_grid(folder, **changes):
    file = folder / "compare_tiny.yaml"
    file.write_text(yaml.safe_dump({"title": "Tiny", "base": BASE, "arms": {"AdamW": {}}, "seeds": [0, 1], **changes}))
    return file


def command(grid, folder, *words):
    script = ROOT / "recipes" / "compare.py"
    return [str(script), str(grid), "--runs", str(folder / "runs"), "--results", str(folder / "out"), *words]


def compare(grid, folder, *words):
    """In one process unless `--jobs` says otherwise: the workers of a pool import torch anew."""
    return run_python(*command(grid, folder, "--jobs", "0", *words))


def data(folder):
    return json.loads((folder / "out" / "tiny.json").read_text())


def test_a_grid_is_run_judged_and_gone_on_with(tmp_path):
    tuning = {"trials": 2, "seeds": [9], "common": {"weight_decay": {"log": [0.1, 1.0]}}}
    grid = write_grid(tmp_path, arms={"AdamW": {}, "penalty": {"options": {"radial_lambda": 0.05}}}, tuning=tuning)
    done = compare(grid, tmp_path, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    rows = data(tmp_path)["rows"]
    assert sorted((row["arm"], row["stage"]) for row in rows) == sorted(
        [(arm, stage) for arm in ("AdamW", "penalty") for stage in ("tuning", "judged") for _ in range(2)]
    )
    assert {row["status"] for row in rows} == {"censored"} and data(tmp_path)["missing"] == 0
    for row in rows:  # what a run was is there before what became of it
        record = json.loads((tmp_path / "runs" / row["run"] / "run.json").read_text())
        assert record["facts"]["comparison"]["seed"] == row["seed"]
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {".json", ".md", ".tex", ".parquet", ".png"}

    results = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*/result.json")}
    removed = next(iter(results))
    removed.unlink()
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    refused = compare(grid, tmp_path, "--table")
    assert refused.returncode == 1 and "rows in" in refused.stderr and "give --pages" in refused.stderr
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert compare(grid, tmp_path, "--table", "--results", str(tmp_path / "elsewhere")).returncode == 0
    assert json.loads((tmp_path / "elsewhere" / "tiny.json").read_text())["missing"] > 0
    assert compare(grid, tmp_path).returncode == 0
    again = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*/result.json")}
    assert again.keys() == results.keys()
    assert [file for file in results if again[file] != results[file]] == [removed]
    assert data(tmp_path)["rows"] and data(tmp_path)["missing"] == 0


def test_a_run_that_fails_is_tried_again_and_counted(tmp_path):
    broken = {**BASE, "fields": {"operation": "add", "p": 11, "validation_fraction": 0}, "train_fraction": None}
    grid = write_grid(tmp_path, base=broken, seeds=[0])
    done = compare(grid, tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = data(tmp_path)["rows"]
    assert row["status"] == "failed" and "no validation split" in row["failure"] and row["attempts"] == 2
    assert "0 of 1, 1 FAILED" in (tmp_path / "out" / "tiny.md").read_text()


def test_a_worker_that_is_killed_costs_its_run_one_attempt_and_the_grid_nothing(tmp_path):
    grid = write_grid(tmp_path, base={**BASE, "epochs": 600}, seeds=[0, 1])
    process = WarmProcess(*command(grid, tmp_path, "--jobs", "1"))
    deadline = time.time() + 600
    killed = False
    while time.time() < deadline and not killed:
        for file in (tmp_path / "runs").glob("*/run.json"):
            if not (file.parent / "result.json").exists():
                for worker in _children(process.pid):
                    os.kill(worker, signal.SIGKILL)
                    killed = True
        time.sleep(0.05)
    assert killed
    assert process.wait(timeout=600) == 0
    rows = data(tmp_path)["rows"]
    assert len(rows) == 2 and {row["status"] for row in rows} <= {"solved", "censored"}
    assert len(list((tmp_path / "runs").glob("*/failed.json"))) <= 1


def test_runs_that_share_their_steps_are_those_that_are_made_alone(tmp_path):
    """An MLP that solves its task; rounding differs, so that of a trajectory only what rounding leaves is the same."""
    easy = {
        **BASE,
        "train_fraction": 0.8,
        "width": 64,
        "embedding_size": 32,
        "learning_rate": 0.01,
        "epochs": 30,
        "solved_at": 0.5,
    }
    arms = {
        "AdamW": {},
        "penalty": {"options": {"radial_lambda": 0.05}},
        "dropout": {"options": {"interventions": ["dropout:p=0.1"]}},
    }
    grid = write_grid(tmp_path, base=easy, arms=arms, axes={"weight_decay": [0.1, 1.0]})
    found = {}
    for together in ("1", "3"):
        folder = tmp_path / together
        done = compare(grid, folder, "--together", together)
        assert done.returncode == 0, done.stderr
        found[together] = data(folder)["rows"]
        assert data(folder)["missing"] == 0 and len(found[together]) == 12
    for alone, shared in zip(found["1"], found["3"], strict=True):
        assert (alone["run"], alone["status"], alone["fit"]) == (shared["run"], shared["status"], shared["fit"])
        assert "together" not in alone
        assert shared.get("together") == (None if alone["arm"] == "dropout" else 2)  # 4 alike, at most 3 at once: 2 and 2
        assert (shared["last_seconds"] is None) is (alone["arm"] != "dropout")
        assert [value for _, value in alone["curve"][:6]] == pytest.approx([v for _, v in shared["curve"][:6]], abs=0.05)


def test_a_run_that_breaks_what_it_shares_is_made_alone(tmp_path):
    """A learning rate at which a loss is no number any more: its run fails, the other's result stays."""
    arms = {"AdamW": {}, "broken": {"options": {"learning_rate": 1e38}}}
    grid = write_grid(tmp_path, arms=arms, seeds=[0])
    done = compare(grid, tmp_path, "--together", "2")
    assert done.returncode == 0, done.stderr
    rows = {row["arm"]: row for row in data(tmp_path)["rows"]}
    assert rows["AdamW"]["status"] == "censored" and rows["AdamW"]["together"] == 2
    assert rows["broken"]["status"] in ("failed", "censored") and rows["broken"].get("attempts", 2) == 2


def test_workers_end_with_the_process_that_started_them(tmp_path):
    grid = write_grid(tmp_path, base={**BASE, "epochs": 100_000}, seeds=[0, 1])
    process = WarmProcess(*command(grid, tmp_path, "--jobs", "2"))
    deadline = time.time() + 600
    while time.time() < deadline and len(list((tmp_path / "runs").glob("*/run.json"))) < 2:
        time.sleep(0.1)
    workers = [psutil.Process(pid) for pid in _children(process.pid)]
    assert len(workers) == 2
    process.kill()
    process.wait()
    assert not psutil.wait_procs(workers, timeout=300)[1]


def here(grid, folder, *words):
    return main([str(grid), "--jobs", "0", "--runs", str(folder / "runs"), "--results", str(folder / "out"), *words])


def test_a_paired_design_is_run_in_this_process_and_gone_on_with(tmp_path):
    paired = {"draws": 3, "common": {"learning_rate": {"log": [1e-3, 0.1]}, "warmup_steps": {"choices": [0, 9]}}}
    arms = {"AdamW": {}, "LayerNorm": {"options": {"interventions": ["layer_norm"]}}}
    file = write_grid(tmp_path, arms=arms, seeds=None, design="paired", paired={**paired, "also_against": ["LayerNorm"]})
    page = here(file, tmp_path, "--together", "2").read_text()
    rows = data(tmp_path)["rows"]
    assert len(rows) == 6 and data(tmp_path)["missing"] == 0 and {row["stage"] for row in rows} == {"paired"}
    assert all({"replicate", "drawn", "curve"} <= set(row) for row in rows)
    assert "| AdamW | 0 of 3 | 100% | 4 |" in page and "against LayerNorm" in page
    (tmp_path / "runs" / rows[0]["run"] / "result.json").unlink()
    with pytest.raises(ValueError, match=r"runs for 5 of the 6 rows in .*tiny.json, so nothing was written"):
        here(file, tmp_path, "--table")
    (tmp_path / "out" / "tiny.json").unlink()
    here(file, tmp_path, "--table")
    assert data(tmp_path)["missing"] == 1
    here(file, tmp_path)
    assert data(tmp_path)["missing"] == 0


def test_replicates_are_tuned_and_judged_each_with_seeds_of_its_own(tmp_path):
    tuning = {"trials": 2, "seeds": [9], "finalist_seeds": [8], "common": {"weight_decay": {"log": [0.1, 1.0]}}}
    file = write_grid(
        tmp_path, arms={"AdamW": {}, "penalty": {"options": {"radial_lambda": 0.05}}}, tuning=tuning, replicates=2
    )
    page = here(file, tmp_path, "--together", "4").read_text()
    rows = data(tmp_path)["rows"]
    judged = [row for row in rows if row["stage"] == "judged"]
    assert data(tmp_path)["missing"] == 0 and len(judged) == 2 * 2 * 2
    assert {(row["replicate"], row["seed"]) for row in judged} == {(0, 0), (0, 1), (1, 1000), (1, 1001)}
    assert "| AdamW | 100% of 4 | 4 | 4, 4 |" in page


@pytest.mark.parametrize("evaluations", [1, 3])
def test_a_run_that_goes_on_is_judged_as_one_that_ends(tmp_path, evaluations):
    rows = {"bits": 10, "k": 2, "train_size": 400, "validation_size": 200, "test_size": 200}
    options = {"task": "sparse_parity", "fields": rows, "width": 32, "embedding_size": 4, "learning_rate": 0.01}
    options |= {"batch_size": 50, "epochs": 30, "evaluate_every": 1, "solved_evaluations": evaluations}
    ended = make_run(tmp_path / "ended", {**options})
    whole = make_run(tmp_path / "whole", {**options, "stop": False})
    assert ended["status"] == whole["status"] == "solved" and ended["last"] < whole["last"] == 30
    for key in ("fit", "onset", "onset_steps", "onset_99"):
        assert ended[key] == whole[key], key
    assert whole["curve"][: len(ended["curve"])] == ended["curve"]


def _children(pid):
    """The workers: children of the process that has imported everything, a child of the comparison."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for server in psutil.Process(pid).children():
            if "forkserver" in " ".join(server.cmdline()):
                found += [worker.pid for worker in server.children()]
    return found


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"learning_rat": 1}, "learning_rat"),
        ({"interventions": ["grokfst_ema"]}, "grokfast_ema"),
        ({"model": "cnn"}, "model='cnn'"),
    ],
)
def test_bad_options_are_named_before_anything_is_trained(tmp_path, base, message):
    done = compare(write_grid(tmp_path, base={**BASE, **base}), tmp_path)
    assert done.returncode != 0 and message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_texts_are_learned_by_a_language_model(tmp_path):
    digits = {"operation": "add", "digits": 1, "zero_pad": True, "train_size": 60, "validation_size": 20, "test_size": 20}
    base = {**BASE, "task": "digits", "fields": digits, "train_fraction": None, "model": "transformer", "heads": 2}
    base |= {"width": 32, "epochs": 140, "evaluate_every": 20, "learning_rate": 3e-3, "weight_decay": 0.0, "batch_size": 20}
    grid = write_grid(tmp_path, base=base, seeds=[0], arms={"AdamW": {}, "penalty": {"options": {"radial_lambda": 0.01}}})
    done = compare(grid, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = data(tmp_path)["rows"]
    assert [row["status"] for row in rows if row["status"] == "failed"] == []
    assert all(row["fit"] is not None for row in rows)  # sixty sums are soon known by heart

    grid = write_grid(tmp_path, base={**base, "model": "mlp"}, seeds=[0])
    assert compare(grid, tmp_path).returncode == 0
    assert "which model='mlp' cannot read" in data(tmp_path)["rows"][0]["failure"]


def test_an_arm_follows_the_run_of_another_on_the_same_seed_also_when_it_is_made_again(tmp_path):
    arms = {
        "held": {
            "options": {
                "follows": "penalty",
                "interventions": ["replay:what=weight_norm,file={followed}/trajectory.json", "record"],
            }
        },
        "penalty": {"options": {"interventions": ["radial:strength=0.05", "record"]}},
    }
    grid = write_grid(tmp_path, arms=arms)
    done = compare(grid, tmp_path)
    assert done.returncode == 0, done.stderr
    runs = {(row["arm"], row["seed"]): row["run"] for row in data(tmp_path)["rows"]}
    assert len(set(runs.values())) == 4
    norms = {
        key: [row["weight_norm"] for row in json.loads((tmp_path / "runs" / run / "trajectory.json").read_text())]
        for key, run in runs.items()
    }
    for seed in (0, 1):
        assert norms["held", seed] == pytest.approx(norms["penalty", seed], rel=1e-6)
    assert norms["penalty", 0] != pytest.approx(norms["penalty", 1], rel=1e-3)

    committed = (tmp_path / "out" / "tiny.json").read_bytes()
    done = compare(grid, tmp_path, "--again", "held", "seed 1")
    assert done.returncode == 0, done.stderr
    assert {folder.name for folder in (tmp_path / "runs" / "again").iterdir()} == {runs["held", 1], runs["penalty", 1]}
    (row,) = [row for row in data(tmp_path)["rows"] if row["run"] == runs["held", 1]]
    now = json.loads((tmp_path / "runs" / "again" / row["run"] / "result.json").read_text())
    assert now["curve"] == row["curve"] and f"| held, seed 1 | censored | {row['held_out']} | censored |" in done.stdout
    assert (tmp_path / "out" / "tiny.json").read_bytes() == committed
    with pytest.raises(ValueError, match="no judged run has all of these words; the first is"):
        main(command(grid, tmp_path, "--again", "nobody")[1:])


def test_an_arm_cannot_follow_what_is_not_there(tmp_path):
    done = compare(write_grid(tmp_path, arms={"AdamW": {}, "held": {"options": {"follows": "penalty"}}}), tmp_path)
    assert done.returncode != 0 and "follows='penalty' must name an arm" in done.stderr


@pytest.fixture
def ray_cluster(monkeypatch):
    """Two machines of one core each, as far as Ray can tell."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # workers give way to all other processes by default, for minutes
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def _name(process):
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def test_a_ray_cluster_runs_the_same_grid_and_outlives_a_worker_that_is_killed(tmp_path, ray_cluster):
    grid = write_grid(tmp_path, base={**BASE, "epochs": 800}, seeds=[0, 1, 2])
    said = (tmp_path / "said.txt").open("w+")
    process = WarmProcess(*command(grid, tmp_path, "--ray", ray_cluster.address), stdout=said, stderr=said)
    deadline, killed = time.time() + 600, None
    while time.time() < deadline and killed is None and process.poll() is None:
        for file in (tmp_path / "runs").glob("*/run.json"):
            workers = [p for p in psutil.Process().children(recursive=True) if _name(p).startswith("ray::made_by_ray")]
            if workers and not (file.parent / "result.json").exists():
                killed = workers[0].pid
                os.kill(killed, signal.SIGKILL)
                break
        time.sleep(0.05)
    status = process.wait(timeout=600)
    said.seek(0)
    output = said.read()
    assert status == 0 and killed is not None, output
    rows = data(tmp_path)["rows"]
    assert len(rows) == 3 and {row["status"] for row in rows} <= {"solved", "censored"}
    assert data(tmp_path)["missing"] == 0

    # The same grid, without Ray, finds every run done, with the same numbers as one made here.
    folder = tmp_path / "runs" / rows[0]["run"]
    (folder / "result.json").unlink()
    assert compare(grid, tmp_path).returncode == 0
    here = data(tmp_path)["rows"][0]
    assert {name: here[name] for name in ("onset", "last", "curve")} == {
        name: rows[0][name] for name in ("onset", "last", "curve")
    }
