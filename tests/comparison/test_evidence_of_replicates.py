"""What the pages say of comparisons whose arms are tuned again and again is in the data."""

from __future__ import annotations

from committed import WORDS, read
from pages import said

from hf_radial.comparison.replicated_page import over_settings, replicated


def in_words(ratio):
    return f"{ratio.value:.1f} times ({ratio.low:.1f} to {ratio.high:.1f})"


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
    spreads = [entry["spread"].tuning for entry in every]
    assert said(f"Tuning alone makes times differ by a factor of {min(spreads):.1f} to {max(spreads):.1f}")


def test_with_a_wider_search():
    data, _ = read("replicated_wide")
    entries = {entry["arm"]: entry for entry in over_settings(data["rows"], ["AdamW", "LayerNorm, last layer"])}
    radius, last = entries["initial radius"], entries["LayerNorm, last layer"]
    common = data["tuning"]["common"]
    assert (data["replicates"], len(common), len(common.keys() - read("replicated")[0]["tuning"]["common"])) == (4, 8, 4)
    found = radius["against"]["AdamW"]

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
        assert max(one.low, other.low) < min(one.high, other.high)
        assert all(every[large, arm]["never"] < every[small, arm]["never"] for arm in entries)


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
