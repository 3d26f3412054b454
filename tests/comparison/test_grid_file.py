"""Grid files: what they say, and what is refused."""

from pathlib import Path

import pytest
import yaml

from hf_radial.comparison.grid import ranges_of, read_grid, run_name, run_options

pytestmark = pytest.mark.quick

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


def test_axes_combine(tmp_path):
    found = grid(tmp_path)
    assert found.name == "x" and len(found.settings) == 4 and found.reference == "AdamW"


def test_every_arm_is_tuned_over_what_is_common_unless_it_says_otherwise(tmp_path):
    own = {"weight_decay": None, "s": {"linear": [0, 1]}}
    found = grid(tmp_path, arms={**GOOD["arms"], "other": {"tune": own}})
    ranges = {arm.name: ranges_of(arm, found.tuning) for arm in found.arms}
    assert ranges["AdamW"] == GOOD["tuning"]["common"] and set(ranges["penalty"]) == {"weight_decay", "s"}
    assert ranges["other"] == {"s": {"linear": [0, 1]}}


def test_what_is_drawn_goes_where_it_is_named_and_else_to_the_options(tmp_path):
    found = grid(tmp_path)
    options = run_options(found, found.settings[0], found.arms[1], {"weight_decay": 0.5, "s": 0.02}, 7)
    assert options["interventions"] == ["radial:strength=0.02"]
    assert options["weight_decay"] == 0.5 and options["seed"] == 7 and "s" not in options


def test_fields_of_a_setting_are_put_on_top_of_those_of_the_base(tmp_path):
    found = grid(tmp_path, base={"fields": {"p": 7, "seed": 1}}, axes={"fields": [{"p": 11}, {"p": 13}]})
    options = run_options(found, found.settings[1], found.arms[0], {"weight_decay": 0.5}, 0)
    assert options["fields"] == {"p": 13, "seed": 1}


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
        ({"tuning": {**GOOD["tuning"], "finalist_seeds": [1]}}, r"seeds in both are \[1\]"),
        ({"tuning": {**GOOD["tuning"], "finalists": 4}}, "finalists=4"),
        ({"arms": {"a": {"optins": {}}}}, "optins"),
        ({"axes": {"weight_decay": [0.1, 1.0]}}, "weight_decay is tuned for arm 'AdamW'"),
        ({"arms": {"a": {"options": {"weight_decay": 0}}}, "reference": "a"}, r"give the arm tune: \{weight_decay: null\}"),
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
