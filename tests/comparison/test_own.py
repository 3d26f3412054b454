"""Grids of the user's own model and data: what is trained, how it is judged, and what is said of a wrong function."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from hf_radial.comparison.own import own_model, own_rows
from hf_radial.comparison.run import exact_match, make_run
from hf_radial.comparison.run_options import read_run
from hf_radial.tasks.tensor_rows import TensorRows
from recipes.compare import main

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"


def here(grid, folder):
    return main([str(grid), "--jobs", "0", "--runs", str(folder / "runs"), "--results", str(folder / "out")])


@pytest.fixture
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def smaller(name, folder, **base):
    """The shipped grid with fewer epochs and one seed, beside a copy of its code."""
    grid = yaml.safe_load((CONFIGS / f"compare_{name}.yaml").read_text())
    grid["base"] |= base
    (folder / f"{name}.py").write_text((CONFIGS / f"{name}.py").read_text())
    file = folder / "compare_small.yaml"
    file.write_text(yaml.safe_dump({**grid, "seeds": [0]}))
    return file


def test_a_convolutional_network_learns_images_in_a_grid(tmp_path, path):
    pytest.importorskip("sklearn")
    here(smaller("own_cnn", tmp_path, epochs=6, evaluate_every=2, stop=False), tmp_path)
    rows = json.loads((tmp_path / "out" / "small.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == ["AdamW", "penalty", "weight decay"]
    assert all(row["status"] != "failed" and row["held_out"] > 0.8 and row["test"] > 0.8 for row in rows)  # of ten classes
    folder = tmp_path / "runs" / rows[1]["run"]
    record = json.loads((folder / "run.json").read_text())
    assert [site["name"] for site in record["radial"]["sites"]] == ["first", "second", "hidden"]
    assert [Path(one["file"]).name for one in record["facts"]["own"]] == ["own_cnn.py", "own_cnn.py"]
    assert ":" not in folder.name


def test_a_llama_learns_texts_in_a_grid(tmp_path, path):
    here(smaller("own_llama", tmp_path, epochs=30, evaluate_every=10, learning_rate=0.01), tmp_path)
    rows = json.loads((tmp_path / "out" / "small.json").read_text())["rows"]
    assert all(row["status"] != "failed" and row["held_out"] > 1 / 8 for row in rows)  # a guess of one letter is right so often


def test_the_grid_of_the_page_on_own_models_runs(tmp_path, path):
    page = (CONFIGS.parents[1] / "docs" / "extend_grid.md").read_text()
    (tmp_path / "my_module.py").write_text(re.search(r"^```python\n(.*?)^```$", page, re.S | re.M)[1])
    grid = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```$", page, re.S | re.M)[1])
    file = tmp_path / "compare_page.yaml"
    file.write_text(yaml.safe_dump({**grid, "base": {**grid["base"], "epochs": 10}, "seeds": [0]}))
    here(file, tmp_path)
    rows = json.loads((tmp_path / "out" / "page.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == ["AdamW", "penalty"] and all(row["held_out"] > 0.6 for row in rows)


class Bare(nn.Module):
    """Returns whatever `answer` makes of its input."""

    answer = staticmethod(lambda x: torch.stack([x, -x], 1))

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.answer(self.scale * x)


def made(rows, kind=Bare):
    return kind() if kind is not None else "no model"


def rows_of(bits=3, validation=True):
    x = np.arange(2**bits) - 2 ** (bits - 1) + 0.5
    split = {"x": x.astype(np.float32), "labels": (x < 0).astype(int)}
    return {"train": split, "validation": split} if validation else {"train": split}


ROWS, MODEL = f"{__name__}:rows_of", f"{__name__}:made"


def test_a_plain_module_gets_a_cross_entropy_and_keeps_its_names():
    rows = own_rows(ROWS, {"bits": 3})
    model = own_model(MODEL, rows["train"], {}, [])
    batch = rows["train"].columns
    out = model(**batch)
    assert torch.equal(out["loss"], nn.functional.cross_entropy(out["logits"], batch["labels"]))
    assert type(model).__name__ == "Bare" and [name for name, _ in model.named_parameters()] == ["scale"]
    assert "loss" not in model(x=batch["x"])


def test_a_run_is_judged_by_the_models_answers(tmp_path, monkeypatch):
    options = {"task": ROWS, "model": MODEL, "epochs": 2, "evaluate_every": 1, "learning_rate": 0.0}
    assert make_run(tmp_path / "right", options)["held_out"] == 1.0
    monkeypatch.setattr(Bare, "answer", staticmethod(lambda x: torch.stack([-x, x], 1)))
    assert make_run(tmp_path / "wrong", options)["held_out"] == 0.0


def test_tokens_are_shifted_for_a_causal_model_only():
    class Prediction:
        predictions = np.array([[7, 8, 0], [7, 8, 0]])
        label_ids = np.array([[-100, 7, 8], [-100, 7, 9]])

    assert exact_match(Prediction) == {"exact_match": 0.5}
    Prediction.label_ids = np.array([[7, 8, -100], [7, -100, 1]])
    assert exact_match(Prediction, shift=False) == {"exact_match": 0.5}


def test_rows_are_also_datasets_and_tensor_rows():
    from datasets import Dataset

    plain = own_rows(ROWS, {})["train"].columns
    dataset = {name: Dataset.from_dict(split) for name, split in rows_of().items()}
    ready = {name: TensorRows({k: torch.as_tensor(v) for k, v in split.items()}) for name, split in rows_of().items()}
    for given in (dataset, ready):
        sys.modules[__name__].given = lambda given=given: given
        found = own_rows(f"{__name__}:given", {})["train"].columns
        assert all(torch.allclose(found[name].double(), plain[name].double()) for name in plain)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "not_there:rows"}, "task='not_there:rows': importing 'not_there' raised ModuleNotFoundError"),
        ({"task": f"{__name__}:no_such"}, "has no function 'no_such'; write MODULE:FUNCTION"),
        ({"task": ROWS, "fields": {"bit": 3}}, "does not take what fields gives, {'bit': 3}"),
        ({"task": ROWS, "train_fraction": 0.5}, "does not take what fields gives"),
        ({"task": ROWS, "model": MODEL, "model_options": {"widht": 3}}, "does not take what model_options gives"),
        (
            {"model_options": {"width": 3}},
            "must be a mapping, and is for model=MODULE:FUNCTION only",
        ),
        ({"task": ROWS, "model": MODEL, "width": 3}, "width is for the models mlp, transformer; give model="),
        ({"model": "cnn"}, "model='cnn' is unknown; choose 'mlp', 'transformer', or MODULE:FUNCTION"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_trained(options, said):
    with pytest.raises(ValueError, match=said.replace("{", r"\{")):
        read_run(options)


def both(split):
    return {"train": split, "validation": split}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (lambda: {"train": {}}, "must return a mapping with the splits 'train' and 'validation', but it returned train"),
        (lambda: [1], "but it returned a list"),
        (lambda: both(3), "split 'train' must be a mapping from column to array"),
        (
            lambda: both({"x": [1, 2], "labels": [1]}),
            "cannot be tensors with equally many rows",
        ),
        (
            lambda: both({"x": [1, 2]}),
            "a column 'labels' of whole numbers; its columns are x",
        ),
        (lambda: both({"x": [1.0], "labels": [0.5]}), "labels: torch.float32"),
    ],
)
def test_wrong_rows_are_named(monkeypatch, rows, said):
    monkeypatch.setattr(sys.modules[__name__], "given", rows, raising=False)
    with pytest.raises(ValueError, match=said):
        own_rows(f"{__name__}:given", {})


def test_a_wrong_model_is_named(monkeypatch):
    rows = own_rows(ROWS, {})["train"]
    with pytest.raises(ValueError, match=r"must return a torch.nn.Module, or a pair \(class, configuration\), not str"):
        own_model(MODEL, rows, {"kind": None}, [])
    monkeypatch.setattr(Bare, "answer", staticmethod(lambda x: x))
    with pytest.raises(ValueError, match=r"forward returned \(8,\), which must be logits of shape \(rows, classes\)"):
        own_model(MODEL, rows, {}, [])(**rows.columns)


def test_our_models_say_what_rows_they_read(tmp_path):
    with pytest.raises(ValueError, match=r"has the columns x, labels; model='mlp' reads rows with input_ids"):
        make_run(tmp_path, {"task": ROWS})
