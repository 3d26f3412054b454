"""The benchmarks compare like with like, say what they measured, and run from the command line."""

from __future__ import annotations

import doctest
import gc
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from transformers import TrainerState, TrainingArguments

from benchmarks import by_hand, peers, penalty_cost, run, trainer_speed
from benchmarks.by_hand import Steps
from benchmarks.pairs import interleave, ratios
from benchmarks.settings import Settings
from benchmarks.table import Row, markdown, row_from_json
from hf_radial import RadialTrainer
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.tasks.tensor_rows import TensorRows, as_batch


@pytest.mark.parametrize("name", ["pairs", "table", "scaling", "on_paper"])
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"benchmarks.{name}"), optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed


# Like with like -------------------------------------------------------------------------------------------------------


def small(seed: int = 0) -> ModularMLPForSequenceClassification:
    torch.manual_seed(seed)
    return ModularMLPForSequenceClassification(ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=8)).train()


IDS = torch.cartesian_prod(torch.arange(7), torch.arange(7))
LABELS = IDS.sum(1) % 7


@pytest.mark.parametrize("radial_lambda", [0.0, 0.3])
def test_the_hand_written_loop_ends_with_the_trainers_weights(radial_lambda: float, tmp_path: Path) -> None:
    """Full batches, so that both see the rows in one order up to the sum's rounding."""
    by_loop, by_trainer = small(), small()
    steps = Steps(warm_up=2, timed=6)
    assert by_hand.train(by_loop, IDS, LABELS, len(LABELS), steps, radial_lambda) > 0
    args = TrainingArguments(
        str(tmp_path),
        max_steps=steps.total,
        per_device_train_batch_size=len(LABELS),
        learning_rate=by_hand.LEARNING_RATE,
        weight_decay=by_hand.WEIGHT_DECAY,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="adamw_torch_fused",
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = TensorRows({"input_ids": IDS, "labels": LABELS})
    RadialTrainer(model=by_trainer, args=args, train_dataset=rows, data_collator=as_batch, radial_lambda=radial_lambda).train()
    start = small()
    for (name, mine), theirs, first in zip(
        by_loop.named_parameters(), by_trainer.parameters(), start.parameters(), strict=True
    ):
        assert not torch.equal(mine, first), name
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=name)


def test_the_hand_written_loop_sees_every_row_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    plain = by_hand.loss_by_hand

    def spy(model: Any, ids: Any, labels: Any, radial_lambda: float) -> Any:
        seen.append((7 * ids[:, 0] + ids[:, 1]).tolist())
        return plain(model, ids, labels, radial_lambda)

    monkeypatch.setattr(by_hand, "loss_by_hand", spy)
    by_hand.train(small(), IDS, LABELS, 10, Steps(5, 5), 0.1)
    assert [len(batch) for batch in seen] == [10, 10, 10, 10, 9] * 2
    epochs = [[row for batch in part for row in batch] for part in (seen[:5], seen[5:])]
    assert all(sorted(epoch) == list(range(49)) for epoch in epochs) and epochs[0] != epochs[1]
    seen.clear()
    by_hand.train(small(), IDS, LABELS, 10, Steps(4, 4), 0.1, drop_last=True)
    assert [len(batch) for batch in seen] == [10] * 8


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_naive_penalty_is_the_penalty(checkpointing: bool) -> None:
    gradients = []
    for arm in ("on", "naive", "off"):
        loop = penalty_cost.Loop(arm, 2, 6, checkpointing=checkpointing)
        for module in loop.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        loop.model.config.attn_pdrop = 0.0
        for block in loop.model.transformer.h:
            block.attn.attn_dropout.p = 0.0
        for _ in range(2):  # nothing of the first step is left in the second
            loop.model.zero_grad()
            loss = loop.model(**loop.batch).loss
            (loss if loop.penalty is None else loss + 10 * loop.penalty()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in loop.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)
    assert (gradients[0] - gradients[2]).norm() > 0.01 * gradients[2].norm()


PEERS = {
    "grokfast.py": "def gradfilter_ema(m, grads=None):\n    CALLS.append(1)\n    return {}\nCALLS = []\n",
    "orthograd.py": """
import torch
CALLS = []
class OrthoGrad(torch.optim.Optimizer):
    def __init__(self, params, base_optimizer_cls, **options):
        super().__init__(params, {})
        self.base = base_optimizer_cls(self.param_groups, **options)
    def step(self):
        CALLS.append(1)
        return self.base.step()
""",
}


def test_a_method_is_adamw_and_what_its_authors_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins of the authors' interfaces that add nothing: then the weights are AdamW's."""
    for name, text in PEERS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(peers, "WIDTH", 8)
    modules = {name: peers.load(tmp_path, name) for name in ("grokfast", "orthograd")}
    weights = {}
    for name in peers.NAMES:
        method = peers.Method(name, 3, 0.5, modules.get(name))
        for _ in range(4):
            method(IDS, LABELS)
        weights[name] = torch.cat([p.detach().flatten() for p in method.model.parameters()])
    assert [len(modules[name].CALLS) for name in modules] == [4, 4]
    assert torch.equal(weights["grokfast"], weights["adamw"]) and torch.equal(weights["orthograd"], weights["adamw"])
    assert not torch.equal(weights["ours"], weights["adamw"])
    assert peers.commit_of(tmp_path) == "unknown: not a checkout"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert peers.commit_of(tmp_path) != "unknown: not a checkout"


# What is told of it ---------------------------------------------------------------------------------------------------


def test_arms_take_turns_without_garbage_being_collected() -> None:
    order: list[str] = []

    def arm(name: str) -> float:
        assert not gc.isenabled()
        order.append(name)
        return float(len(order))

    found = interleave({name: lambda name=name: arm(name) for name in "ab"}, pairs=3)
    assert gc.isenabled()
    assert "".join(order) == "abbaabba"  # the first two warm up
    assert found == {"a": [4.0, 5.0, 8.0], "b": [3.0, 6.0, 7.0]}
    assert ratios(found["a"], found["b"]) == [4 / 3, 5 / 6, 8 / 7]


def test_verdicts() -> None:
    assert Row("x", at_most=1.02, values=[1.0, 1.02, 9.0]).met is True
    assert Row("x", at_most=1.02, values=[1.0, 1.03, 1.03]).met is False
    assert Row("x", at_least=3, values=[2.9]).met is False and Row("x", at_least=3, values=[3.1]).met is True
    assert Row("x", values=[2.0]).met is None and Row("x", at_most=2, missing="not yet run: make it").met is None
    row = Row("x", at_most=2, missing="not yet run: make it")
    assert markdown([row]).splitlines()[-1] == "| x | at most 2 | not yet run: make it | – | – |"
    late = Row("x", values=[3.0, 5.0, 5.0], bound=5.0, unit=" epochs")
    assert "> 5 epochs" in markdown([late])
    for each in (row, late):
        assert row_from_json(json.loads(json.dumps(each.to_json()))) == each


def test_a_clock_measures_between_step_boundaries() -> None:
    clock = trainer_speed.Clock(Steps(2, 5), "cpu")
    state = TrainerState()
    for step in range(1, 8):
        state.global_step = step
        clock.on_step_end(None, state, None)
    assert list(clock.times) == [2, 7] and clock.seconds() == (clock.times[7] - clock.times[2]) / 5


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    without_gpu = ["penalty-gpu", "trainer-gpu", "sweep-gpu"]
    run.main(["--quick", "--results", str(tmp_path), "--only", "penalty", *([] if torch.cuda.is_available() else without_gpu)])
    first = json.loads((tmp_path / "benchmarks.json").read_text())["groups"]
    run.main(["--quick", "--results", str(tmp_path), "--only", "trainer", "step-parts", "peers"])
    data = json.loads((tmp_path / "benchmarks.json").read_text())
    groups = data["groups"]
    assert list(groups) == [name for name in run.GROUPS if name in {*first, "trainer", "step-parts", "peers"}]
    assert all(groups[name] == first[name] for name in first)  # what was measured before stays
    for name in ("penalty", "trainer", "step-parts"):
        group = groups[name]
        assert group["environment"]["versions"]["torch"] and group["environment"]["machine"]["device"]
        for row in group["rows"]:
            assert len(row["values"]) == 1 and row["values"][0] > 0 and row["samples"] and row["configuration"]
    text, printed = (tmp_path / "benchmarks.md").read_text(), capfd.readouterr().out
    if not torch.cuda.is_available():
        assert {row["met"] for name in without_gpu for row in groups[name]["rows"]} == {None}
        for name in without_gpu:
            assert f"not yet run: python benchmarks/run.py --only {name}" in text
            assert f"not yet run: python benchmarks/run.py --only {name}" in printed
    assert "not run: give --grokfast PATH" in text and "penalty on / off, time: GPT-2 10M, CPU float32" in printed
    (tmp_path / "benchmarks.md").unlink()
    run.main(["--table", "--results", str(tmp_path)])
    assert (tmp_path / "benchmarks.md").read_text() == text


def test_quick_means_few_pairs_and_careful_means_enough() -> None:
    assert Settings(quick=True).pairs == 1
    with pytest.raises(ValueError, match="at least 5"):
        Settings(pairs=4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pairs", "4"], "at least 5"),
        (["--quick"], "--quick needs --results"),
        (["--only", "penalties"], "invalid choice"),
        (["--grokfast", "nowhere"], "no grokfast.py in there"),
        (["--threads", "0"], "must be at least 1"),
    ],
)
def test_bad_input_ends_before_anything_is_measured(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(words)
    assert message in capsys.readouterr().err


def test_the_committed_table_is_that_of_the_committed_data() -> None:
    file = run.RESULTS / run.FILE
    if not file.is_file():
        pytest.skip("not yet run")
    data = json.loads(file.read_text())
    assert (run.RESULTS / "benchmarks.md").read_text() == run.document(data)
    assert list(data["groups"]) == list(run.GROUPS)
    for name, group in data["groups"].items():
        assert not group["settings"]["quick"] and group["environment"]["revision"]
        for row in group["rows"]:
            assert row["missing"] or len(row["values"]) >= 5 or row["spread"] or name == "peers"
