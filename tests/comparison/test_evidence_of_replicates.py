"""What the pages say of comparisons whose arms are tuned again and again is in the data."""

from __future__ import annotations

from math import exp, log
from statistics import fmean, median

from committed import WORDS, read
from pages import said

from hf_radial.comparison.best_tuning import after_the_fit, best_of_tunings
from hf_radial.comparison.replicated_page import over_settings, replicated


def in_words(ratio, digits=1):
    return f"{ratio.value:.{digits}f} times ({ratio.low:.{digits}f} to {ratio.high:.{digits}f})"


def test_tuned_again_and_again():
    data, _ = read("replicated")
    entries = {entry["arm"]: entry for entry in over_settings(data["rows"], ["AdamW", "LayerNorm"])}
    radius, paper, last = (entries[arm] for arm in ("initial radius", "paper's radius", "LayerNorm, last layer"))
    tasks = radius["against"]["AdamW"]["settings"]

    def ratio(entry, reference):
        return in_words(entry["against"][reference]["ratio"])

    def never(entry):
        return f"{entry['never'] / entry['runs']:.0%}"

    assert data["replicates"] == 8 and said("Each arm is tuned eight times at each task, from the start")
    found = radius["against"]["AdamW"]
    answer = "yes" if found["above"] > tasks / 2 and found["below"] == 0 else "undecided"  # as it was stated
    assert found["below"] == 0
    where = f"lies above 1 on {WORDS[found['above']]} of {WORDS[tasks]} tasks and below 1 on none."
    assert said(f"Against AdamW the answer is *{answer}* by the rule: the interval of the initial radius {where}")
    assert said(f"Over the tasks it is {ratio(radius, 'AdamW')} as early.")
    assert said(f"{never(radius)} of its judged runs never got there, and {never(entries['AdamW'])} of AdamW's")
    every = replicated(data)
    hard = next(e["ratio"] for e in every if e["arm"] == "initial radius" and "p 113" in e["setting"])
    assert hard.low < 1 < hard.high
    assert said(f"On a fifth of mod 113 it gains nothing: {hard.value:.2f} ({hard.low:.2f} to {hard.high:.2f})")
    direct = radius["against"]["LayerNorm"]["ratio"]
    assert direct.low < 1 < direct.high and said("The initial radius and LayerNorm are level")
    assert said(f"{ratio(radius, 'LayerNorm')} as early as LayerNorm")
    of_last = (
        f"LayerNorm of the last layer alone is {ratio(last, 'AdamW')} as early as AdamW, and {ratio(last, 'LayerNorm')} as"
    )
    assert last["against"]["LayerNorm"]["ratio"].low > 1 and said(f"{of_last} early as LayerNorm of all layers.")
    everywhere = [arm for arm in entries if arm != "AdamW" and entries[arm]["against"]["AdamW"]["above"] == tasks]
    assert everywhere == ["LayerNorm, last layer"]
    assert said(f"Against AdamW its interval lies above 1 on all {WORDS[tasks]} tasks, and no other arm's does.")
    assert said(f"The paper's radius is {ratio(paper, 'AdamW')} as early as AdamW")
    embeddings = entries["embedding rate"]["against"]["AdamW"]
    assert embeddings["ratio"].low < 1 < embeddings["ratio"].high and embeddings["above"] == 0  # undecided, as it was stated
    assert said(f"three times that of the rest is {ratio(entries['embedding rate'], 'AdamW')} as early as AdamW")
    tuning = data["tuning"]
    assert (tuning["trials"], len(tuning["seeds"]), tuning["finalists"], len(tuning["finalist_seeds"])) == (12, 1, 3, 3)
    assert said("the same budget: 12 trials on one seed, and the best three on three more.")
    tuned_before = {row["setting"].split(", epochs")[0] for row in read("anew")[0]["rows"]}
    assert {entry["setting"].split(", epochs")[0] for entry in every} <= tuned_before and said(
        "in which the strength had been tuned"
    )
    ours = [entry for entry in every if entry["arm"] == "initial radius" and entry["ratio"].low > 1]
    close = min(ours, key=lambda entry: entry["ratio"].low)
    assert "group s5" in close["setting"]
    assert said(f"on S_5 the interval begins at {close['ratio'].low:.2f}, and the exact test over the eight tunings has p ")
    others = {f"{entry['p_value']:.2f}" for entry in ours if entry is not close}
    assert others == {"0.02"} and said(f"has p {close['p_value']:.2f} (0.02 on the other two).")
    best = best_of_tunings(data["rows"])
    settings = {setting for setting, _ in best}
    factors = [
        f"{exp(fmean(log(best[setting, 'AdamW'] / best[setting, arm]) for setting in settings)):.2f}"
        for arm in ("initial radius", "LayerNorm, last layer", "LayerNorm")
    ]
    words = "radius is {} times as early as AdamW, LayerNorm of the last layer {} times, and LayerNorm of all layers {} times."
    assert said(words.format(*factors))
    edges = {
        arm: sum(
            count for e in every if e["arm"] == arm for edge, count in e["edges"].items() if edge.startswith("warmup_steps")
        )
        for arm in ("AdamW", "initial radius")
    }
    assert said(f"in {edges['AdamW']} of AdamW's 32 tunings and in {edges['initial radius']} of the initial radius's.")
    s5 = next(entry["ratio"] for entry in every if entry["arm"] == "initial radius" and "s5" in entry["setting"])
    assert said(f"Over eight tunings {s5.value:.1f} times are left")
    spreads = [entry["spread"].tuning for entry in every]
    assert said(f"Tuning alone makes times differ by a factor of {min(spreads):.1f} to {max(spreads):.1f}")


def answer_on_most(entries, arm):
    """As replicated_more states it, before any run."""
    own = [entry["ratio"] for entry in entries if entry["arm"] == arm]
    above, below = sum(ratio.low > 1 for ratio in own), sum(ratio.high < 1 for ratio in own)
    if above > len(own) / 2 and not below:
        return "yes"
    return "no" if len(own) - above > len(own) / 2 else "undecided"


def test_on_three_more_tasks():
    data, _ = read("replicated_more")
    every = replicated(data)
    assert (data["replicates"], data["tuning"]["trials"], data["tuning"]["finalists"]) == (4, 10, 2)
    assert said("each arm tuned four times with 10 trials and two finalists")
    assert {answer_on_most(every, arm) for arm in ("initial radius", "LayerNorm, last layer")} == {"no"}
    assert said("Against AdamW the answer is *no* by the rule that was set before the runs")
    by_arm = {
        arm: {entry["setting"].split(",")[1]: entry for entry in every if entry["arm"] == arm}
        for arm in dict.fromkeys(entry["arm"] for entry in every)
    }
    radius, last, norm = (by_arm[arm] for arm in ("initial radius", "LayerNorm, last layer", "LayerNorm"))
    assert all(entry["ratio"].low < 1 < entry["ratio"].high for entry in radius.values())
    assert said("the interval of the initial radius includes 1 on all three tasks")
    assert last[" operation a2_b2"]["ratio"].low > 1 > last[" bits 40"]["ratio"].high
    assert last[" operation sub"]["ratio"].low < 1 < last[" operation sub"]["ratio"].high
    assert said("its interval lies above 1 on one task, includes 1 on one, and lies below 1 on parity.")
    assert sum(entry["ratio"].low > 1 for entry in norm.values()) == 2
    squares = radius[" operation a2_b2"]["ratio"]
    assert said(f"on the sum of squares the initial radius is {in_words(squares, 2)} as early")
    parity = {arm: entries[" bits 40"] for arm, entries in by_arm.items()}
    assert parity["AdamW"]["never"] == 0 and said("On parity AdamW gets there in every run.")
    on_parity = parity["initial radius"]["ratio"]
    assert on_parity.low < 1 < on_parity.high and said("over four tunings that is undecided")
    later = [arm for arm, entry in parity.items() if "ratio" in entry and entry["ratio"].high < 1]
    assert later == ["paper's radius", "LayerNorm, last layer"]
    assert not any("ratio" in entry and entry["ratio"].value > 1 for entry in parity.values())


def test_over_all_seven_tasks():
    rows = [row for name in ("replicated", "replicated_more") for row in read(name)[0]["rows"]]
    entries = {entry["arm"]: entry["against"] for entry in over_settings(rows, ["AdamW", "LayerNorm"])}
    radius, last = (entries[arm]["AdamW"] for arm in ("initial radius", "LayerNorm, last layer"))
    assert (radius["above"], radius["below"], radius["settings"]) == (3, 0, 7)
    assert said("at three tasks of seven the initial radius is clearly earlier than plain AdamW, and at none clearly later")
    assert said(f"over all seven it is {in_words(radius['ratio'], 2)} as early.")
    paper = "paper's radius"
    told = {arm: in_words(entries[arm]["AdamW"]["ratio"], 2) for arm in entries if arm != "AdamW"}
    assert said(
        f"Over all seven tasks the initial radius is {told['initial radius']} as early as AdamW, LayerNorm of the last layer "
        f"{told['LayerNorm, last layer']}, LayerNorm {told['LayerNorm']} and the paper's radius {told[paper]}."
    )
    assert said(
        "Over repeated tunings it is clearly earlier than AdamW at three of [seven tasks](evidence/tuned.md), and later at"
    )
    assert said("is then clearly earlier than plain AdamW at three tasks of seven, and level with LayerNorm.")
    level = entries["initial radius"]["LayerNorm"]["ratio"]
    assert level.low < 1 < level.high and said("**Tuned, the penalty and LayerNorm are level**")
    assert last["below"] == 1  # of LayerNorm of the last layer, in the README's table

    adamw, held = (after_the_fit(rows)[arm] for arm in ("AdamW", "initial radius"))
    at_once = [fitted - late - never for fitted, late, never in (adamw, held)]
    assert said(f"{at_once[0]} of the tuned AdamW's {adamw[0]} runs that fit their rows generalise within one evaluation")
    assert held[0] > adamw[0] and said(f"With the initial radius {held[0]} runs fit. They fit sooner, too.")
    assert said(f"Of these, {at_once[1]} generalise within one evaluation, about the same share.")
    assert abs(at_once[0] / adamw[0] - at_once[1] / held[0]) < 0.05
    fits = {
        arm: median(row["fit"] for row in rows if row["stage"] == "judged" and row["arm"] == arm and row["fit"])
        for arm in entries
    }
    assert fits["initial radius"] < fits["AdamW"]
    assert said(f"of the tuned AdamW's runs that fit, {at_once[0]} of {adamw[0]} generalise at once.")


def test_with_a_wider_search():
    data, _ = read("replicated_wide")
    entries = {entry["arm"]: entry for entry in over_settings(data["rows"], ["AdamW", "LayerNorm, last layer"])}
    radius, last = entries["initial radius"], entries["LayerNorm, last layer"]
    common = data["tuning"]["common"]
    assert (data["replicates"], len(common), len(common.keys() - read("replicated")[0]["tuning"]["common"])) == (4, 8, 4)
    found = radius["against"]["AdamW"]
    gains = {e["setting"]: e["ratio"].value for e in replicated(read("replicated")[0]) if e["arm"] == "initial radius"}
    most = sorted(gains, key=gains.__getitem__)[-2:]
    assert sorted(setting.split(",")[1] for setting in most) == [" operation add", " operation div"]
    assert said("These are the two tasks at which the initial radius gained most.")

    assert found["ratio"].low > 1  # the rule for "survives"
    assert said(
        f"survives* by the rule that was set before the runs: over the settings it is {in_words(found['ratio'])} as early"
    )
    assert said(f"with an interval above 1 at {WORDS[found['above']]} of {WORDS[found['settings']]} settings.")
    never = [f"{entry['never'] / entry['runs']:.0%}" for entry in (radius, entries["AdamW"])]
    assert said("{} of its judged runs never got there, and {} of AdamW's.".format(*never))
    assert said(f"LayerNorm of the last layer is {in_words(last['against']['AdamW']['ratio'])} as early as AdamW.")
    level = radius["against"]["LayerNorm, last layer"]["ratio"]
    assert level.low < 1 < level.high and said(f"Against it the initial radius is level: {in_words(level)}")
    every = {(entry["setting"], entry["arm"]): entry for entry in replicated(data)}
    for task in ("operation div", "operation add"):
        small, large = sorted(setting for setting, arm in every if arm == "AdamW" and task in setting)
        assert "batch_size 128" in small and "batch_size 512" in large
        one, other = (every[setting, "initial radius"]["ratio"] for setting in (small, large))
        assert max(one.low, other.low) < min(one.high, other.high) and said("No effect of batch size on the gain is shown")
        assert all(every[large, arm]["never"] < every[small, arm]["never"] for arm in entries)
    large_add = [row for row in data["rows"] if row["setting"] == large]  # of the task that was last
    late = after_the_fit(large_add)["initial radius"]
    assert said(f"{late[1]} of the initial radius's {late[0]} runs generalise more than one evaluation after they have fitted.")
    judged = [row for row in large_add if row["stage"] == "judged"]
    fit, onset = (
        {arm: median(row[name] or 500 for row in judged if row["arm"] == arm) for arm in entries} for name in ("fit", "onset")
    )
    one, other = "initial radius", "AdamW"
    assert said(f"By medians they fit at epoch {fit[one]:g} and generalise at {onset[one]:g}; AdamW fits at {fit[other]:g} and")
    assert said(f"AdamW fits at {fit[other]:g} and generalises at {onset[other]:g}.")


def test_transformers_tuned_again_and_again():
    data, _ = read("transformer_replicated")
    every = {(entry["setting"], entry["arm"]): entry for entry in replicated(data)}
    with_norm, without = (f"layer_norm {value}" for value in (True, False))
    assert data["replicates"] == 4 and data["tuning"]["trials"] == 6

    def answer(setting, arm):
        """As it was stated before the runs, and the ratio as the page writes it."""
        entry, adamw = every[setting, arm], every[setting, "AdamW"]
        few = entry["runs"] - entry["never"] < (adamw["runs"] - adamw["never"]) / 2
        ratio = entry["ratio"]
        words = "harms" if few or ratio.high < 1 else "helps" if ratio.low > 1 else "undecided"
        return f"*{words}*", f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"

    harms, radius = answer(with_norm, "initial radius")
    assert said(f"With LayerNorm the initial radius {harms}: {radius}.")
    harms_too, paper = answer(with_norm, "paper's radius")
    assert harms == harms_too == "*harms*" and said(f"So does the paper's: {paper}.")
    values = [every[with_norm, arm]["ratio"].value for arm in ("initial radius", "paper's radius")]
    assert said("the initial radius is {:.1f} times as early as AdamW, the paper's {:.1f} times".format(*values))
    assert every[with_norm, "AdamW"]["never"] == 0
    assert all(every[with_norm, arm]["later"] == 4 for arm in ("initial radius", "paper's radius"))
    undecided, radius = answer(without, "initial radius")
    assert undecided == "*undecided*" and said(f"Without LayerNorm the initial radius is {undecided}: {radius}.")
    harms, paper = answer(without, "paper's radius")
    one = every[without, "paper's radius"]
    assert harms == "*harms*" and said(
        f"The paper's {harms}: {paper}, and {one['runs'] - one['never']} of its {one['runs']} runs"
    )
