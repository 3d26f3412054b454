"""recipes/addition_size.py: runs survive SIGKILL, rows hold all results, and the page is made only from the rows."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from warm import WarmProcess, kill_at_a_checkpoint

from hf_radial import RadialTrainer
from hf_radial.comparison import sizes
from hf_radial.comparison.sizes_page import page, search_page
from hf_radial.training.precision import time_precisions
from recipes import addition, cards
from recipes import addition_size as recipe

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "addition_size.py"
TOY = "--digits 2 --train_size 64 --validation_size 20 --test_size 50 --layers 1 --width 32 --heads 4 --logging_steps 3"
COMMITTED = ROOT / "recipes" / "results" / "addition_nanogpt_cpu"


def words_for(folder, *words, steps=6):
    places = ["--runs", str(folder / "runs"), "--results", str(folder / "results")]
    some = ["--arms", "no penalty", "paper", "--sizes", "0.4M", "--seeds", "0"]
    toy = [*TOY.split(), "--max_steps", str(steps), "--eval_steps", "3", "--save_steps", "3"]
    return [*places, *some, *toy, *words]


def rows_of(folder, preset="addition_nanogpt_cpu"):
    return {file.stem: json.loads(file.read_text()) for file in (folder / "results" / preset / "rows").glob("*.json")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    recipe.main(words_for(folder, steps=30))
    return folder


def test_each_run_leaves_a_row_from_which_it_can_be_made_again(whole):
    rows = rows_of(whole)
    assert set(rows) == {"0.4M_no-penalty_seed0", "0.4M_paper_seed0"}
    for row in rows.values():
        assert row["status"] == "censored" and row["onset"] is None and row["last_step"] == 30
        assert row["curves"]["step"] == list(range(3, 31, 3)) and len(row["curves"]["held_out_exact_match"]) == 10
        assert row["last_cpu_seconds"] > 0 and row["test_problems"] == 50
        run = row["run"]
        assert run["environment"]["versions"]["torch"] and run["environment"]["machine"]["device"]
        assert run["facts"]["train_size"] == 64 and run["training_args"]["seed"] == row["seed"] == run["facts"]["task_seed"]
        assert run["training_args"]["bf16"] == (row["precision"]["precision"] == "bfloat16")
    none, paper = (rows[f"0.4M_{name}_seed0"]["run"] for name in ("no-penalty", "paper"))
    assert {"radial_lambda"} == {
        name
        for name in none["training_args"]
        if none["training_args"][name] != paper["training_args"].get(name) and "dir" not in name
    }
    assert paper["radial"]["variant"] == "paper" and paper["radial"]["radial_lambda"] == 0.01


def test_a_run_is_made_again_beside_its_row(whole, capsys):
    before = {file: file.read_bytes() for file in (whole / "results").rglob("*") if file.is_file()}
    capsys.readouterr()
    recipe.main(words_for(whole, "--again", steps=30))
    told = capsys.readouterr().out
    for arm in ("no penalty", "paper"):
        assert f"0.4M, {arm}, seed 0: held-out exact match is the same until step 30" in told
    row = rows_of(whole)["0.4M_paper_seed0"]
    assert f"| test_exact_match | {row['test_exact_match']} | {row['test_exact_match']} |" in told
    assert {file: file.read_bytes() for file in before} == before
    with pytest.raises(ValueError, match="--again: there is no row"):
        recipe.main(words_for(whole / "elsewhere", "--again"))
    with pytest.raises(ValueError, match="--bf16 is measured"):
        recipe.main(words_for(whole, "--bf16", "true"))


def test_every_arm_sees_the_same_batches_in_the_same_order(tmp_path, monkeypatch):
    seen, step = {}, RadialTrainer.training_step

    def training_step(self, model, inputs, *rest):
        seen.setdefault(self.run_facts["arm"], []).append(inputs["input_ids"].tolist())
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(RadialTrainer, "training_step", training_step)
    toy = [*TOY.split(), "--max_steps", "8", "--eval_steps", "4", "--save_steps", "4", "--seed", "1", "--task_seed", "1"]
    penalty = ["--radial_lambda", "0.5", "--radial_radius", "initial"]
    words = ["--preset", "addition_nanogpt_cpu", "--arms", "none", "paper", "penalty", *toy, *penalty]
    addition.main([*words, "--output_dir", str(tmp_path)])
    assert set(seen) == {"none", "paper", "penalty"} and len(seen["none"]) == 8
    assert seen["none"] == seen["paper"] == seen["penalty"] and seen["none"][0] != seen["none"][1]


def test_a_run_can_have_its_card_among_the_committed_ones(whole, tmp_path):
    folder = whole / "runs" / "addition_nanogpt_cpu" / "0.4M_paper_seed0" / "paper"
    places = ["--cards", str(tmp_path / "cards"), "--data", str(tmp_path / "data")]
    cards.main(["--of", str(folder), "--name", "small", *places])
    card, data = (tmp_path / "cards" / "small.md").read_text(), (tmp_path / "data" / "small.json").read_text()
    assert 'from_pretrained("ORG/small")' in card and "of 50 held-out problems" in card and "arm **paper**" in card
    assert str(whole) not in data
    with pytest.raises(ValueError, match=re.escape("run.json is missing")):
        cards.main(["--of", str(folder / "runs"), "--name", "small", *places])


def test_what_is_not_yet_run_stands_on_the_page(whole):
    page = (whole / "results" / "addition_nanogpt_cpu" / "addition_nanogpt_cpu.md").read_text()
    assert "- Not yet run: 0.4M, paper, 2 of 3 seeds." in page and "- Not yet run: 10.6M, paper, warm-up, 3 of 3 seeds." in page
    assert "0.4M, paper, warm-up" not in page


def test_a_study_that_is_killed_goes_on_and_ends_with_the_same_curves(whole, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = WarmProcess(RECIPE, *words_for(tmp_path, steps=30), env=environment)
    arm = tmp_path / "runs" / "addition_nanogpt_cpu" / "0.4M_paper_seed0" / "paper"
    kill_at_a_checkpoint(process, arm)
    assert not (arm / "trainer_state.json").exists(), "the run ended before it was killed"

    recipe.main(words_for(tmp_path, "--report", steps=30))
    under_way = rows_of(tmp_path)["0.4M_paper_seed0"]
    assert under_way["status"] == "under way" and 0 < under_way["last_step"] < 30 and under_way["test_exact_match"] is None
    page = (tmp_path / "results" / "addition_nanogpt_cpu" / "addition_nanogpt_cpu.md").read_text()
    assert "Under way, and counted as not reached: 0.4M, paper, seed 0" in page

    finished = tmp_path / "results" / "addition_nanogpt_cpu" / "rows" / "0.4M_no-penalty_seed0.json"
    before = finished.stat().st_mtime_ns
    recipe.main(words_for(tmp_path, steps=30))
    assert finished.stat().st_mtime_ns == before  # a row that is there is not made again
    for name, row in rows_of(whole).items():
        again = rows_of(tmp_path)[name]
        if again["precision"]["precision"] == row["precision"]["precision"]:
            assert again["curves"] == row["curves"]
        assert again["status"] == "censored" and again["last_cpu_seconds"] > 0


def test_the_papers_own_preset_runs_its_three_seeds_end_to_end(tmp_path):
    some = ["--preset", "addition_nanogpt", "--sizes", "10.6M", "--seeds", "0", "1", "2", "--window", "32", "--use_cpu", "true"]
    batch = ["--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "100"]
    recipe.main(words_for(tmp_path, *some, "--digits", "3", *batch, steps=3))
    rows = rows_of(tmp_path, "addition_nanogpt")
    assert {(row["arm"], row["seed"]) for row in rows.values()} == {(a, s) for a in ("no penalty", "paper") for s in (0, 1, 2)}
    assert all(row["run"]["facts"]["window"] == 32 and row["run"]["facts"]["dropout"] == 0.2 for row in rows.values())
    assert "| 22,500 |" in (tmp_path / "results" / "addition_nanogpt" / "addition_nanogpt.md").read_text()


def test_growth_is_told_of_arms_that_have_the_first_size_and_the_last(whole):
    ended = list(rows_of(whole).values())
    small = [{**one, "size": "0.4M"} for one in ended]
    large = [{**one, "size": "10.6M"} for one in ended] + [{**ended[-1], "size": "10.6M", "arm": "only at the largest"}]
    told = page([*small, *large], "addition_nanogpt_cpu", [], recipe.NO_PENALTY, {})
    assert "- paper, gain from 0.4M to 10.6M:" in told and "only at the largest, gain" not in told


def row(size, arm, seed, onset, last=1000):
    return {
        "size": size,
        "arm": arm,
        "seed": seed,
        "onset": onset,
        "last_step": last,
        "parameters": {"S": 10, "L": 1000}[size],
    } | {
        "fit_step": 100,
        "held_out_at_fit": 0.2,
        "cpu_seconds": onset,
        "last_cpu_seconds": last,
        "run": {"facts": {"train_size": 500}},
    }


def made(onsets):
    return [row(size, arm, seed, onset) for (size, arm), values in onsets.items() for seed, onset in enumerate(values)]


def test_an_arm_helps_only_where_it_is_earlier_on_every_one_of_three_seeds():
    base = {("S", "none"): [800, 900, None]}
    for onsets, expected in (
        ([400, 500, 900], "helps"),
        ([400, 950, 900], "undecided (2 earlier, 1 later)"),
        ([800, 500, 600], "undecided (2 earlier, 0 later)"),
        ([400, 500], "undecided (2 earlier, 0 later)"),
        ([None, 950, None], "undecided (0 earlier, 2 later)"),  # neither got there on the last seed
    ):
        assert sizes.verdict(made({**base, ("S", "arm"): onsets}), "S", "arm", "none") == expected
    harmed = made({("S", "none"): [800, 900, 700], ("S", "arm"): [None, 950, 701]})
    assert sizes.verdict(harmed, "S", "arm", "none") == "harms"
    assert sizes.ratios(harmed, "S", "arm", "none")[0] == (0.8, "<")


def test_a_bound_that_does_not_decide_counts_for_neither_side():
    # The reference was ended at 1000, the arm at 500: nobody knows who would have been first, or the arm was not earlier.
    rows = [row("S", "none", s, 800) for s in range(3)] + [row("S", "arm", s, None, last=500) for s in range(3)]
    assert sizes.ratios(rows, "S", "arm", "none")[0] == (1.6, "<")
    assert sizes.verdict(rows, "S", "arm", "none") == "undecided (0 earlier, 0 later)"


def test_a_gain_grows_only_if_it_does_on_every_seed():
    small = {("S", "none"): [800, 800, 800], ("S", "arm"): [400, 800, 900]}
    for onsets, expected in (
        ([200, 300, 400], "grows"),
        ([700, 900, 950], "shrinks"),
        ([200, 900, 400], "undecided (larger on 2 and smaller on 1 of 3 seeds that reached 99 % in both sizes)"),
        ([200, 300, None], "undecided (larger on 2 and smaller on 0 of 2 seeds that reached 99 % in both sizes)"),
        ([200, 300], "undecided (larger on 2 and smaller on 0 of 2 seeds that reached 99 % in both sizes)"),
    ):
        rows = made({**small, ("L", "none"): [800, 800, 800], ("L", "arm"): onsets})
        assert sizes.growth(rows, "arm", "none", ["S", "L"]) == expected
    two = [row for row in made({**small, ("L", "none"): [800] * 3, ("L", "arm"): [200, 300, 400]}) if row["seed"] < 2]
    assert sizes.growth(two, "arm", "none", ["S", "L"]).startswith("undecided")  # though larger on both


def test_the_table_has_bounds_and_the_papers_figures_beside_ours(tmp_path):
    rows = made({("S", "none"): [800, None, None], ("S", "arm"): [400, 500, None]})
    lines = sizes.table(rows, "none", {("S", "none"): 22500, ("S", "arm"): 9800}).splitlines()
    cells = ["500", "none", "1 of 3", "100 / 100 / 100", "20%, 20%, 20%", "800 / > 1,000 / > 1,000", "800 / > 1,000 / > 1,000"]
    assert [cell.strip() for cell in lines[2].split("|")[2:9]] == cells
    assert "| 2.00, > 2.00, – |" in lines[3] and lines[3].endswith("| 9,800 | 2.3 |")
    assert "| – | undecided (2 earlier, 0 later) |" in lines[3]  # on seed 2 neither got there: the ratio may be anything
    early = made({("S", "none"): [800, None, None], ("S", "arm"): [400, 500, 600]})
    assert "| 2.00 or more | helps |" in sizes.table(early, "none", {})
    late = made({("S", "none"): [800, 700, 600], ("S", "arm"): [None, None, 900]})
    assert "| 0.67 or less |" in sizes.table(late, "none", {})
    sizes.draw(rows, "none", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_the_onset_at_another_level_is_read_from_the_curves():
    rows = []
    for arm, curve in (("none", [0.2, 0.6, 0.6, 0.6, 0.9]), ("arm", [0.6, 0.6, 0.6, 0.9, 0.9])):
        curves = {"step": [200, 400, 600, 800, 1000], "held_out_exact_match": curve, "train_exact_match": [1.0] * 5}
        rows.append({**row("S", arm, 0, None), "curves": curves})
    assert [one["onset"] for one in sizes.at_level(rows, 0.5)] == [400, 200]
    assert [one["onset"] for one in sizes.at_level(rows, 0.9)] == [None, None]
    assert sizes.levels_table(rows, "none", [0.5, 0.9]).splitlines()[2] == "| S | arm | 2.00 | – | 1.25 |"
    assert [one["onset"] for one in sizes.at_level(rows, 0.9, streak=1)] == [1000, 800]
    solved = {**rows[1], "onset": 600, "cpu_seconds": 600.0}
    short = sizes.short_table([rows[0], solved], "S", "none", {("S", "arm"): 9})
    assert short.splitlines()[3] == "| arm | 600 | > 1,000 | 600 | undecided (1 earlier, 0 later) | 9 |"


def test_timing_leaves_model_and_random_state_as_they_were():
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, x):
            loss = self.dropout(self.layer(x)).pow(2).sum()
            return type("Out", (), {"loss": loss})

    model = Model()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    seconds = time_precisions(model, {"x": torch.ones(3, 4)}, steps=2)
    assert set(seconds) == {"float32", "bfloat16"} and all(value > 0 for value in seconds.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and model.layer.weight.grad is None
    with pytest.raises(ValueError, match="steps=0"):
        time_precisions(model, {}, steps=0)


def test_the_committed_page_of_the_search_is_that_of_its_data():
    runs = json.loads((COMMITTED / "search.json").read_text())
    assert (COMMITTED / "search.md").read_text() == search_page(runs)
    sizes_by_width = {options["width"]: size for size, options in recipe.SIZES.items()}
    judged = {(width, recipe.ROWS["addition_nanogpt_cpu"][size]) for width, size in sizes_by_width.items()}
    arms = {run["command"]: f"--arms {run.get('arm', 'none')} " for run in runs}
    assert runs and all(arm in command or '--arms "no penalty"' in command for command, arm in arms.items())
    assert all(run["seed"] not in recipe.SEEDS for run in runs if (run["width"], run["train_size"]) in judged)


@pytest.mark.skipif(not (COMMITTED / "rows").exists(), reason="no rows yet")
def test_the_committed_page_and_table_are_those_of_the_committed_rows():
    import pandas as pd

    study = recipe.Study("addition_nanogpt_cpu", Path("runs"), COMMITTED)
    rows = study.rows()
    assert len(rows) == len(list((COMMITTED / "rows").glob("*.json")))
    assert (COMMITTED / "addition_nanogpt_cpu.md").read_text() == page(
        rows,
        "addition_nanogpt_cpu",
        recipe.planned("addition_nanogpt_cpu"),
        recipe.NO_PENALTY,
        recipe.PAPER,
    )
    table = pd.read_parquet(COMMITTED / "addition_nanogpt_cpu.parquet")
    assert [*table["onset"].fillna(-1)] == [-1 if row["onset"] is None else row["onset"] for row in rows]
    ended = [row for row in rows if row["status"] != "under way"]  # the others will be replaced
    assert [one["onset"] for one in sizes.at_level(ended, sizes.LEVELS[-1])] == [one["onset"] for one in ended]
    for made_row in ended:  # one set-up, one precision in a size
        same = next(other for other in ended if other["size"] == made_row["size"])
        assert made_row["precision"]["precision"] == same["precision"]["precision"]
        for name in ("learning_rate", "weight_decay", "per_device_train_batch_size", "max_steps", "warmup_steps"):
            assert made_row["run"]["training_args"][name] == ended[0]["run"]["training_args"][name]
        assert made_row["run"]["facts"]["train_size"] == recipe.ROWS["addition_nanogpt_cpu"][made_row["size"]]
