"""recipes/addition_size.py: runs survive SIGKILL, rows hold all results, and the page is made only from the rows."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from pages import said
from warm import WarmProcess, kill_at_a_checkpoint

from hf_radial import RadialTrainer
from hf_radial.comparison import sizes
from hf_radial.comparison.sizes_page import page, search_page
from hf_radial.comparison.statistics import speedup
from hf_radial.runs.onset import HELD_OUT_METRIC, first_streak, summarise
from hf_radial.runs.results import log_of_row
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


def listed(values):
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = values
    return f"{', '.join(first)} and {last}" if first else last


def step(row):
    return f"> {row['last_step']:,}" if row["onset"] is None else f"{row['onset']:,}"


@pytest.fixture(scope="module")
def every():
    return recipe.Study("", Path(), COMMITTED).rows()


def of_each_seed(rows, size, *arms):
    """The rows of each arm, by seed; every planned seed is there."""
    found = [sizes.of(rows, size, arm) for arm in arms]
    assert all(tuple(row["seed"] for row in own) == recipe.SEEDS for own in found)
    return found


def test_every_planned_run_is_there(every):
    made = {(row["size"], row["arm"], row["seed"]) for row in every}
    assert made == set(recipe.planned("addition_nanogpt_cpu")) and all(row["status"] != "under way" for row in every)
    assert said("Three seeds of each arm at each size, the paper's penalty with a warm-up at 10.6M only.")


def test_what_the_pages_say_of_the_largest_size(every):
    none, paper = of_each_seed(every, "10.6M", "no penalty", "paper")
    seeds = recipe.SEEDS
    assert all(row["memorised_first"] for row in none) and said("At 10.6M parameters the phenomenon is there.")
    onsets = listed([step(row) for row in none])
    fits, at_fits = listed([f"{row['fit_step']:,}" for row in none]), listed([f"{row['held_out_at_fit']:.0%}" for row in none])
    their_rows = none[0]["run"]["facts"]["train_size"]
    assert said(
        f"Without a penalty, seeds {listed([str(seed) for seed in seeds])} fit their {their_rows} rows at steps {fits}, with "
        f"{at_fits} of the held-out sums. Three evaluations in a row at 99 % come at steps {onsets} ("
    )
    tests = [listed([f"{row['test_exact_match']:.2%}" for row in arm]) for arm in (none, paper)]
    assert {row["test_problems"] for row in (*none, *paper)} == {2000}
    assert said(f"The saved models write {tests[0]} of 2,000 sums that nothing read before.")
    smallest = [row["memorised_first"] for row in every if (row["size"], row["arm"]) == ("0.4M", recipe.NO_PENALTY)]
    assert sorted(smallest) == [False, True, True] and said("by the rule: only two of the three runs memorise first.")

    assert all(row["onset"] is not None for row in paper)
    ratios = [(row["onset"] or row["last_step"]) / other["onset"] for row, other in zip(none, paper, strict=True)]
    assert all(ratio > 1 for ratio in ratios)
    told = listed([("" if row["onset"] else "> ") + f"{ratio:.2f}" for row, ratio in zip(none, ratios, strict=True)])
    steps = [listed([step(row) for row in arm]) for arm in (paper, none)]
    assert said(f"With the paper's penalty they come at steps {steps[0]} on the same seeds, {told} times as early.")
    assert said(f"The saved models write {tests[1]} of those sums")
    assert len(seeds) == 3 and sizes.verdict(every, "10.6M", "paper", recipe.NO_PENALTY) == "helps"
    assert said("By the rule the penalty *helps* at this size: it is earlier on each of three seeds.")
    found = speedup(*(sizes.onsets(every, "10.6M", arm) for arm in ("paper", recipe.NO_PENALTY)))
    assert said(f"Three of three is weak (p {found.p_value} by the sign test), and this is one of seven verdicts.")
    arms = {(row["size"], row["arm"]) for row in every if row["arm"] != recipe.NO_PENALTY}
    assert len(arms) == 7 and said(f"weakly (three seeds of three, p {found.p_value}, one of seven verdicts)")
    published = recipe.PAPER["10.6M", recipe.NO_PENALTY] / recipe.PAPER["10.6M", "paper"]
    assert said(f"The paper says {published:.1f} times, of another set-up.") and said(f"(the paper: {published:.1f} times,")
    assert f"{min(ratios):.1f}" == "1.2"
    assert said("three evaluations in a row at 99 % come earlier on each of three seeds, 1.2 times or more")


def test_what_the_pages_say_of_other_levels_at_the_largest_size(every):
    one = sizes.at_level(every, 0.99, streak=1)
    none, paper = of_each_seed(one, "10.6M", "no penalty", "paper")
    told = [listed([step(row) for row in arm]) for arm in (none, paper)]
    assert said(f"A single evaluation at 99 % comes at steps {told[0]} without the penalty, at {told[1]} with it:")
    assert [a["onset"] > b["onset"] for a, b in zip(none, paper, strict=True)] == [True, False, False]
    assert said("earlier on one seed, later on two.") and said("a single one comes earlier on one and later on two;")
    assert said("It stays at 99 % earlier. It does not touch 99 % earlier")
    by_level = {}
    for level, text in ((0.9, "at 90 % the ratios are {}"), (0.95, "at 95 % {}")):
        found = sizes.ratios(sizes.at_level(every, level), "10.6M", "paper", recipe.NO_PENALTY)
        by_level[level] = [ratio for ratio, bound in found.values() if not bound]
        assert said(text.format(listed([f"{ratio:.2f}" for ratio in by_level[level]])))
    assert [sum(ratio > 1 for ratio in found) for found in by_level.values()] == [2, 2]


def test_what_the_pages_say_of_the_initial_radius_at_the_largest_size(every):
    none, initial = of_each_seed(every, "10.6M", "no penalty", "initial radius")
    ratios_90 = sizes.ratios(sizes.at_level(every, 0.9), "10.6M", "initial radius", recipe.NO_PENALTY)
    early = listed([f"{ratios_90[seed][0]:.2f}" for seed in recipe.SEEDS])
    assert all(row["onset"] is None for row in initial) and {row["last_step"] for row in initial} == {8000}
    singles = [row["onset"] for row in sizes.of(sizes.at_level(every, 0.99, streak=1), "10.6M", "initial radius")]
    assert sum(single is not None for single in singles) == 2
    assert said("has no three in a row at 99 % by step 8,000 on any of the three seeds, and a single one on two.")
    assert said(f"At 90 % the ratios are {early}.")
    assert sizes.verdict(every, "10.6M", "initial radius", recipe.NO_PENALTY) == "undecided (0 earlier, 2 later)"
    assert [row["onset"] is None for row in none] == [False, True, False]
    assert said("It is later on seeds 0 and 2; on seed 1 the run without a penalty does not get there either.")
    assert said(f"The saved models write {listed([format(row['test_exact_match'], '.2%') for row in initial])} of those sums.")
    whole = [row for row in initial if not row["memorised_first"]]
    assert said(f"Seeds {listed([str(row['seed']) for row in whole])} do not memorise first: they have")
    assert said(
        f"they have {listed([format(row['held_out_at_fit'], '.0%') for row in whole])} of the held-out sums when they fit"
    )
    low, when = min(zip(initial[2]["curves"]["held_out_exact_match"][40:], initial[2]["curves"]["step"][40:], strict=True))
    assert said(f"Seed 2 falls to {low:.0%} at step {when:,} and recovers.") and initial[2]["last_held_out"] > 0.9


def test_what_the_pages_say_of_the_warm_up_at_the_largest_size(every):
    none, paper, warm = of_each_seed(every, "10.6M", "no penalty", "paper", "paper, warm-up")
    assert {row["run"]["radial"]["radial_warmup_steps"] for row in warm} == {300}
    assert {(row["run"]["radial"]["radial_lambda"], row["run"]["radial"]["radial_radius"]) for row in warm} == {
        (0.01, "sqrt_d")
    }
    told = listed([step(row) for row in warm])
    assert said(f"With lambda growing over the first 300 steps, the paper's penalty has three in a row at steps {told}.")
    assert sizes.verdict(every, "10.6M", "paper, warm-up", recipe.NO_PENALTY) == "undecided (2 earlier, 0 later)"
    assert list(sizes.ratios(every, "10.6M", "paper, warm-up", recipe.NO_PENALTY)) == [0, 2] and none[1]["onset"] is None
    assert said("earlier on seeds 0 and 2, and on seed 1 the run without a penalty does not get there either.")
    assert all((row["onset"] or row["last_step"]) > other["onset"] for row, other in zip(warm, paper, strict=True))
    assert said("On every seed it is later than at full weight from step 1.")
    assert said(f"The saved models write {listed([format(row['test_exact_match'], '.2%') for row in warm])} of those sums.")
    apart = max((row["onset"] or row["last_step"]) - other["onset"] for row, other in zip(warm, paper, strict=True))
    assert said(f"on one seed their onsets are more than {apart:,} steps apart: that is how much chance is in one run.")


def test_what_the_pages_say_of_the_other_sizes_and_of_growth(every):
    none, paper, initial = of_each_seed(every, "3.2M", "no penalty", "paper", "initial radius")
    told = [listed([step(row) for row in arm]) for arm in (none, paper)]
    assert said(f"three in a row come at steps {told[0]} without a penalty, at {told[1]} with the paper's, later on two.")
    assert sizes.verdict(every, "3.2M", "paper", recipe.NO_PENALTY) == "undecided (1 earlier, 2 later)"
    assert sum(row["memorised_first"] for row in none) == 2
    assert said("Without a penalty two of three runs memorise first, as at 0.4M.")
    for size in ("0.4M", "3.2M"):
        by_seed = [ratio for ratio, _ in sizes.ratios(every, size, "paper", recipe.NO_PENALTY).values()]
        assert min(by_seed) < 1 < max(by_seed)
    assert said("At 3.2M the seeds disagree about the paper's penalty, as at 0.4M") and said("at 0.4M and 3.2M seeds disagree")
    reached = [row["onset"] is not None for row in initial]
    assert said(f"The initial radius gets there on {sum(reached)} of {len(reached)} seeds by step 8,000.")
    assert {sizes.verdict(every, size, "initial radius", recipe.NO_PENALTY) for size in ("0.4M", "3.2M")} == {"harms"}
    assert said("It *harms* by the rule at 0.4M and at 3.2M.") and said("seeds disagree, and the initial radius harms")
    growth = sizes.growth(every, "paper", recipe.NO_PENALTY, [*recipe.SIZES])
    assert growth == "undecided (larger on 1 and smaller on 1 of 2 seeds that reached 99 % in both sizes)"
    assert said("its ratio is larger on one and smaller on one of the two seeds that reached 99 % in both sizes.")
    small, large = (sizes.ratios(every, size, "paper", recipe.NO_PENALTY)[1] for size in ("0.4M", "10.6M"))
    assert small[0] < 1 < large[0] and large[1] == ">" and said("On the third it is larger by a bound")
    ways = {(row["size"], row["run"]["facts"]["train_size"], row["precision"]["precision"]) for row in every}
    assert ways == {("0.4M", 500, "float32"), ("3.2M", 300, "bfloat16"), ("10.6M", 300, "bfloat16")}
    assert said("0.4M has 500 rows, float32 and another processor, the others 300 rows and bfloat16.")


def searched(**options):
    """The log of the one run of the search with these options."""
    fixed = {"arm": "none", "train_size": 300, "batch": 64, "weight_decay": 2.0, "learning_rate": 5e-4, "dropout": 0.0}
    fixed |= {"zero_pad": True, "reverse": True, "seed": 100, **options}
    defaults = {"arm": "none", "zero_pad": True, "reverse": True}
    runs = json.loads((COMMITTED / "search.json").read_text())
    *_, found = (one for one in runs if all({**defaults, **one}[name] == value for name, value in fixed.items()))
    return log_of_row(found["curves"])


def test_what_the_pages_say_of_the_search(every):
    large, small = {"width": 384}, {"width": 128, "train_size": 500}
    dropout = {entry["step"]: entry[HELD_OUT_METRIC] for entry in searched(**large, dropout=0.2)}
    held_out = [dict(zip(row["curves"]["step"], row["curves"]["held_out_exact_match"], strict=True)) for row in every]
    most = max(curve[1500] for row, curve in zip(every, held_out, strict=True) if row["size"] == "10.6M")
    assert said(f"has {dropout[1500]:.0%} of the held-out sums at step 1,500, where no judged run has more than {most:.0%}.")
    at_fit = [summarise(searched(**options))["held_out_at_fit"] for options in (large, {**large, "dropout": 0.2})]
    assert at_fit[0] < 0.5 < at_fit[1]
    assert said(
        f"With 500 rows it has {summarise(searched(**large, train_size=500))['held_out_at_fit']:.0%} when it fits them."
    )
    batches = [summarise(searched(**small, batch=batch))["held_out_at_fit"] for batch in (32, 64, 128)]
    assert said(f"batches of 32, 64 and 128 give {listed([format(one, '.0%') for one in batches])} at the fit.")
    told, fits = [], {}
    for rate, decay in ((5e-4, 1.0), (5e-4, 2.0), (1e-3, 1.0), (1e-3, 2.0)):
        logs = [searched(**small, arm=arm, learning_rate=rate, weight_decay=decay) for arm in ("none", "paper")]
        onsets = [first_streak(log, HELD_OUT_METRIC, 0.99, 3) for log in logs]
        ends = [f"> {log[-1]['step']:,}" if onset is None else f"{onset:,}" for log, onset in zip(logs, onsets, strict=True)]
        told.append(f"{listed(ends)} ({'5e-4' if rate == 5e-4 else '1e-3'}, {'weight decay ' * (not told)}{decay})")
        fits.setdefault(rate, []).extend(summarise(log)["held_out_at_fit"] for log in logs)
    assert said(f"without the penalty and with the paper's: {', '.join(told)}. At 1e-3 no arm memorises first")
    assert min(fits[1e-3]) > 0.5 > min(fits[5e-4])
    rows_400 = first_streak(searched(width=128, train_size=400), HELD_OUT_METRIC, 0.99, 3)
    assert rows_400 > max(row["onset"] for row in sizes.of(every, "0.4M", recipe.NO_PENALTY))


def test_what_the_pages_say_of_time_and_lengths_at_the_largest_size(every):
    none, paper = of_each_seed(every, "10.6M", "no penalty", "paper")
    assert all(1200 < row["last_cpu_seconds"] < 2400 for row in every if row["size"] == "10.6M")
    assert said("A run of this size takes about half an hour of a core.")
    target = paper[0]["run"]["radial"]["sites"][0]["target"]
    with_it, *without = (
        [curve[-1] for row in arm for site, curve in row["curves"]["radius"].items() if part in site]
        for arm, part in ((paper, ""), (none, "attn"), (none, "mlp"))
    )
    attention, mlp = ((round(min(ends)), round(max(ends))) for ends in without)
    assert min(with_it) >= 15 and max(with_it) <= 20 and said(f"all sites end at 15 to 20, the target being {target:.1f}.")
    assert attention[1] <= 5 and said("Without it attention outputs end at {} to 5,".format(*attention))
    assert said("and MLP outputs at {} to {}.".format(*mlp))
