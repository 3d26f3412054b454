"""Jobs: which runs may share their steps, and what happens to a run that fails."""

import threading
from pathlib import Path

import pytest

from hf_radial.comparison import jobs
from hf_radial.comparison.jobs import Job, jobs_of, run_all
from hf_radial.comparison.outcome import ATTEMPTS, FAILED_FILE, RESULT_FILE, outcome, write_json
from hf_radial.comparison.trials import Cell


def runs(**changes):
    return [(Path(f"run-{i}"), {"seed": i, "learning_rate": 0.01 * (i + 1), **changes}) for i in range(5)]


def names(made):
    return sorted(sorted(folder.name for folder, _ in job.runs) for job in made)


def test_runs_that_differ_in_numbers_of_the_optimizer_alone_share_their_steps():
    made = jobs_of(runs(), 3)
    assert sorted(len(job.runs) for job in made) == [2, 3]
    assert sorted(name for part in names(made) for name in part) == [f"run-{i}" for i in range(5)]


@pytest.mark.parametrize(
    "changes", [{"model": "transformer"}, {"interventions": ["stablemax"]}, {"interventions": ["layer_norm:affine=true"]}]
)
def test_other_runs_are_made_alone(changes):
    assert names(jobs_of(runs(**changes), 3)) == [[f"run-{i}"] for i in range(5)]


def test_runs_that_differ_in_the_strength_of_the_penalty_share_their_steps_and_others_do_not():
    radial = [
        (Path(f"run-{i}"), {"seed": i, "split_by_seed": True, "interventions": [f"radial:strength={i},radius=initial"]})
        for i in range(3)
    ]
    norm = [(Path("norm"), {"seed": 0, "split_by_seed": True, "interventions": ["layer_norm"]})]
    assert names(jobs_of([*radial, *norm], 8)) == [["norm"], ["run-0", "run-1", "run-2"]]


def test_runs_that_differ_in_where_and_how_the_penalty_acts_share_their_steps_but_not_in_its_schedule():
    texts = [
        "radial:strength=1,radius=2*initial,side=below,sites=hidden.1",
        "radial:strength=0.5",
        "logit_temperature:temperature=2",
        "radial:strength=1,warmup_steps=9",
        "radial:strength=2,warmup_steps=9",
    ]
    runs = [(Path(f"run-{i}"), {"seed": 0, "split_by_seed": True, "interventions": [text]}) for i, text in enumerate(texts)]
    own = ["embedding_rate:ratio=3", "initial_scale:factor=0.5", "radial:strength=1"]
    runs.append((Path("run-5"), {"seed": 0, "split_by_seed": True, "interventions": own}))
    assert sorted(names(jobs_of(runs, 8))) == [["run-0", "run-1", "run-2", "run-5"], ["run-3", "run-4"]]


def test_runs_of_other_shapes_are_not_put_together():
    mixed = [*runs(), (Path("wide"), {"seed": 0, "width": 64})]
    assert ["wide"] in names(jobs_of(mixed, 10))


def test_a_run_that_fails_is_made_again_and_then_left(tmp_path, monkeypatch):
    made = []

    def fails_once(folder, options):
        made.append(folder.name)
        if options["seed"] == 1 or made.count(folder.name) == 1:
            raise RuntimeError("boom")
        write_json(folder / RESULT_FILE, {"status": "censored"})

    monkeypatch.setattr(jobs, "make_run", fails_once)
    cells = [Cell("", "AdamW", "judged", {}, {"seed": seed}) for seed in (0, 1)]

    def runner(todo):
        for job in todo:
            job.make()
            yield job

    run_all(cells, tmp_path, runner, "test")
    first, second = (cell.folder(tmp_path) for cell in cells)
    assert outcome(first)["status"] == "censored" and outcome(second)["attempts"] == ATTEMPTS
    assert made.count(first.name) == 2 and made.count(second.name) == ATTEMPTS


def test_a_run_that_is_done_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "make_run", lambda folder, options: pytest.fail("made again"))
    write_json(tmp_path / RESULT_FILE, {"status": "solved"})
    Job([(tmp_path, {"seed": 0})]).make()


def test_two_comparisons_that_share_a_folder_make_each_run_once(tmp_path, monkeypatch):
    made, others = [], []
    shared = [(tmp_path / name, {"seed": seed}) for seed, name in enumerate("ab")]

    def make(folder, options):
        made.append(folder.name)
        if not others:  # another comparison begins while this run is being made
            others.append(threading.Thread(target=Job(shared[::-1]).make))
            others[0].start()
            others[0].join(0.5)
        write_json(folder / RESULT_FILE, {"status": "solved"})

    monkeypatch.setattr(jobs, "make_run", make)
    monkeypatch.setattr(jobs, "make_runs", lambda runs: make(*runs[0]) or make(*runs[1]))
    Job(shared).make()
    others[0].join(60)
    assert not others[0].is_alive() and sorted(made) == ["a", "b"]


def test_a_failure_that_another_comparison_deletes_at_this_moment_is_no_error(tmp_path, monkeypatch):
    write_json(tmp_path / FAILED_FILE, {"status": "failed", "attempts": ATTEMPTS})
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    (tmp_path / FAILED_FILE).unlink()
    assert outcome(tmp_path) is None
