"""What the pages say of the penalty on text is in the data."""

from __future__ import annotations

import json

from pages import said

from recipes import harmless_tuned
from recipes.harmless import RESULTS, costs

PAPER, INITIAL = "penalty 0.01 (paper)", "penalty 0.5, initial radius"


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_is_it_harmless():
    arms = read("harmless")["arms"]
    for arm in ("penalty 0.01 (paper)", "penalty 0.05"):
        for with_it, without in zip(arms[arm], arms["no penalty"], strict=True):
            assert with_it["held_out_loss"] - without["held_out_loss"] > 1.608 - 1.585  # the paper's
            assert with_it["effective_rank"] < without["effective_rank"]
            assert 0.025 < with_it["held_out_loss"] - without["held_out_loss"] < 0.085
    for arm in ("penalty 0.05, initial radius", "penalty 0.5, initial radius"):
        for with_it, without in zip(arms[arm], arms["no penalty"], strict=True):
            lower = f"{without['held_out_loss'] - with_it['held_out_loss']:.2f}"
            assert "0.01" <= lower <= "0.03" and said("It lowers the loss on every seed, by 0.01 to 0.03")
            assert with_it["effective_rank"] > without["effective_rank"]
    for one_sided, without in zip(arms["one-sided 0.01"], arms["no penalty"], strict=True):
        assert abs(one_sided["held_out_loss"] - without["held_out_loss"]) < 5e-4 and one_sided["radius"] < 128**0.5


def test_is_it_harmless_at_the_largest_size():
    small, large = read("harmless"), read("harmless_10.6M")
    for arm in (PAPER, INITIAL):
        (cost,) = costs(large["arms"], arm)
        before = costs(small["arms"], arm)
        assert abs(cost) >= 0.01 and all(cost * other > 0 for other in before)  # what was stated to be *holds*
    assert said("the small model's answer *holds* for both: in the same direction, by 0.01 or more.")
    assert large["steps"] == small["steps"]
    told = f"the loss is {-cost:.3f} lower, in the small model {-max(before):.3f} to {-min(before):.3f}."
    assert said(f"Towards the initial radius {told}")
    (none,), (paper,), (held,) = (large["arms"][arm] for arm in ("no penalty", PAPER, INITIAL))
    ranks = [run["effective_rank"] / none["effective_rank"] for run in (paper, held)]
    assert held["train_loss"] < none["train_loss"] and said(f"and the effective rank {ranks[1]:.1f} times as large.")
    assert 1 < ranks[0] < 1.2 and said("raises the effective rank a little, as the paper")


def test_is_it_harmless_at_the_largest_size_with_its_own_learning_rate():
    rows = harmless_tuned.rows_there(harmless_tuned.FOLDER)
    (base, settled), (rate, settled_too) = (harmless_tuned.tuned(rows, arm) for arm in harmless_tuned.ARMS)
    assert (base, settled, rate, settled_too) == (3e-4, True, 1e-3, True)
    apart = harmless_tuned.loss(rows, "no penalty", base, 0) - harmless_tuned.loss(rows, INITIAL, rate, 0)
    assert said(f"3e-4 is best without the penalty and 1e-3 towards the initial radius. The loss is {apart:.3f} lower there.")
    assert harmless_tuned.answer(rows) == "not yet known" and said("Until then: *not yet known*.")


def test_is_it_harmless_on_synthetic_plays():
    arms = read("harmless_generated")["arms"]
    paper, initial = sorted(costs(arms, PAPER)), sorted(costs(arms, INITIAL))
    assert len(paper) == len(initial) == 3 and paper[0] > 0 > initial[-1]
    assert said(f"the paper's radius costs {paper[0]:.3f} to {paper[-1]:.3f}, the initial radius gains {-initial[-1]:.3f} to")
    assert said(f"to {-initial[0]:.3f}.") and said("all differences are smaller")


def test_is_it_harmless_on_synthetic_plays_at_the_largest_size():
    arms = read("harmless_generated_10.6M")["arms"]
    (paper,), (initial,) = costs(arms, PAPER), costs(arms, INITIAL)
    assert abs(paper) < 0.01
    assert initial <= -0.01 and said(f"*undecided* for the paper's radius ({paper:+.3f}), and the small model's answer")
    assert said(f"answer *holds* for the initial radius ({initial:+.3f}).")
