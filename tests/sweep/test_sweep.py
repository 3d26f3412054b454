"""Runs trained together equal single runs: weights and logs against `RadialTrainer`, run by run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import set_seed
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_callback import PrinterCallback

from hf_radial import GrokkingCallback, RadialArguments, RadialTrainer
from hf_radial.interventions import INTERVENTIONS, add_interventions, intervention, interventions
from hf_radial.interventions.initial_scale import InitialScale
from hf_radial.interventions.options import options_of
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.penalty.functional import radial_penalty
from hf_radial.sweep.members import SweepMember
from hf_radial.sweep.stacked_mlp import StackedMLP, side_bounds
from hf_radial.sweep.together import train_together
from hf_radial.tasks.tensor_rows import TensorRows, as_batch

P = 11
ROWS = 75  # batches of 16: the last of an epoch has 11
# seed, radial_lambda, weight_decay, learning_rate
GRID = [(3, 0.0, 1.0, 1e-3), (4, 0.1, 1.0, 1e-3), (3, 0.1, 0.01, 1e-3), (4, 0.0, 0.0, 3e-3), (5, 2.0, 0.5, 1e-3)]
OPTIONS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
    "max_steps": 43,  # neither a whole epoch nor a whole window of the log
    "logging_steps": 7,
    "eval_strategy": "steps",
    "eval_steps": 10,
    "save_strategy": "no",
    "remove_unused_columns": False,
    "dataloader_pin_memory": False,
    "optim": "adamw_torch_fused",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
TIMED = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time")


class DoubleMLP(ModularMLPForSequenceClassification):
    """The model in float64, the loss too, which the model itself computes in float32."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
        logits = super().forward(input_ids).logits
        return SequenceClassifierOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


def rows_of(operands: int, seed: int = 0) -> tuple[TensorRows, dict[str, TensorRows]]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, P, (ROWS + 40, operands), generator=generator)
    columns = {"input_ids": ids, "labels": ids.sum(1) % P}
    train, rest = ({name: column[part] for name, column in columns.items()} for part in (slice(ROWS), slice(ROWS, None)))
    return TensorRows(train), {"train": TensorRows(train).first(50), "validation": TensorRows(rest)}


def exact_match(prediction: Any) -> dict[str, float]:
    return {"exact_match": float((prediction.predictions == prediction.label_ids).mean())}


def trainers(cls: type, folder: Path, model: type = ModularMLPForSequenceClassification, **options: Any) -> Iterator[Any]:
    """One trainer a point of the grid, made when it is asked for: the seed that was set last is then its own, as in a run."""
    shape = {"num_operands": 2, "num_hidden_layers": 2, **options.pop("shape", {})}
    train, splits = rows_of(shape["num_operands"])
    grid, callbacks = options.pop("grid", GRID), options.pop("callbacks", list)
    own_rows, own = options.pop("own_rows", False), options.pop("own", [{}] * len(grid))
    for i, (seed, radial_lambda, weight_decay, learning_rate) in enumerate(grid):
        swept = {"seed": seed, "radial_lambda": radial_lambda, "weight_decay": weight_decay, "learning_rate": learning_rate}
        swept |= own[i]
        methods = swept.pop("interventions", [])
        if own_rows:
            train, splits = rows_of(shape["num_operands"], seed=i)
        args = RadialArguments(output_dir=str(folder / cls.__name__ / str(i)), **{**OPTIONS, **swept, **options})
        set_seed(seed)
        trainer = cls(
            model=model(ModularMLPConfig(modulus=P, embedding_size=6, hidden_size=16, **shape)).to(
                torch.float64 if model is DoubleMLP else torch.float32
            ),
            args=args,
            train_dataset=train,
            eval_dataset=splits,
            data_collator=as_batch,
            compute_metrics=exact_match,
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
            callbacks=callbacks(),
        )
        trainer.remove_callback(PrinterCallback)
        if cls is SweepMember:
            for method in interventions(methods):
                method.join_sweep(trainer)
        else:
            add_interventions(trainer, methods)
        yield trainer


def both_ways(folder: Path, **options: Any) -> tuple[list[RadialTrainer], list[SweepMember]]:
    singles = []
    for trainer in trainers(RadialTrainer, folder, **options):
        trainer.train()
        singles.append(trainer)
    members = list(trainers(SweepMember, folder, **options))
    train_together(members)
    return singles, members


def check_equal(singles: list[Any], members: list[Any], weights: float, logged: float) -> None:
    """Weights to an absolute, logs to a relative tolerance, and the same names in the same order at the same steps."""
    for single, member in zip(singles, members, strict=True):
        for (name, ours), theirs in zip(member.model.named_parameters(), single.model.parameters(), strict=True):
            assert (ours - theirs).abs().max().item() < weights, name
        log, expected = (
            [{k: v for k, v in logs.items() if not k.endswith(TIMED)} for logs in t.state.log_history] for t in (member, single)
        )
        assert [list(logs) for logs in log] == [list(logs) for logs in expected]
        for logs, wanted in zip(log, expected, strict=True):
            assert logs == pytest.approx(wanted, rel=logged, abs=logged)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"radial_warmup_steps": 20, "radial_schedule": "cosine", "lr_scheduler_type": "linear", "warmup_steps": 5},
        {"max_grad_norm": 0.5, "radial_radius": "2.5", "radial_side": "above", "data_seed": 9},
        {"radial_radius": "initial", "shape": {"num_hidden_layers": 1, "num_operands": 3}},
        {
            "per_device_train_batch_size": 200,
            "shape": {"num_hidden_layers": 3},
            "eval_on_start": True,
            "logging_first_step": True,
        },
        {"max_steps": -1, "num_train_epochs": 3, "optim": "adamw_torch", "adam_beta2": 0.98, "lr_scheduler_type": "cosine"},
        {"shape": {"normalization": "layer_norm"}},
        {"shape": {"normalization": "layer_norm_last"}, "radial_radius": "initial"},
        {
            "own_rows": True,
            "lr_scheduler_type": "constant_with_warmup",
            "own": [
                {"warmup_steps": 3, "adam_beta2": 0.9, "max_grad_norm": 0.5},
                {"warmup_steps": 0, "adam_beta2": 0.99},
                {"warmup_steps": 30, "max_grad_norm": 0.05},
            ],
        },
        {
            "radial_warmup_steps": 10,
            "own": [
                {
                    "radial_radius": "0.5*initial",
                    "radial_side": "below",
                    "radial_sites": ["hidden.1"],
                    "interventions": ["logit_temperature:temperature=0.5"],
                },
                {"radial_radius": "2*sqrt_d", "radial_side": "above", "interventions": ["logit_temperature:temperature=3"]},
                {"radial_radius": "2*initial", "radial_sites": ["hidden.0"]},
            ],
        },
        {
            "radial_radius": "initial",
            "lr_scheduler_type": "cosine",
            "own": [
                {"interventions": ["embedding_rate:ratio=3"]},
                {"interventions": ["embedding_rate:ratio=0.5,weight_decay=0", "initial_scale:factor=2"]},
                {"interventions": ["initial_scale:factor=0.5"]},
            ],
        },
    ],
    ids=[
        "plain",
        "schedules",
        "clipping",
        "initial",
        "full batch",
        "epochs",
        "norm",
        "last norm",
        "each its own",
        "penalties",
        "embeddings and scales",
    ],
)
def test_members_are_their_single_runs_in_float64(tmp_path: Path, options: dict[str, Any]) -> None:
    """Beyond a doubt: where rounding is 1e-16, weights after 40 steps agree to 1e-11."""
    singles, members = both_ways(tmp_path, model=DoubleMLP, grid=GRID[1:4] if options else GRID, **options)
    check_equal(singles, members, weights=1e-11, logged=1e-6)  # sums of the log are kept in float32 there


@pytest.mark.quick
def test_members_are_their_single_runs_in_float32(tmp_path: Path) -> None:
    singles, members = both_ways(tmp_path)
    check_equal(singles, members, weights=2e-5, logged=1e-4)
    # The tolerance tells one run from another: seeds, and lambda and weight decay at one seed, are further apart.
    for other in members[1:]:
        assert (members[0].model.classifier.weight - other.model.classifier.weight).abs().max() > 1e-3


def test_a_member_ends_where_its_callback_says_and_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    """Held-out accuracy is twice in a row at the threshold at different steps, or never: each ends at its own."""
    stopping = {"callbacks": lambda: [GrokkingCallback(fit_threshold=0.15, threshold=0.1, stop_evaluations=2)]}
    options = {**stopping, "model": DoubleMLP, "max_steps": 97, "lr_scheduler_type": "linear", "eval_steps": 6}
    singles, members = both_ways(tmp_path, **options)
    ends = [trainer.state.global_step for trainer in singles]
    assert len(set(ends)) > 2 and min(ends) < 97
    assert [member.state.global_step for member in members] == ends
    check_equal(singles, members, weights=1e-11, logged=1e-6)
    assert any("grokking/fit_step" in logs for member in members for logs in member.state.log_history)


def test_a_member_that_becomes_nan_fails_alone(tmp_path: Path) -> None:
    """One learning rate is far too large: that run fails and says so, the others are bit for bit what they are without it."""
    grid = [(3, 0.1, 1.0, 1e-3), (3, 0.1, 1.0, 1e30), (4, 0.1, 1.0, 1e-3)]
    ended: list[tuple[str, int]] = []
    members = list(trainers(SweepMember, tmp_path / "with", grid=grid))
    train_together(members, on_end=lambda member: ended.append((Path(member.args.output_dir).name, member.state.global_step)))
    assert [member.failure is None for member in members] == [True, False, True]
    assert "the loss was nan in the steps up to 7" in str(members[1].failure)
    assert ended == [("1", 7), ("0", 43), ("2", 43)]
    alone = list(trainers(SweepMember, tmp_path / "without", grid=[grid[0], grid[2]]))
    train_together(alone)
    for member, other in zip([members[0], members[2]], alone, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(member.model.parameters(), other.model.parameters(), strict=True))


def test_the_record_says_that_it_was_a_sweep_and_else_what_a_single_run_says(tmp_path: Path) -> None:
    singles, members = both_ways(tmp_path, grid=GRID[:2], max_steps=2)
    for single, member in zip(singles, members, strict=True):
        ours, theirs = (json.loads((Path(t.args.output_dir) / "run.json").read_text()) for t in (member, single))
        assert (ours.pop("trainer"), theirs.pop("trainer")) == ("SweepMember", "RadialTrainer")
        assert ours.pop("sweep")["members"] == 2
        for record in (ours, theirs):
            record["training_args"] = {k: v for k, v in record["training_args"].items() if k != "output_dir"}
        assert ours == theirs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2 is not supported in a sweep"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 is not supported"),
        ({"lr_scheduler_type": "polynomial"}, "lr_scheduler_type='polynomial'"),
        ({"optim": "adafactor"}, "optim='adafactor' is not supported"),
        ({"radial_sites": ["embedding"]}, "'embedding' is no hidden layer of these models"),
        ({"accelerator_config": {"use_seedable_sampler": False}}, "use_seedable_sampler=False"),
    ],
)
def test_what_is_not_supported_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    members = list(trainers(SweepMember, tmp_path, grid=GRID[:1], **options))
    with pytest.raises(ValueError, match=re.escape(message)):
        train_together(members)
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.quick
def test_members_may_differ_in_what_is_swept_only(tmp_path: Path) -> None:
    (one,), (other,) = (list(trainers(SweepMember, tmp_path, grid=GRID[:1], adam_beta1=beta)) for beta in (0.9, 0.8))
    rows, other.train_dataset = other.train_dataset, other.train_dataset.first(70)
    with pytest.raises(ValueError, match="a train_dataset or eval_dataset of different sizes"):
        train_together([one, other])
    other.train_dataset = rows
    with pytest.raises(ValueError, match=re.escape("members differ in adam_beta1: 0.9 and 0.8")):
        train_together([one, other])
    with pytest.raises(TypeError, match="Linear cannot be stacked"):
        StackedMLP([nn.Linear(2, 2)])  # type: ignore[list-item]


@pytest.mark.quick
@pytest.mark.parametrize("sides", [("both", "both", "both"), ("above", "both", "below")])
@pytest.mark.parametrize("block", [1, 2**30])
def test_gradients_are_those_of_autograd(monkeypatch: pytest.MonkeyPatch, sides: tuple[str, ...], block: int) -> None:
    """In blocks or all at once; a vector at the origin has no gradient of its penalty."""
    monkeypatch.setattr("hf_radial.sweep.stacked_mlp.BLOCK", block)
    torch.manual_seed(0)
    config = ModularMLPConfig(modulus=P, num_operands=3, embedding_size=4, hidden_size=6, num_hidden_layers=3)
    models = [DoubleMLP(config).double() for _ in range(3)]
    with torch.no_grad():  # all vectors of this layer are zero
        models[1].hidden[1].weight.zero_(), models[1].hidden[1].bias.zero_()
    ids, labels = torch.randint(0, P, (3, 20, 3)), torch.randint(0, P, (3, 20))
    weights = torch.tensor([0.0, 0.3, 5.0], dtype=torch.float64) * torch.tensor([[1], [1], [0.5]])
    temperatures = [1.0, 0.5, 3.0]
    targets = torch.rand(3, 3, dtype=torch.float64) + 0.2
    stack = StackedMLP(models, temperatures=temperatures)
    values = stack.step(ids, labels, targets, side_bounds(sides, targets), weights)
    for i, model in enumerate(models):
        seen: list[torch.Tensor] = []
        hooks = [layer.register_forward_hook(lambda module, args, h, seen=seen: seen.append(h)) for layer in model.hidden]
        task_loss = F.cross_entropy(model(input_ids=ids[i]).logits / temperatures[i], labels[i])
        penalties = [radial_penalty(h, float(targets[site, i]), side=sides[i]) for site, h in enumerate(seen)]
        (task_loss + sum(weight * penalty for weight, penalty in zip(weights[:, i], penalties, strict=True))).backward()
        assert values.task_loss[i].item() == pytest.approx(task_loss.item(), rel=1e-12)
        assert values.penalty[:, i].tolist() == pytest.approx([p.item() for p in penalties], rel=1e-12)
        for name, parameter in model.named_parameters():
            ours = torch.cat([piece[i] for piece in stack.gradients[name]], -1)
            torch.testing.assert_close(ours, parameter.grad, rtol=1e-10, atol=1e-14)
        assert torch.allclose(stack.logits(ids[0])[i], model(input_ids=ids[0]).logits / temperatures[i], atol=1e-12)
        for hook in hooks:
            hook.remove()


def test_what_can_join_a_sweep_says_in_which_options_its_members_may_differ(tmp_path: Path) -> None:
    joining = {name for name, kind in INTERVENTIONS.items() if kind.swept is not None}
    assert joining == {"radial", "layer_norm", "logit_temperature", "embedding_rate", "initial_scale"}
    for name in joining:
        assert set(INTERVENTIONS[name].swept or ()) <= {option.name for option in options_of(INTERVENTIONS[name])}

    class Other(InitialScale):
        """It has another way to train alone, and inherits what `InitialScale` does in a sweep."""

    member = next(trainers(SweepMember, tmp_path))
    for one in (intervention("stablemax"), intervention("layer_norm:affine=true"), Other(factor=2.0)):
        assert not one.can_join_sweep()
        with pytest.raises(ValueError, match="runs that share their steps cannot have it with these options; train it alone"):
            one.join_sweep(member)
