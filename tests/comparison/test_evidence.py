"""What the pages say of comparisons is in the data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median

from committed import of, read
from pages import said

from hf_radial.comparison.draws import on_every_task, repeated
from hf_radial.comparison.pooled import pooled, tunings_of
from hf_radial.comparison.statistics import hierarchical, ratio_of_tunings, restricted_mean
from hf_radial.comparison.table import summary
from hf_radial.comparison.times import number, times_of

ROOT = Path(__file__).parents[2]


def test_weight_decay_against_the_penalty():
    data, entries = read("decay")
    onset = {
        decay: {a: e["onset"] for a, e in of(entries, f"weight_decay {decay},").items()}
        for decay in ("1.0", "3.0", "0.1", "0.01", "0.001", "0.0")
    }
    assert round(onset["0.001"]["lambda 0.05"] / onset["1.0"]["lambda 0"]) == 19
    for decay in ("1.0", "3.0"):
        assert max(onset[decay].values()) - min(onset[decay].values()) <= 2 * data["rows"][0]["options"]["evaluate_every"]
    for small in (onset["0.01"], onset["0.001"], onset["0.0"]):
        assert small["lambda 0"] is None and small["lambda 0.05"] < 2460
        assert small["lambda 0.01"] > small["lambda 0.05"] > small["lambda 0.1"] > small["lambda 0.5"]
    assert onset["0.001"]["lambda 0.001"] is None and onset["0.0"]["lambda 0.001"] is None
    published = {
        item["arm"]: item["onset"]
        for item in data["published"]
        if "Table" in item["where"] and item["setting"]["weight_decay"] == 1e-3
    }
    assert published["lambda 0.05"] < published["lambda 0.1"] < published["lambda 0.5"] < published["lambda 1"]
    assert onset["0.1"]["lambda 0"] == 980

    data, entries = read("lines")
    assert len(data["seeds"]) == 5
    small, paper = of(entries, "weight_decay 0.001,"), of(entries, "weight_decay 0.1,")
    assert (small["lambda 0"]["solved"], small["lambda 0.05"]["solved"], small["lambda 0.05"]["onset"]) == (0, 5, 2270)
    assert paper["lambda 0"]["onset"] == 950


def test_weight_decay_against_the_penalty_at_a_quarter_of_the_width():
    data, entries = read("decay128")
    assert data["rows"][0]["options"]["width"] * 4 == read("decay")[0]["rows"][0]["options"]["width"]
    for decay in ("3.0", "0.01", "0.001", "0.0"):
        assert not any(entry["solved"] for entry in of(entries, f"weight_decay {decay},").values())
    onset = {
        decay: {a: e["onset"] for a, e in of(entries, f"weight_decay {decay},").items()} for decay in ("1.0", "0.3", "0.1")
    }
    for arm in ("lambda 0.01", "lambda 0.05", "lambda 0.1", "lambda 0.5", "lambda 1"):
        assert onset["1.0"][arm] > onset["1.0"]["lambda 0"]
        assert onset["0.3"][arm] < onset["0.3"]["lambda 0"] and onset["0.1"][arm] < onset["0.1"]["lambda 0"]


def test_in_which_unit_the_paper_counts():
    _, entries = read("batch")
    mini, full, penalty, penalty_full = (entry["onset"] for entry in entries)
    assert abs(full / 15540 - 1) < 0.03 and abs(mini / 15540 - 1) > 0.9
    assert abs(penalty / 2460 - 1) < 0.25 and penalty_full is None and entries[3]["last"] > 2 * 2460
    assert mini < penalty
    data, _ = read("decay")
    table = {item["arm"]: item["onset"] for item in data["published"] if item["where"] == "Table 7"}
    here = {row["arm"]: row["onset"] for row in data["rows"] if row["options"]["weight_decay"] == 1e-3}
    earlier = [f"{table[arm] / here[arm]:.1f}" for arm in ("lambda 0.1", "lambda 0.5", "lambda 1")]
    assert said("here, lambdas of 0.1, 0.5 and 1 are {}, {} and {} times earlier than there.".format(*earlier))
    ended = entries[3]["last"]
    assert said(f"In full batches the speed-up is at most {full / ended:.1f}; which arm is earlier is not known, since the")
    assert said(f"penalised run was ended at epoch {ended:,.0f}.") and said(
        f"in full batches it is at most {full / ended:.1f}, since"
    )


def test_should_i_use_this():
    data, entries = read("anew")
    rows = data["rows"]
    tasks = list(dict.fromkeys(entry["setting"] for entry in entries))
    assert len(tasks) == 5 and len(data["seeds"]) == 5 and data["tuning"]["trials"] == 24
    adamw = [entry for entry in entries if entry["arm"].startswith("AdamW")]
    assert all(entry["fit"] is None or entry["onset"] <= entry["fit"] for entry in adamw)
    assert said("a tuned AdamW generalises no later than it fits")

    arms = ("penalty, initial radius", "LayerNorm", "penalty")
    found = {arm: hierarchical(tunings_of(rows, arm, "AdamW, tuned further")) for arm in arms}
    seconds = {one["arm"]: one["seconds_ratio"] for one in pooled(summary(rows, "AdamW, tuned further"))}
    best, norm, paper = found.values()
    assert said(
        f"Against AdamW tuned further, over the five tasks: initial radius {best.value:.1f} times as early (95 % interval over "
        f"tasks and seeds {best.low:.1f} to {best.high:.1f}; in seconds {seconds[arms[0]]:.1f} times), LayerNorm "
        f"{norm.value:.1f} times ({norm.low:.1f} to {norm.high:.1f}), the paper's radius {paper.value:.1f} times "
        f"({paper.low:.1f} to {paper.high:.1f}). Only the first interval is above 1."
    )
    assert best.low > 1 > max(norm.low, paper.low)
    onset = {task: {arm: entry["onset"] for arm, entry in of(entries, task).items()} for task in tasks}
    gain = {task: one["AdamW, tuned further"] / one["penalty, initial radius"] for task, one in onset.items()}
    level = [task for task in tasks if gain[task] == 1]
    assert sum(value > 1 for value in gain.values()) == 4 and len(level) == 1 and "sparse_parity" in level[0]
    against = hierarchical(tunings_of(rows, "penalty, initial radius", "LayerNorm"))
    assert said(f"Initial radius against LayerNorm: {against.value:.1f} times ({against.low:.1f} to {against.high:.1f}).")
    assert against.low < 1 < against.high and said("Tuned, the penalty and LayerNorm are level")

    hardest = max(gain, key=lambda task: gain[task])
    assert "p 97, train_fraction 0.2" in hardest
    times = {arm: _all_runs_of_what_is_judged(rows, hardest, arm) for arm in ("AdamW, tuned further", arms[0])}
    assert {len(own) for own in times.values()} == {10} and sum(time.censored for time in times[arms[0]]) == 2
    medians = [median(time.value for time in own) for own in times.values()]
    means = [restricted_mean(600)(own) for own in times.values()]
    assert said(
        f"pooled over the ten seeds of these two configurations it is {medians[0] / medians[1]:.1f} by medians, and "
        f"{means[0] / means[1]:.1f} by mean times up to epoch 600, since two of the ten penalised runs never got there"
    )
    assert said(f"On a fifth of mod 97 the ratio is {gain[hardest]:.1f}")
    judged = [row for row in rows if row["setting"] == hardest and row["arm"] == "AdamW, tuned further" and row["seed"] < 200]
    assert min(row["last"] for row in judged) < 230 < median(row["last"] for row in judged)  # 230: its worst on tuning seeds
    assert max(time.value for time in times["AdamW, tuned further"] if time.seed >= 200) == 230
    without = [
        ratio_of_tunings([one for one in tunings_of(rows, arm, "AdamW, tuned further") if one.task != hardest]) for arm in arms
    ]
    assert said("Without that task: initial radius {:.1f}, LayerNorm {:.1f}, the paper's radius {:.1f}.".format(*without))

    counts = [both for _, both, _ in repeated(rows, "AdamW, tuned further", "AdamW")]
    assert said(f"{min(counts)} to {max(counts)} of its 24 draws had been made by the first")
    drawn = [{arm: entry["drawn"] for arm, entry in of(entries, task).items()} for task in tasks]
    assert sum(one["AdamW"] == one["AdamW, tuned further"] for one in drawn) == 2
    assert said(f"{on_every_task(rows, arms[0])} draws of the initial radius are the same on all five")


def _all_runs_of_what_is_judged(rows, setting, arm):
    """Times of an arm's judged configuration, on the seeds of its tuning as well."""
    own = [row for row in rows if (row["setting"], row["arm"]) == (setting, arm)]
    drawn = next(row["drawn"] for row in own if row["stage"] == "judged")
    return times_of([row for row in own if row["drawn"] == drawn])


def test_a_tuned_baseline_by_training_fraction():
    data, entries = read("tuned")
    for share, ratio in (("0.2", "3.2"), ("0.3", "1.3"), ("0.5", "1.3")):
        arms = of(entries, f"train_fraction {share}")
        assert abs(arms["AdamW"]["onset"] - arms["AdamW"]["fit"]) <= 4  # it generalises as it fits
        assert f"{arms['penalty, initial radius']['speedup']['ratio']:.1f}" == ratio
    found = {one["arm"]: one for one in pooled(entries)}
    best, paper = found["penalty, initial radius"], found["penalty"]
    assert (best["earlier"], best["later"], len(data["seeds"]) * 3) == (14, 0, 15) and best["q_value"] < 0.001
    assert f"{best['ratio']:.1f}" == "1.7" and f"{best['seconds_ratio']:.1f}" == "1.5"
    assert (paper["earlier"], paper["later"]) == (7, 8)


def test_rivals_where_data_are_few():
    _, entries = read("scarce")
    arms = {entry["arm"]: entry for entry in entries}
    assert len(arms) == 7 and min(arms, key=lambda arm: arms[arm]["onset"]) == "penalty, initial radius"
    found = arms["penalty, initial radius"]["speedup"]
    assert f"{found['ratio']:.1f}" == "3.2" and found["earlier"] == 5
    ratios = {arm: f"{entry['speedup']['ratio']:.1f}" for arm, entry in arms.items() if arm != "AdamW"}
    assert (ratios["LayerNorm"], ratios["projection, tuned radius"]) == ("1.8", "1.9")
    assert all(0.8 < arms[arm]["speedup"]["ratio"] < 1.2 for arm in ("weight norm", "Grokfast EMA", "penalty"))


def test_transformers():
    data, entries = read("transformer")
    norm, none = of(entries, "layer_norm True"), of(entries, "layer_norm False")
    assert (norm["penalty"]["trials"], norm["penalty"]["trials_solved"], norm["penalty"]["solved"]) == (24, 0, 1)
    assert norm["penalty"]["last"] == 150
    best = norm["penalty, initial radius"]
    assert (best["speedup"]["earlier"], best["speedup"]["later"]) == (4, 0)
    rows = [row for row in data["rows"] if row["stage"] == "judged" and "layer_norm True" in row["setting"]]
    seeds = {
        arm: {row["seed"]: row["onset"] for row in rows if row["arm"] == arm} for arm in ("AdamW", "penalty, initial radius")
    }
    gains = sorted(seeds["AdamW"][seed] - seeds["penalty, initial radius"][seed] for seed in data["seeds"])
    assert gains[:2] == [0, 2] and gains[-1] == 10
    tried = [row["drawn"]["radial_lambda"] for row in data["rows"] if row["arm"] == "penalty" and "True" in row["setting"]]
    assert len({one for one in tried if one < 0.05}) == 2
    for arm in ("penalty", "penalty, initial radius"):
        assert (none[arm]["speedup"]["earlier"], none[arm]["speedup"]["later"]) == (3, 2)


def test_addition():
    data, entries = read("addition")
    arms = {entry["arm"]: entry for entry in entries}
    assert [arms[arm]["solved"] for arm in ("penalty, initial radius", "AdamW", "penalty")] == [5, 2, 2]
    found = arms["penalty, initial radius"]["speedup"]
    assert (found["earlier"], found["later"], found["pairs"]) == (3, 0, 5) and arms["AdamW"]["last"] == 600
    assert data["rows"][0]["options"]["fields"]["train_size"] == 500 and len(data["tuning"]["finalist_seeds"]) == 4

    mean, seeds = restricted_mean(600), 1 + len(data["tuning"]["finalist_seeds"])
    for arm, entry in arms.items():
        tried = {}
        for row in data["rows"]:
            if row["arm"] == arm and row["stage"] == "tuning":
                tried.setdefault(json.dumps(row["drawn"]), []).append(row)
        times = {drawn: mean(times_of(own)) for drawn, own in tried.items() if len(own) == seeds}
        assert len(times) == data["tuning"]["finalists"]
        assert min(times, key=lambda drawn: times[drawn]) == json.dumps(entry["drawn"])
    assert said("by their mean, with runs that did not get there counted at epoch 600, the same configuration of each arm")
    judged = [row for row in data["rows"] if row["stage"] == "judged"]
    radius, adamw = (
        mean(times_of([row for row in judged if row["arm"] == arm])) for arm in ("penalty, initial radius", "AdamW")
    )
    ratio = hierarchical(tunings_of(data["rows"], "penalty, initial radius", "AdamW"), mean, tasks=False)
    assert said(
        f"The mean times of the judged seeds are {adamw:.0f} epochs for AdamW and {radius:.0f} for the initial radius, "
        f"{ratio.value:.1f} times as early ({ratio.low:.1f} to {ratio.high:.1f} over seeds)"
    )


def test_what_rivals_and_variants_do_with_more_data():
    data, entries = read("rivals")
    assert len({row["arm"] for row in data["rows"]}) == 23
    for entry in entries:
        if entry["arm"] == "AdamW":
            assert entry["onset"] - entry["fit"] <= 2
    found = {one["arm"]: one for one in pooled(entries)}
    assert all(one["p_value"] > 0.2 for one in found.values() if one["ratio"] > 1)
    paper = found["penalty (paper)"]
    assert (number(paper["ratio"]), paper["earlier"], paper["later"]) == ("1.05", 7, 6)
    tasks = {entry["setting"] for entry in entries}
    onset = {(entry["setting"], entry["arm"]): entry["onset"] or math.inf for entry in entries}
    assert sum(onset[task, "dropout"] > 3 * onset[task, "AdamW"] for task in tasks) == 2

    data, entries = read("beyond")
    s5 = of(entries, "s5")
    assert (s5["AdamW"]["solved"], s5["AdamW"]["last"]) == (0, 60)
    assert s5["penalty, initial radius"]["solved"] == 5
    rows = [row for row in data["rows"] if row["stage"] == "judged" and "s5" in row["setting"]]
    assert max(row["onset"] for row in rows if row["arm"] == "penalty, initial radius") == 30
    ends = [[value for _, value in row["curve"][-3:]] for row in rows if row["arm"] == "AdamW"]
    assert sorted(round(end[-1], 2) for end in ends)[-2:] == [0.74, 0.97] and all(end == sorted(end) for end in ends)
    assert of(read("anew")[1], "s5")["AdamW"]["onset"] == 24
    assert all(0 < s5[arm]["solved"] < 5 for arm in ("Muon and LayerNorm", "Muon and projection"))
    parity = of(entries, "sparse_parity")
    assert parity["penalty, initial radius"]["speedup"]["later"] > parity["penalty, initial radius"]["speedup"]["earlier"]
    best = pooled(entries)
    assert {one["arm"] for one in best[:2]} == {"Muon and LayerNorm", "Muon and projection"}
    assert all(one["earlier"] == 17 and one["q_value"] < 0.01 and 0.45 < one["seconds_ratio"] < 0.55 for one in best[:2])
    assert 0.9 < next(one for one in best if one["arm"] == "penalty, initial radius")["seconds_ratio"] < 1.1


def test_is_it_the_radius():
    data, entries = read("controls")
    low, high = of(entries, "weight_decay 0.1"), of(entries, "weight_decay 1.0")
    assert low["AdamW"]["solved"] == low["weight norm of the penalty"]["solved"] == 0
    assert low["radius of the penalty"]["solved"] == 2 and low["radius of the penalty"]["runs"] == 3
    assert low["radius of the penalty"]["onset"] > low["logit scale of the penalty"]["onset"] > low["penalty"]["onset"]
    assert low["logit scale of the penalty"]["solved"] == 3
    assert low["half the radial gradient"]["onset"] < low["penalty"]["onset"]
    assert high["half the radial gradient"]["onset"] < high["AdamW"]["onset"] < high["penalty"]["onset"]
    assert high["no radial gradient"]["solved"] == 0
    tuned = next(one for one in pooled(read("rivals")[1]) if one["arm"] == "radial gradient")
    assert (tuned["earlier"], tuned["later"]) == (3, 9)
    assert f"{high['half the radial gradient']['speedup']['ratio']:.1f}" == "1.4"
    for row in (row for row in data["rows"] if row["arm"] == "penalty"):  # recorded to the end, and judged as if it had ended
        assert row["last"] == row["options"]["epochs"]
        values = [value for _, value in row["curve"]]
        solved = next(i for i in range(2, len(values)) if min(values[i - 2 : i + 1]) >= 0.95)
        assert row["onset"] <= row["curve"][solved - 2][0]


def test_what_to_set():
    """What docs/choose.md says of the initial radius and of the search."""
    data, entries = read("anew")
    onset = {}
    for entry in entries:
        onset.setdefault(entry["setting"], {})[entry["arm"]] = entry["onset"]
    best = sum(arms["penalty, initial radius"] == min(arms.values()) for arms in onset.values())
    assert (best, len(onset)) == (4, 5) and said("The table has the best settings that one search for each of five tasks found")
    assert data["tuning"]["own"]["penalty, initial radius"] == {"strength": {"log": [0.003, 3]}}
    assert said("Our searches ranged from 0.003 to 3.")
