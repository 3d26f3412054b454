"""recipes/harmless_tuned.py: each arm is tuned until its best rate is inside; only seeds that tuned nothing are judged."""

import pytest

from recipes import harmless, harmless_tuned
from recipes.harmless_tuned import HELD, NO_PENALTY, answer, gains, main, next_run, rows_there, tuned, tuning_table


def row(arm, rate, seed, loss):
    return {"arm": arm, "learning_rate": rate, "seed": seed, "held_out_loss": loss}


def study(without, with_it):
    """Rows of two arms that are tuned to 3e-4 and 1e-3, with these losses on the judged seeds."""
    rows = [row(NO_PENALTY, rate, 0, loss) for rate, loss in ((1e-4, 1.7), (3e-4, 1.5), (1e-3, 1.6))]
    rows += [row(HELD, rate, 0, loss) for rate, loss in ((3e-4, 1.6), (1e-3, 1.5), (3e-3, float("nan")))]
    for seed, (a, b) in enumerate(zip(without, with_it, strict=True), 1):
        rows += [row(NO_PENALTY, 3e-4, seed, a), row(HELD, 1e-3, seed, b)]
    return rows


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({}, (1e-3, False)),
        ({1e-3: 1.6}, (3e-4, False)),
        ({1e-3: 1.6, 3e-4: 1.5}, (1e-4, False)),
        ({1e-3: 1.5, 3e-4: 1.6}, (3e-3, False)),
        ({1e-3: 1.6, 3e-4: 1.5, 1e-4: 1.7}, (3e-4, True)),
        ({1e-3: 1.6, 3e-4: 1.5, 1e-4: 1.4}, (3e-5, False)),
        ({1e-3: 1.5, 3e-4: 1.6, 3e-3: float("nan")}, (1e-3, True)),  # a run that diverged is the worst
        ({1e-3: 1.6, 3e-4: 1.5, 1e-4: 1.4, 3e-5: 1.3}, (3e-5, True)),  # no smaller one is left
    ],
)
def test_tuning_goes_on_until_the_best_rate_is_inside(losses, expected):
    rows = [row(HELD, rate, 0, loss) for rate, loss in losses.items()]
    rows += [row(NO_PENALTY, 1e-2, 0, 0.0), row(HELD, 1e-2, 1, 0.0)]  # another arm, another seed: no business of this tuning
    assert tuned(rows, HELD) == expected


def test_after_tuning_come_the_judged_seeds_and_then_nothing():
    rows = study([], [])
    assert next_run([], HELD) == (1e-3, 0)
    assert next_run(rows, HELD) == (1e-3, 1)
    rows += [row(HELD, 1e-3, 1, 1.5)]
    assert next_run(rows, HELD) == (1e-3, 2)
    assert next_run([*rows, row(HELD, 1e-3, 2, 1.5)], HELD) is None


@pytest.mark.parametrize(
    ("without", "with_it", "expected"),
    [
        ([1.6], [1.5], "not yet known"),
        ([1.6, 1.6], [1.5, 1.58], "real"),
        ([1.6, 1.6], [1.595, 1.7], "gone"),
        ([1.6, 1.6], [1.5, 1.595], "undecided"),
        ([1.6, 1.6], [1.7, 1.62], "a harm"),
    ],
)
def test_the_answer_follows_the_rule(without, with_it, expected):
    rows = study(without, with_it)
    assert answer(rows) == expected
    assert gains(rows) == pytest.approx({seed: a - b for seed, (a, b) in enumerate(zip(without, with_it, strict=True), 1)})


def test_nothing_is_judged_before_both_arms_are_tuned():
    rows = [one for one in study([1.6, 1.6], [1.5, 1.5]) if (one["arm"], one["learning_rate"]) != (NO_PENALTY, 1e-4)]
    assert gains(rows) == {} and answer(rows) == "not yet known"


def test_the_table_marks_the_rate_that_was_chosen():
    rows = [{**one, "train_loss": 1.0, "effective_rank": 50.0, "radius": 2.0} for one in study([1.6, 1.6], [1.5, 1.5])]
    lines = tuning_table(rows).splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == ["0.0001", "**0.0003**", "0.001", "0.0003", "**0.001**", "0.003"]
    assert lines[1].startswith("| no penalty | **0.0003** | 1.500 | 1.600 | 1.600 |")


def test_the_recipe_makes_each_run_once_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    made = []

    def run(text, size, arm, seed, steps, bf16, rate):
        made.append((arm["radial_lambda"], rate, seed))
        if len(made) == 2:
            raise KeyboardInterrupt
        found = {"held_out_loss": abs(rate - (1e-3 if arm["radial_lambda"] else 3e-4)), "parameters": 10}
        return {"seed": seed, **found, "train_loss": 1.0, "radius": 2.0, "effective_rank": 50.0}

    monkeypatch.setattr(harmless, "run", run)
    words = ["--file", str(tmp_path / "text.txt"), "--steps", "2", "--results", str(tmp_path / "tuned")]
    with pytest.raises(KeyboardInterrupt):
        main(words)
    page = main(words)
    assert page == tmp_path / "tuned.md"
    without = [(0.0, 1e-3, 0), (0.0, 3e-4, 0), (0.0, 3e-4, 0), (0.0, 1e-4, 0), (0.0, 3e-4, 1), (0.0, 3e-4, 2)]
    with_it = [(0.5, 1e-3, 0), (0.5, 3e-4, 0), (0.5, 3e-3, 0), (0.5, 1e-3, 1), (0.5, 1e-3, 2)]
    assert made == [*without, *with_it]  # only the run that was interrupted comes twice
    assert "By the rule it is *gone*" in page.read_text()
    assert main(["--report", "--results", str(tmp_path / "tuned")]) == page and len(made) == 11
    with pytest.raises(ValueError, match="another steps"):
        main([*words, "--steps", "3"])


def test_the_learning_rate_reaches_the_optimizer(monkeypatch):
    monkeypatch.setitem(harmless.SIZES, "10.6M", {"n_embd": 16, "n_layer": 1, "n_head": 2})
    text = "the quick brown fox jumps over the lazy dog. " * 200
    small, default, large = (harmless.run(text, "10.6M", {}, 0, 20, False, rate) for rate in (1e-8, 1e-3, 1e-2))
    assert small["held_out_loss"] > default["held_out_loss"] > large["held_out_loss"]
    assert harmless.run(text, "10.6M", {}, 0, 20, False) == default


def test_a_command_without_a_text_says_what_is_missing():
    with pytest.raises(ValueError, match="--file is needed"):
        main([])


def test_the_committed_page_is_made_from_the_committed_rows():
    page = harmless_tuned.FOLDER.with_suffix(".md")
    assert not page.is_file() or page.read_text() == harmless_tuned.page(rows_there(harmless_tuned.FOLDER))
