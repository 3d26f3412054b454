"""recipes/help_or_harm.py: a row a run, a picture a case, and docs/choose.md says what the runs show."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pages import PAGES

from recipes import help_or_harm
from recipes.help_or_harm import CASES, HELPS, LATE, NONE, RESULTS, SEEDS, SITE, main

MOST_BYTES = 40_000


@pytest.fixture(scope="module")
def rows():
    found = json.loads((RESULTS / "help_or_harm.json").read_text())["rows"]
    return {case: [one for one in found if one["case"] == case] for case in CASES}


def values(row, name):
    return np.array(row["curves"][name][1])


def test_each_case_has_its_runs_and_a_small_picture_on_the_page(rows):
    assert all([one["seed"] for one in rows[case]] == list(SEEDS) for case in CASES)
    files = {file.stem: file for file in (RESULTS / "help_or_harm").glob("*")}
    assert set(files) == set(CASES) - {NONE} and all(file.stat().st_size < MOST_BYTES for file in files.values())
    assert all(f"](../recipes/results/help_or_harm/{name}.png)" in PAGES["docs/choose.md"] for name in files)


def test_what_the_page_says_of_the_pictures_is_what_the_runs_show(rows):
    radius, target, loss = f"radius/{SITE}", f"radius_target/{SITE}", "task_loss"
    onsets = {case: [one["onset"] or np.inf for one in rows[case]] for case in CASES}
    pairs = {case: list(zip(rows[case], rows[NONE], strict=True)) for case in CASES}
    assert all(mine < other for mine, other in zip(onsets[HELPS], onsets[NONE], strict=True))
    assert all(abs(values(one, radius)[-1] / values(one, target)[-1] - 1) < 0.05 for one in rows[HELPS])
    assert all(values(one, loss)[-1] < 2 * values(other, loss)[-1] for one, other in pairs[HELPS])

    ends = [values(one, radius)[-1] for one in rows[NONE]]
    assert round(min(ends)) >= 17 and round(max(ends)) <= 20
    for one in rows["too_weak"]:
        assert values(one, radius)[-1] > 1.2 * values(one, target)[-1]
    assert all(min(onsets[NONE]) < onset < max(onsets[NONE]) for onset in onsets["too_weak"])

    for one, other in pairs["too_strong"]:
        assert abs(values(one, radius)[0] / values(one, target)[0] - 1) < 0.05
        assert (values(one, loss)[5:] > 1.5 * values(other, loss)[5:]).all() and one["fit"] > other["fit"]
    assert sum(np.isinf(onsets["too_strong"])) == 2

    for one, other in pairs["too_late"]:
        steps = np.array(one["curves"][loss][0])
        near = (steps > LATE) & (steps <= LATE + 50)
        assert values(one, loss)[near].max() > 1.5 * values(other, loss)[near].max()
    assert all(abs(onsets["too_late"][i] - onsets[NONE][i]) <= 25 for i in (0, 1))

    for one in rows["radius_too_long"]:
        late = np.diff(values(one, loss)[4:])
        assert one["onset"] is None and values(one, "eval_test_accuracy").max() < 0.05 and late.max() > 0.01


def test_a_run_a_row_and_a_picture_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(help_or_harm, "CASES", {case: CASES[case] for case in (NONE, "too_late")})
    monkeypatch.setattr(help_or_harm, "SEEDS", (0,))
    file = main(["--results", str(tmp_path), "--steps", "50"])
    data = json.loads(file.read_text())
    assert [one["case"] for one in data["rows"]] == [NONE, "too_late"]
    assert data["rows"][0]["curves"]["eval_test_accuracy"][0] == [25, 50]
    (tmp_path / "help_or_harm" / "too_late.png").unlink()
    main(["--results", str(tmp_path), "--only-draw"])
    assert (tmp_path / "help_or_harm" / "too_late.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("arguments", "message"), [(["--steps", "5"], "at least 25"), (["--only-draw"], "there is no")])
def test_what_cannot_be_made_is_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main([*arguments, "--results", str(tmp_path)])
