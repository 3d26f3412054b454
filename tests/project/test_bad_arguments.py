"""Arguments of another type or out of range, from Python: each is refused where it is given, by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import tiny_gpt2

from hf_radial import (
    GeometryCallback,
    GrokkingCallback,
    ModularTable,
    RadialCallback,
    RadialPenalty,
    decompose,
    find_sites,
    measure,
    radial_penalty,
    radius,
    split_gradient,
)
from hf_radial.comparison.grid_checks import bounds
from hf_radial.comparison.run import Run
from hf_radial.hub.publish_dataset import publish_dataset, write_dataset
from hf_radial.hub.publish_model import publish_model
from hf_radial.interventions import add_interventions, intervention
from hf_radial.runs.onset import onset_step
from hf_radial.tasks.load import load_task
from hf_radial.tasks.show import describe_task
from hf_radial.training.calibration import TARGETS_FILE, targets_in

pytestmark = pytest.mark.quick

ENORMOUS = 10**400  # no float holds it
H = torch.ones(2, 3)
CONFIG = "add_p5_f0.8_s0"


def refused(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        call()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


VECTORS: dict[str, tuple[Any, str]] = {
    "a list": (lambda: radial_penalty([[3.0, 4.0]]), "h is of type list; give a tensor"),
    "an array": (lambda: radius(np.ones((2, 3))), "h is of type ndarray; give a tensor"),
    "nothing": (lambda: decompose(None), "h is of type NoneType; give a tensor"),
    "a number": (lambda: radial_penalty(torch.tensor(1.0)), r"dim=-1 is no axis of h, whose shape is \(\)"),
    "an axis too far": (lambda: radial_penalty(H, dim=2), r"dim=2 is no axis of h, whose shape is \(2, 3\)"),
    "an axis too far of a radius": (lambda: radius(H, -3), "dim=-3 is no axis of h"),
    "an axis that is a text": (lambda: decompose(H, "x"), "dim='x' is no axis of h"),
    "a mask that is a list": (
        lambda: radial_penalty(H, mask=[True, False]),
        r"mask is of type list; give a tensor of .*\(2,\)",
    ),
    "a gradient that is a list": (lambda: split_gradient([1.0], H), "g is of type list"),
    "a gradient of whole numbers": (lambda: split_gradient(torch.ones(2, 3, dtype=torch.long), H), "g has dtype torch.int64"),
    "vectors beside a gradient": (lambda: split_gradient(H, [1.0]), "h is of type list"),
    "a modulus that is true": (lambda: ModularTable(modulus=True), "modulus=True must be a whole number of at least 2"),
    "a modulus that is a text": (lambda: ModularTable(modulus="7"), "modulus='7' must be a whole number"),
    "a modulus with a point": (lambda: ModularTable(modulus=7.0), "modulus=7.0 must be a whole number"),
    "training pairs of another table": (
        lambda: ModularTable(7, train=torch.ones(49, dtype=torch.bool)),
        r"train has shape \(49,\); it needs one entry for each pair: \(7, 7\)",
    ),
}


@pytest.mark.parametrize("case", VECTORS)
def test_what_is_no_vector_is_refused(case: str) -> None:
    refused(*VECTORS[case])


CALLBACKS: dict[str, tuple[Any, str]] = {
    "a budget that is true": (lambda: GeometryCallback(budget=True), "budget=True must be a share"),
    "an enormous interval": (lambda: GeometryCallback(every=ENORMOUS), "every=10+ must be a whole number"),
    "an enormous interval of a group": (
        lambda: GeometryCallback(metrics={"radial": ENORMOUS}),
        r"metrics\['radial'\]=10+ must",
    ),
    "a group twice": (lambda: GeometryCallback(metrics=["radial", "radial"]), "'radial' is given 2 times; give it once"),
    "an answer that is a text": (lambda: GeometryCallback(show="no"), "show must be True or False, got 'no'"),
    "no metric": (lambda: GeometryCallback(train_metric=""), "train_metric='' must be the name of a metric"),
    "a metric that is a number": (lambda: GeometryCallback(held_out_metric=5), "held_out_metric=5 must be the name"),
    "an empty pattern": (lambda: GeometryCallback(sites=[""]), r"sites=\[''\] has an empty pattern"),
    "an empty pattern that leaves out": (
        lambda: RadialCallback(0.1, radial_sites=["*", "!"]),
        "radial_sites=.* an empty pattern",
    ),
    "no prefix": (lambda: GrokkingCallback(prefix=""), "prefix='' must be a text that is not empty"),
    "no metric to wait for": (lambda: GrokkingCallback(train_metric=""), "train_metric='' must be the name of a metric"),
    "an enormous threshold": (lambda: GrokkingCallback(threshold=10**300), "threshold=10+ must be an accuracy above 0"),
    "an enormous step": (
        lambda: onset_step([{"step": ENORMOUS, "eval_validation_exact_match": 1.0}]),
        "an entry of the log has the step 10+",
    ),
    "an empty log": (lambda: onset_step([]), "metric='eval_validation_exact_match' is not in the log. The log is empty"),
    "no batch": (lambda: measure(tiny_gpt2(), None), "batch is of type NoneType; give the model's arguments with labels"),
    "a batch that is a list": (lambda: measure(tiny_gpt2(), [H]), "batch is of type list"),
    "inputs that are a number": (lambda: find_sites(tiny_gpt2(), 5), "inputs is of type int; give a small batch"),
    "inputs that are a tensor": (lambda: RadialPenalty(tiny_gpt2(), 0.1, inputs=H), "inputs is of type Tensor"),
    "a model for a trainer": (
        lambda: add_interventions(tiny_gpt2(), ["stablemax"]),
        "trainer is of type GPT2LMHeadModel; give",
    ),
    "no trainer": (lambda: add_interventions(None, ["stablemax"]), "trainer is of type NoneType"),
    "an enormous window": (lambda: intervention(f"grokfast_ma:window_size={10**30}"), "window_size=10+ must be a whole number"),
    "an enormous weight": (lambda: intervention("activation_norm:strength=1e300"), "strength=1e.300 must be a number"),
    "a range without an end": (
        lambda: bounds({"log": [1, ENORMOUS]}, "weight_decay"),
        r"weight_decay: .* \{log: \[low, high\]\}",
    ),
    "an enormous number of epochs": (lambda: Run(epochs=10**30), "epochs=10+ must be a whole number"),
    "an enormous rate": (lambda: Run(learning_rate=ENORMOUS), "learning_rate=10+ must be a number"),
}


@pytest.mark.parametrize("case", CALLBACKS)
def test_what_measures_and_trains_refuses_what_it_cannot_use(case: str) -> None:
    refused(*CALLBACKS[case])


TARGETS: dict[str, tuple[dict[str, Any], str]] = {
    "no owner": ({"repo_id": "name"}, "repo_id='name' has no owner"),
    "a number for a name": ({"repo_id": 5}, "repo_id=5 must be a text of the form 'org/name'"),
    "no name": ({"repo_id": None}, "repo_id=None must be a text"),
    "a word for a truth": ({"private": "no"}, "private must be True or False, got 'no'"),
    "a number for a branch": ({"revision": 5}, "revision=5 is no name of a branch"),
    "a branch without a name": ({"revision": ""}, "revision='' is no name of a branch, such as 'main'"),
    "a branch with a space": ({"revision": "my branch"}, "revision='my branch' is no name"),
    "a branch with two points": ({"revision": "a..b"}, "revision='a..b' is no name"),
    "a branch like an option": ({"revision": "-d"}, "revision='-d' is no name"),
    "a branch like a lock": ({"revision": "v1.lock"}, "revision='v1.lock' is no name"),
    "a number for a token": ({"token": 5}, "token must be a text without spaces"),
    "a token without a letter": ({"token": ""}, "token must be a text without spaces"),
    "a token with its line's end": ({"token": "hf_secret\n"}, "token must be a text without spaces"),
}


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("case", TARGETS)
def test_what_no_hub_takes_is_refused_before_anything_is_sent(case: str, kind: str, tmp_path: Path) -> None:
    given, message = TARGETS[case]
    to = {"repo_id": "org/name", **given}
    with pytest.raises(ValueError, match=message) as raised:
        publish_model(tmp_path, **to) if kind == "model" else publish_dataset("modular", [CONFIG], **to)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("revision", ["main", "v2", "step-400", "feature/radius_2", "refs/pr/1", "2.0.x"])
def test_what_git_takes_for_a_branch_is_taken(revision: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):  # the next check
        publish_model(tmp_path, "org/name", revision=revision, token="hf_x")


PLACES: dict[str, tuple[Any, str]] = {
    "no run": (lambda path: publish_model(None, "org/name"), "folder=None must be the path of a folder"),
    "a run that is a number": (lambda path: publish_model(5, "org/name"), "folder=5 must be the path"),
    "a text for a list": (lambda path: write_dataset("modular", CONFIG, path), f"configs='{CONFIG}' must be a list of texts"),
    "a text for a list to send": (lambda path: publish_dataset("modular", CONFIG, "org/name"), "configs=.* must be a list"),
    "no list": (lambda path: write_dataset("modular", None, path), "configs=None must be a list of texts"),
    "a list of numbers": (lambda path: write_dataset("modular", [5], path), r"configs=\[5\] must be a list of texts"),
    "no folder": (lambda path: write_dataset("modular", [CONFIG], None), "folder=None must be the path"),
    "a folder that is a number": (lambda path: publish_dataset("modular", [CONFIG], "org/name", folder=5), "folder=5 must be"),
    "a name in a card": (lambda path: write_dataset("modular", [CONFIG], path, repo_id=5), "repo_id=5 must be a text"),
    "a cache that is a number": (
        lambda path: write_dataset("modular", [CONFIG], path, cache_dir=5),
        "cache_dir=5 must be a path",
    ),
    "a cache to describe": (lambda path: describe_task("modular", CONFIG, cache_dir=5), "cache_dir=5 must be a path"),
    "a cache to stream": (lambda path: load_task("modular", CONFIG, cache_dir=5, streaming=True), "cache_dir=5 must be a path"),
}


@pytest.mark.parametrize("case", PLACES)
def test_what_is_no_place_or_no_list_is_refused_before_anything_is_written(case: str, tmp_path: Path) -> None:
    call, message = PLACES[case]
    refused(lambda: call(tmp_path / "out"), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [ENORMOUS, True, "1"])
def test_a_number_in_a_file_that_is_none_is_named(value: Any, tmp_path: Path) -> None:
    (tmp_path / TARGETS_FILE).write_text(json.dumps({"a": value}))
    with pytest.raises(ValueError, match=r"the radius of 'a' is .*, which is no number"):
        targets_in(str(tmp_path))
    record = tmp_path / "trajectory.json"
    record.write_text(json.dumps([{"step": 1, "weight_norm": value}]))
    with pytest.raises(ValueError, match=r"row 1 has weight_norm=.*, which is no number"):
        intervention(f"replay:what=weight_norm,file={record}")
