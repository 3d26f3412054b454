"""Losses of positions and their mean, against float64 written out: z-loss, logit norm, label smoothing, StableMax."""

import copy

import pytest
import torch
from intervention_runs import PAIRS, Ours, P, make, small_config, weights
from reference import tiny_gpt2
from transformers import Trainer
from transformers.trainer_pt_utils import LabelSmoother

from hf_radial.interventions import intervention
from hf_radial.interventions.losses import mean_loss
from hf_radial.interventions.stablemax import log_stablemax
from hf_radial.models.modular_mlp import ModularMLPForSequenceClassification
from hf_radial.tasks.tensor_rows import TensorRows, as_batch

pytestmark = pytest.mark.quick
TEXTS = ["z_loss:strength=0.3", "logit_norm:strength=0.3", "label_smoothing:factor=0.3", "stablemax"]


def reference(text, z, label):
    """The loss of one position, slowly."""
    name, log_p = text.partition(":")[0], z - z.exp().sum().log()
    return {
        "z_loss": -log_p[label] + 0.3 * z.exp().sum().log() ** 2,
        "logit_norm": -log_p[label] + 0.3 * sum(x * x for x in z),
        "label_smoothing": sum(-log_p[j] * (0.7 * (j == label) + 0.3 / len(z)) for j in range(len(z))),
        "stablemax": -log_stablemax(z)[label],
    }[name]


def some_positions():
    torch.manual_seed(0)
    logits = (3 * torch.randn(2, 4, 5, dtype=torch.float64)).requires_grad_()
    return logits, torch.tensor([[1, -100, 2, 3], [-100, 4, 0, -100]])


@pytest.mark.parametrize("text", TEXTS)
def test_value_and_gradient_are_those_of_the_formula(text):
    logits, labels = some_positions()
    counted = [(logits[b, t], labels[b, t]) for b in range(2) for t in range(4) if labels[b, t] != -100]
    exact = sum(reference(text, z, int(label)) for z, label in counted)
    for items, divisor in ((None, len(counted)), (10, 10)):
        found = mean_loss(logits, labels, [intervention(text)], items)
        torch.testing.assert_close(found, exact / divisor, rtol=1e-12, atol=1e-12)
        ours = torch.autograd.grad(found, logits)[0]
        torch.testing.assert_close(ours, torch.autograd.grad(exact / divisor, logits, retain_graph=True)[0])
        assert not ours[labels == -100].any()


@pytest.mark.parametrize("text", TEXTS)
def test_the_trainers_loss_shifts_in_a_causal_model_alone(text, tmp_path):
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 16
    loss = make(tmp_path, [text], model=tiny_gpt2(width=8), rows=rows).compute_loss_func
    logits, labels = some_positions()
    part = [intervention(text)]
    shifted = mean_loss(logits[:, :-1], labels[:, 1:], part)
    torch.testing.assert_close(loss({"logits": logits}, labels), shifted, rtol=0, atol=0)
    loss = make(tmp_path, [text]).compute_loss_func
    torch.testing.assert_close(loss({"logits": logits}, labels), mean_loss(logits, labels, part), rtol=0, atol=0)


def test_label_smoothing_is_that_of_trainer():
    logits, labels = some_positions()
    theirs = LabelSmoother(epsilon=0.3)({"logits": logits.detach()}, labels)
    ours = mean_loss(logits, labels, [intervention("label_smoothing:factor=0.3")])
    torch.testing.assert_close(ours.detach().float(), theirs.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("text", TEXTS)
def test_half_precision_logits_give_a_finite_loss_in_float32(text, dtype):
    logits = torch.tensor([[300.0, -300.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = mean_loss(logits, torch.tensor([1, 2]), [intervention(text)])
    exact = mean_loss(logits.detach().double(), torch.tensor([1, 2]), [intervention(text)])
    assert loss.dtype in (torch.float32, torch.float64) and float(loss.detach()) == pytest.approx(float(exact), rel=1e-5)
    loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", [Trainer, Ours])
@pytest.mark.parametrize("text", TEXTS)
def test_a_micro_batch_weighs_as_much_as_it_has_rows(text, kind, tmp_path):
    """Of 20 rows in micro-batches of 8, the last has 4: a mean of means would count them twice."""
    rows = TensorRows({"input_ids": PAIRS[:20], "labels": PAIRS[:20].sum(1) % P})
    model = ModularMLPForSequenceClassification(small_config()).double()
    start = copy.deepcopy(model)
    common = {"learning_rate": 1.0, "optim": "sgd", "max_grad_norm": 0.0, "num_train_epochs": 1, "max_steps": -1}
    trainer = make(
        tmp_path,
        [text],
        kind,
        model=model,
        rows=rows,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=3,
        **common,
    )
    trainer.data_collator = as_batch
    trainer.train()
    logits = start(input_ids=rows.columns["input_ids"]).logits
    exact = sum(reference(text, z, int(label)) for z, label in zip(logits, rows.columns["labels"], strict=True)) / 20
    exact.backward()
    for name, p in start.named_parameters():
        torch.testing.assert_close(weights(trainer)[name], p.detach() - p.grad, rtol=1e-6, atol=1e-7)


def test_terms_add_up_and_only_one_replaces_the_cross_entropy(tmp_path):
    logits, labels = some_positions()
    loss = make(tmp_path, ["z_loss:strength=0.3", "stablemax", "logit_norm:strength=0.3"]).compute_loss_func
    alone = [mean_loss(logits, labels, [intervention(text)]) for text in (*TEXTS[:2], "stablemax", "label_smoothing:factor=0")]
    torch.testing.assert_close(loss({"logits": logits}, labels), sum(alone[:3]) - 2 * alone[3])
    with pytest.raises(ValueError, match="label_smoothing: stablemax has replaced the cross-entropy already"):
        make(tmp_path, ["stablemax", "label_smoothing"])


def test_a_loss_of_the_trainers_own_is_refused(tmp_path):
    with pytest.raises(ValueError, match="z_loss: the trainer has a loss of its own"):
        make(tmp_path, ["z_loss"], label_smoothing_factor=0.1)
    trainer = make(tmp_path, ["z_loss"])
    trainer.compute_loss_func = None
    with pytest.raises(ValueError, match="was taken away"):
        trainer.train()
    loss = make(tmp_path, ["z_loss"]).compute_loss_func
    with pytest.raises(ValueError, match=r"z_loss: labels of shape .* are no class numbers"):
        loss({"logits": torch.zeros(2, 3)}, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="z_loss: the batch has no labels"):
        loss({"logits": torch.zeros(2, 3)}, None)
