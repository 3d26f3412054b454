"""SOAP and Schedule-Free through a trainer: the steps, groups and schedules of their packages."""

import copy

import pytest
import torch
from intervention_runs import PAIRS, P, make, seeded_model, weights
from transformers.trainer_utils import SchedulerType

pytestmark = pytest.mark.quick
WHOLE = {"per_device_train_batch_size": 49, "max_grad_norm": 0.0, "weight_decay": 0.5, "train_sampling_strategy": "sequential"}


def start():
    return seeded_model().double()


def trained(make_optimizer, steps, rates=None):
    """A model after the steps of an optimizer in a loop of its own; biases are not decayed."""
    model = start()
    decayed = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    others = [p for name, p in model.named_parameters() if name.endswith("bias")]
    optimizer = make_optimizer([{"params": decayed, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}])
    if hasattr(optimizer, "train"):
        optimizer.train()
    for i in range(steps):
        for group in optimizer.param_groups if rates else ():
            group["lr"] = rates[i]
        optimizer.zero_grad()
        model(input_ids=PAIRS, labels=PAIRS.sum(1) % P).loss.backward()
        optimizer.step()
    return model, optimizer


def test_soap_takes_the_steps_of_its_package_with_the_trainers_schedule_and_groups(tmp_path):
    package = pytest.importorskip("pytorch_optimizer")
    options = {"adam_beta1": 0.8, "adam_beta2": 0.9, "max_steps": 4, "lr_scheduler_type": "linear"}
    trainer = make(tmp_path, ["soap:frequency=2"], model=start(), **WHOLE, **options)
    trainer.train()
    expected, _ = trained(
        lambda groups: package.SOAP(groups, lr=1e-2, betas=(0.8, 0.9), precondition_frequency=2),
        4,
        [1e-2 * share for share in (1, 0.75, 0.5, 0.25)],
    )
    for name, p in expected.named_parameters():
        torch.testing.assert_close(weights(trainer)[name], p.detach(), rtol=1e-9, atol=1e-9)


def test_schedule_free_has_its_own_warm_up_and_no_other(tmp_path):
    package = pytest.importorskip("schedulefree")
    options = {"max_steps": 4, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3}
    trainer = make(tmp_path, ["optim:optim=schedule_free_adamw"], model=start(), **WHOLE, **options)
    assert trainer.args.lr_scheduler_type == SchedulerType.CONSTANT
    trainer.train()
    expected, optimizer = trained(lambda groups: package.AdamWScheduleFree(groups, lr=1e-2, warmup_steps=3), 4)
    for name, p in expected.named_parameters():
        torch.testing.assert_close(weights(trainer)[name], p.detach(), rtol=1e-9, atol=1e-9)
    there = copy.deepcopy(weights(trainer))
    trainer.evaluate()  # at the averaged weights
    optimizer.eval()
    assert not torch.equal(weights(trainer)["classifier.weight"], there["classifier.weight"])
    for name, p in expected.named_parameters():
        torch.testing.assert_close(weights(trainer)[name], p.detach(), rtol=1e-9, atol=1e-9)


def test_another_schedule_than_the_constant_one_is_refused(tmp_path):
    pytest.importorskip("schedulefree")
    trainer = make(tmp_path, ["optim:optim=schedule_free_adamw"], model=start())
    trainer.args.lr_scheduler_type = SchedulerType.LINEAR
    with pytest.raises(ValueError, match="optim: it sets lr_scheduler_type="):
        trainer.train()


def test_a_schedule_free_run_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    pytest.importorskip("schedulefree")
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **WHOLE}
    given = ["optim:optim=schedule_free_adamw"]
    whole = make(tmp_path, given, model=start(), **options)
    whole.train()
    resumed = make(tmp_path, given, model=start(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=0, atol=0)
