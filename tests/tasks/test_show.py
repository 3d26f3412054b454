"""The descriptions of tasks are true for every configuration on the shelf."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from hf_radial.cli.main import main
from hf_radial.tasks.load import TASKS, builder_class, load_task
from hf_radial.tasks.show import describe_task, shelf_table, task_fields, task_text


@pytest.mark.parametrize("task", TASKS)
def test_no_row_of_the_shelf_is_in_two_splits_and_together_leaks_nothing(task, tmp_path):
    for config in builder_class(task).SHELF:
        about = describe_task(task, config, cache_dir=str(tmp_path))
        assert json.loads(json.dumps(about, default=str))["config"] == config
        if about["leakage"] is not None:
            assert about["leakage"]["ordered"] == 0
            if "together" in config:
                assert about["leakage"]["commuted"] == 0
        splits = load_task(task, config, cache_dir=str(tmp_path))
        assert {split: part["rows"] for split, part in about["splits"].items()} == {s: len(rows) for s, rows in splits.items()}
        if sum(len(rows) for rows in splits.values()) > 15_000:
            continue
        # Counted once more, on whole rows without their answers.
        hidden = ("labels", "completion")
        for split, rows in splits.items():
            for other, more in splits.items():
                if split < other:
                    seen = {str([v for name, v in row.items() if name not in hidden]) for row in rows}
                    assert not seen & {str([v for name, v in row.items() if name not in hidden]) for row in more}, (
                        config,
                        split,
                    )
        text = task_text(about)
        assert f"{task}/{config}" in text and all(part["checksum"] in text for part in about["splits"].values())


def test_the_shelf_is_listed_with_sources():
    table = shelf_table()
    for task in TASKS:
        builder = builder_class(task)
        assert f"\n{task}\n" in f"\n{table}\n" and builder.SUMMARY in table and builder.SOURCE
        assert all(f"    {config}\n" in f"{table}\n" for config in builder.SHELF)


@pytest.mark.parametrize("task", TASKS)
def test_each_field_is_shown_with_its_default_and_what_the_nearest_docstring_alone_says(task, capsys):
    config_class = builder_class(task).BUILDER_CONFIG_CLASS
    options = config_class(name=builder_class(task).SHELF[0]).options()
    fields = task_fields(task)
    assert set(fields) == set(options)
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    for field, (default, meaning) in fields.items():
        # From the line that starts with the field to the next one that is no deeper.
        pattern = rf"\n {{8}}{field}: (.*(?:\n {{12}}.*)*)"
        nearest = next(found for parent in config_class.__mro__ if (found := re.search(pattern, parent.__doc__ or "")))
        assert (default, meaning) == (defaults[field], " ".join(nearest[1].split()))
    assert main(["tasks", task]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"{field}={default!r}: {meaning}" in shown for field, (default, meaning) in fields.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tasks", "modular", "--json"], "--json is for one configuration; give TASK and CONFIG"),
        (["tasks", "modular", "add_p23_f0.5_s0", "--verify"], "leave CONFIG out"),
        (["tasks", "modular", "--write", "sums.json"], "leave TASK out"),
        (["tasks", "modulr", "--verify"], "task='modulr' is unknown; did you mean 'modular' or 'modular_sequence'?"),
        (["tasks", "modulr"], "task='modulr' is unknown; did you mean 'modular' or 'modular_sequence'?"),
    ],
)
def test_options_that_do_not_belong_together_are_an_error(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_shelf_of_one_task_is_verified_alone(capsys, tmp_path):
    assert main(["tasks", "polynomial", "--verify", "--cache_dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"same rows  polynomial/{config}" for config in builder_class("polynomial").SHELF]
