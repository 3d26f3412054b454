"""Bad input of every task: one clear error that names the argument and the fix, before anything is written."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from pathlib import Path

import datasets
import numpy as np
import pytest

from hf_radial.tasks.load import TASKS, builder_class, load_task, task_config

pytestmark = pytest.mark.quick

# Each task's test file lists its own. `tests` is on the path, so that a file is found by its folders below it.
TESTS = Path(__file__).parents[1]
CASES = [
    case
    for file in sorted(Path(__file__).parent.rglob("test_*.py"))
    if "\nBAD_INPUT" in file.read_text()
    for case in import_module(".".join(file.relative_to(TESTS).with_suffix("").parts)).BAD_INPUT
]


def test_every_task_lists_bad_input():
    assert set(TASKS) <= {task for task, _, _ in CASES}


@pytest.mark.parametrize(("task", "fields", "message"), CASES, ids=lambda value: value if isinstance(value, str) else None)
def test_bad_input_is_named_before_anything_is_written(tmp_path, task, fields, message):
    with pytest.raises(ValueError, match=message):
        load_task(task, cache_dir=str(tmp_path / "cache"), **fields)
    assert not (tmp_path / "cache").exists()


INHERITED = {field.name for field in fields(datasets.BuilderConfig)}
FIELDS = [
    (task, field.name)
    for task in TASKS
    for field in fields(builder_class(task).BUILDER_CONFIG_CLASS)
    if field.name not in INHERITED
]
# None of them is a value of any field; enormous numbers overflow floats, and Python refuses to write them out.
NONSENSE = [[1], {"a": 1}, {1}, b"add", object, 1 + 2j, float("nan"), np.array([1, 2]), -1, 10**400, 10**5000, "?" * 10_000]


@pytest.mark.parametrize(("task", "field"), FIELDS)
def test_nonsense_in_any_field_is_named_shortly(task, field):
    for value in NONSENSE:
        with pytest.raises(ValueError, match=field) as caught:
            task_config(task, **{field: value})
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", [5, ["add"], "", "add_p97", "add_p97_f0.5_s0\n", "add_p97_f0.5_s" + "9" * 5000])
def test_a_name_that_is_none_is_an_error_with_an_example(name):
    with pytest.raises(ValueError, match=r"is not a configuration of this task; one is 'add_p97_f0.5_s0'") as caught:
        task_config("modular", name)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "given", [{"p": 97}, {"p": 114}, {"operation": "add"}, {"train_fraction": 0.5}, {"seed": 0}, {"view": "classification"}]
)
def test_a_field_that_the_name_contradicts_is_an_error_even_if_it_is_a_default(given):
    name = "sub_p113_f0.3_s1_lm"
    (field,) = given
    with pytest.raises(ValueError, match=f"{field}=.* contradicts the name '{name}'"):
        task_config("modular", name, **given)
    said = getattr(task_config("modular", name), field)
    assert task_config("modular", name, **{field: said}).name == name


@pytest.mark.parametrize("operation", ["div", "parity_branch"])
@pytest.mark.parametrize("p", [2**61 - 1, 10**18])
def test_a_huge_modulus_is_refused_before_its_divisors_are_looked_for(operation, p):
    with pytest.raises(ValueError, match=f"lower p={p}"):
        task_config("modular", operation=operation, p=p)


@pytest.mark.parametrize(
    ("field", "value"), [("characters", False), ("characters", []), ("characters", None), ("python_version", 0)]
)
def test_what_is_merely_false_is_not_a_default(field, value):
    with pytest.raises(ValueError, match=field):
        task_config("text", **{field: value})


def test_a_fraction_of_minus_zero_is_zero_in_the_name():
    assert task_config("text", validation_fraction=-0.0).name == task_config("text", validation_fraction=0).name
