"""Grid files: what is refused, and that every method has the same budget and the same draws."""

from pathlib import Path

import pytest
import yaml

from hf_radial.comparison.grid import Arm, Tuning, read_grid, run_name, run_options, trials

GOOD = {
    "title": "t",
    "arms": {
        "AdamW": {},
        "penalty": {"options": {"interventions": ["radial:strength={s}"]}, "tune": {"s": {"log": [0.01, 1]}}},
    },
    "axes": {"train_fraction": [0.3, 0.5], "width": [32, 64]},
    "seeds": [0, 1],
    "tuning": {"trials": 3, "seeds": [100], "common": {"weight_decay": {"log": [0.1, 1.0]}}},
}


def grid(tmp_path, **changes):
    file = tmp_path / "compare_x.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **changes}))
    return read_grid(file)


def test_axes_combine_and_each_arm_has_as_many_trials_with_the_same_common_draws(tmp_path):
    found = grid(tmp_path)
    assert found.name == "x" and len(found.settings) == 4 and found.reference == "AdamW"
    plain, penalty = (trials(arm, found.tuning) for arm in found.arms)
    assert len(plain) == len(penalty) == 3
    assert [draw["weight_decay"] for draw in plain] == [draw["weight_decay"] for draw in penalty]
    assert len({draw["s"] for draw in penalty}) == 3


def test_what_is_drawn_goes_where_it_is_named_and_else_to_the_options(tmp_path):
    found = grid(tmp_path)
    options = run_options(found, found.settings[0], found.arms[1], {"weight_decay": 0.5, "s": 0.02}, 7)
    assert options["interventions"] == ["radial:strength=0.02"]
    assert options["weight_decay"] == 0.5 and options["seed"] == 7 and "s" not in options


def test_a_run_has_one_name_and_another_one_with_any_other_option():
    assert run_name({"seed": 1, "a": 2}) == run_name({"a": 2, "seed": 1}) != run_name({"a": 3, "seed": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "unknown key 'seed'"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 0]}, "each once"),
        ({"seeds": [100]}, r"seeds in both are \[100\]"),
        ({"arms": {}}, "arms is empty"),
        ({"reference": "Adam"}, "reference='Adam'"),
        ({"tuning": None}, "something to tune"),
        ({"tuning": {"trials": 3, "seeds": [9], "common": {"weight_decay": {"log": [0, 1]}}}}, "weight_decay"),
        ({"arms": {"a": {"optins": {}}}}, "optins"),
        ({"published": [{"where": "Table 7"}]}, "must have where, setting, arm and onset"),
        ({"published": [{"where": "Table 7", "setting": {}, "arm": "magic", "onset": 3}]}, "'magic' is no arm"),
    ],
)
def test_a_file_that_means_nothing_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        grid(tmp_path, **changes)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="nowhere"):
        read_grid(Path("nowhere.yaml"))


def test_draws_stay_in_their_ranges_and_spread():
    tuning = Tuning(16, (100,), {"lr": {"log": [1e-4, 1e-2]}, "p": {"choices": ["a", "b"]}, "m": {"linear": [0.0, 0.9]}})
    drawn = trials(Arm("x"), tuning)
    rates = sorted(draw["lr"] for draw in drawn)
    assert 1e-4 <= rates[0] < 3e-4 and 3e-3 < rates[-1] <= 1e-2
    assert {draw["p"] for draw in drawn} == {"a", "b"} and all(0 <= draw["m"] < 0.9 for draw in drawn)
