"""Grid files: the meaning of their keys, and errors for wrong ones."""

from pathlib import Path

import pytest
import yaml

from hf_radial.comparison.grid import ranges_of, read_grid, run_name, run_options
from hf_radial.comparison.run_options import read_run

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


def test_an_arm_with_each_stands_for_one_arm_for_each_combination(tmp_path):
    arm = {
        "each": {"side": ["above", "below"], "r": [0.5, 2]},
        "options": {"interventions": ["radial:strength=1,side={side},radius={r}"]},
    }
    found = grid(tmp_path, arms={"AdamW": {}, "{side} {r}": arm})
    options = {arm.name: arm.options for arm in found.arms}
    assert list(options) == ["AdamW", "above 0.5", "below 0.5", "above 2", "below 2"]  # the file has its keys in order
    assert options["above 2"] == {"interventions": ["radial:strength=1,side=above,radius=2"]}


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
        ({"arms": {"a {x}": {"each": {"x": [1], "y": [2]}}}}, "put {y} into its name"),
        ({"arms": {"a {x}": {"each": {"x": 1}}}}, "each: x=1 must be a list"),
        ({"arms": {"a {x}": {"each": {"x": [1, 1]}}}}, "'a 1' is there twice"),
        ({"axes": {"weight_decay": [0.1, 1.0]}}, "weight_decay is tuned for arm 'AdamW'"),
        ({"arms": {"a": {"options": {"weight_decay": 0}}}, "reference": "a"}, r"give the arm tune: \{weight_decay: null\}"),
        ({"published": [{"where": "Table 7"}]}, "must have where, setting, arm and onset"),
        ({"published": [{"where": "Table 7", "setting": {}, "arm": "magic", "onset": 3}]}, "'magic' is not an arm"),
    ],
)
def test_a_file_that_means_nothing_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        grid(tmp_path, **changes)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="nowhere"):
        read_grid(Path("nowhere.yaml"))


TUNING = {"trials": 3, "seeds": [100]}
PAIRED = {"draws": 2, "common": {"learning_rate": {"log": [1.0e-3, 0.1]}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["a"]}, r"arms=\['a'\] must be a mapping"),
        ({"arms": {"a": 5}}, "arm 'a'=5 must be a mapping"),
        ({"arms": {"a": {"options": [1]}}}, r"arm 'a': options=\[1\] must be a mapping"),
        ({"paired": {**PAIRED, "also_against": "a"}}, "paired: also_against='a' must be a list"),
        ({"paired": {**PAIRED, "also_against": 5}}, "paired: also_against=5 must be a list"),
        ({"paired": {**PAIRED, "cross": "yes"}}, "paired: cross='yes' must be true or false"),
        ({"paired": {**PAIRED, "first_seed": "x"}}, "paired: first_seed='x' must be a whole number"),
        ({"paired": {**PAIRED, "sampler_seed": -1}}, "paired: sampler_seed=-1 must be a whole number"),
    ],
)
def test_a_paired_design_of_another_type_is_named(tmp_path, changes, message):
    design = {"design": "paired", "paired": PAIRED, "seeds": None, "tuning": None, "arms": {"a": {}}}
    assert grid(tmp_path, **design).paired.draws == 2
    with pytest.raises(ValueError, match=f"compare_x.yaml: .*{message}"):
        grid(tmp_path, **{**design, **changes})


DESIGNS = {
    "design without a section": ({"design": "paired"}, "needs a section `paired`.* it is missing; for example paired:"),
    "an empty section": ({"design": "paired", "paired": None}, "needs a section `paired`.* it is empty; for example paired:"),
    "section without a design": (
        {"paired": PAIRED},
        "the section `paired` has no effect in design='tuned'; write design: paired",
    ),
    "section of another design": (
        {"design": "tuned", "paired": PAIRED},
        "the section `paired` has no effect in design='tuned'",
    ),
    "unknown design": ({"design": "pared", "paired": PAIRED}, "design='pared' is unknown; give 'paired', or 'tuned'"),
}


@pytest.mark.parametrize("case", DESIGNS)
def test_a_design_and_its_section_come_together(case, tmp_path):
    changes, message = DESIGNS[case]
    with pytest.raises(ValueError, match=f"compare_x.yaml: .*{message}"):
        grid(tmp_path, **{"seeds": None, "tuning": None, "arms": {"a": {}}, **changes})


LOG = {"log": [0.1, 1.0]}
MISSPELT = {
    "base": ({"base": {"learning_rte": 1.0e-3}}, "base: unknown option 'learning_rte' of a run; did you mean 'learning_rate'"),
    "axes": ({"axes": {"widht": [32]}}, "axes: unknown option 'widht' of a run; did you mean 'width'"),
    "cell": (
        {"axes": {"cell": [{"epoch": 3}]}},
        "axes: a value of cell: unknown option 'epoch' of a run; did you mean 'epochs'",
    ),
    "arm": ({"arms": {"a": {"options": {"intervention": []}}}}, "arm 'a': options: .*did you mean 'interventions'"),
    "common": ({"tuning": {**TUNING, "common": {"weigt_decay": LOG}}}, "tuning: common: .*did you mean 'weight_decay'"),
    "tune": ({"arms": {"a": {"tune": {"radial_lamda": LOG}}}}, "arm 'a': tune: .*did you mean 'radial_lambda'"),
    "paired": (
        {"design": "paired", "paired": {"draws": 2, "common": {"warmup_step": LOG}}, "seeds": None, "tuning": None},
        "paired: common: .*did you mean 'warmup_steps'",
    ),
    "seed": ({"base": {"seed": 3}}, "base: unknown option 'seed'"),
}


@pytest.mark.parametrize("case", MISSPELT)
def test_a_misspelt_option_is_named_with_its_place_and_its_neighbour(case, tmp_path):
    changes, message = MISSPELT[case]
    with pytest.raises(ValueError, match=f"compare_x.yaml: {message}"):
        grid(tmp_path, arms={"a": {}}, **changes) if "arms" not in changes else grid(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": "012"}, "seeds='012' must be a list of at least one seed"),
        ({"seeds": 5}, "seeds=5 must be a list"),
        ({"seeds": ["a"]}, r"seeds=\['a'\] must be a list of at least one seed"),
        ({"seeds": [True]}, r"seeds=\[True\]"),
        ({"seeds": [-1]}, r"seeds=\[-1\]"),
        ({"seeds": [10**30]}, "whole numbers from 0"),
        ({"arms": ["a"]}, r"arms=\['a'\] must be a mapping"),
        ({"arms": {"a": "b"}}, "arm 'a'='b' must be a mapping"),
        ({"arms": {"a": {"options": [1]}}}, r"arm 'a': options=\[1\] must be a mapping"),
        ({"axes": [1]}, r"axes=\[1\] must be a mapping"),
        ({"axes": {"width": "32"}}, "axes: width='32' must be a list"),
        ({"axes": {"width": []}}, r"axes: width=\[\] must be a list of at least one"),
        ({"axes": {"cell": ["x"]}}, "a value of cell='x' must be a mapping"),
        ({"axes": {"width": [32, 64, 32]}}, "axes: width has 32 2 times"),
        ({"axes": {"fields": [5]}}, "axes: a value of fields=5 must be a mapping"),
        ({"base": [1]}, r"base=\[1\] must be a mapping"),
        ({"base": {"fields": 5}}, "base: fields=5 must be a mapping"),
        ({"arms": {"a": {"options": {"fields": [1]}}}}, r"arm 'a': options: fields=\[1\] must be a mapping"),
        ({"replicates": "x"}, "replicates='x' must be a whole number"),
        ({"replicates": 2.5}, "replicates=2.5 must be a whole number"),
        ({"replicates": -3}, "replicates=-3 must be a whole number"),
        ({"title": [1]}, r"title=\[1\] must be a text"),
        ({"published": "x"}, "published='x' must be a list"),
        ({"tunning": TUNING}, "unknown key 'tunning'; did you mean 'tuning'"),
        ({"tuning": [1]}, r"tuning=\[1\] must be a mapping"),
        ({"tuning": {"seeds": [100]}}, "tuning: trials=None must be a whole number of at least 1"),
        ({"tuning": {"trials": 3}}, "tuning: seeds=None must be a list"),
        ({"tuning": {**TUNING, "trials": "many"}}, "tuning: trials='many'"),
        ({"tuning": {**TUNING, "trials": 2.5}}, "tuning: trials=2.5"),
        ({"tuning": {**TUNING, "trial": 2}}, "tuning: unknown key 'trial'; did you mean 'trials'"),
        ({"tuning": {**TUNING, "common": [1]}}, r"tuning: common=\[1\] must be a mapping"),
        ({"tuning": {**TUNING, "common": {"weight_decay": {"log": ["1e-3", 1]}}}}, "YAML reads 1e-3 as text"),
        ({"tuning": {**TUNING, "common": {"weight_decay": {"log": [float("nan"), 1]}}}}, "with 0 < low < high"),
        ({"tuning": {**TUNING, "common": {"weight_decay": {"linear": [0, float("inf")]}}}}, "with low < high"),
        ({"tuning": {**TUNING, "common": {"weight_decay": {"choices": "abc"}}}}, "weight_decay"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_was_expected(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"compare_x.yaml: .*{message}"):
        grid(tmp_path, **changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: {", "is not YAML: .*line 2"),
        (b"\xff\xfe", "is not YAML"),
        (b"a:\n\tb: 1", "is not YAML"),
        (b"", "must hold a mapping"),
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_the_line(tmp_path, content, message):
    file = tmp_path / "compare_x.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"compare_x.yaml.*{message}"):
        read_grid(file)
    with pytest.raises(ValueError, match="is a folder"):
        read_grid(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3' must be a number; YAML reads 1e-3 as text: write 1.0e-03"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must not be negative"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a number"),
        ({"width": "64"}, "width='64' must be a whole number"),
        ({"width": 64.5}, "width=64.5 must be a whole number"),
        ({"width": True}, "width=True must be a whole number"),
        ({"batch_size": -1}, "batch_size=-1 must not be negative"),
        ({"stop": "no"}, "stop='no' must be true or false"),
        ({"task": 5}, "task=5 must be a text"),
        ({"task": "modula"}, "did you mean 'modular'"),
        ({"fields": [1]}, r"fields=\[1\] must be a mapping"),
        ({"fields": {"operaton": "add"}}, "operaton"),
        ({"train_fraction": 2.0}, "train_fraction=2.0 must be between 0 and 1"),
        ({"interventions": "dropout:p=0.1"}, "interventions='dropout:p=0.1' must be a list of texts"),
        ({"adam_beta2": 1.0}, "adam_beta2=1.0"),
        ({"model": "transformer", "width": 30}, "width=30 must be a multiple of heads=4"),
        ({"learning_rat": 0.1}, "unknown option 'learning_rat' of a run; did you mean 'learning_rate'"),
    ],
)
def test_an_option_of_a_run_is_checked_before_anything_is_trained(options, message):
    with pytest.raises(ValueError, match=message):
        read_run(options)
