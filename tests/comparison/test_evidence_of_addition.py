"""What the pages say of 3-digit addition by size is in the rows and in the search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pages import said

from hf_radial.comparison import sizes
from hf_radial.comparison.statistics import speedup
from hf_radial.runs.onset import HELD_OUT_METRIC, first_streak, summarise
from hf_radial.runs.results import log_of_row
from recipes import addition_size as recipe

COMMITTED = recipe.RESULTS / "addition_nanogpt_cpu"


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
    """The log of the latest run of the search with these options."""
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
