"""`RadialPenalty` attaches, collects and detaches, and leaves no trace."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from reference import reference, stack, tiny_gpt2, token_rows
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForMultipleChoice

from hf_radial import RadialPenalty
from hf_radial.models import ModularMLPConfig, ModularMLPForSequenceClassification

pytestmark = pytest.mark.quick


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_detaching_leaves_no_hook_also_after_an_exception():
    model = tiny_gpt2().train()
    with pytest.raises(IndexError), RadialPenalty(model, 0.1):
        model(input_ids=torch.tensor([[99]]))
    assert hooks(model) == 0


def test_a_forward_that_raised_leaves_nothing_behind():
    model, batch = tiny_gpt2().train(), stack(token_rows(4, True))

    def fail(*args):
        raise ArithmeticError

    with RadialPenalty(model, 0.1) as penalty:
        model.lm_head.forward, forward = fail, model.lm_head.forward
        with pytest.raises(ArithmeticError):  # after every site has run
            model(**stack(token_rows(3, False)))
        model.lm_head.forward = forward
        model(**batch)
        expected = reference(model, batch, 0.1)["radial_penalty"]
        assert penalty().item() == pytest.approx(0.1 * expected, rel=1e-5)


def test_a_mask_that_fits_no_site_is_an_error_that_names_the_site():
    model, rows = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)), torch.ones(5, 4)
    model.forward = lambda x, attention_mask: model[2](model[1](model[0](x)))
    with RadialPenalty(model.train(), 0.1), pytest.raises(ValueError, match=r"'0' gives one vector for each of \(5,\)"):
        model(rows, torch.ones(5, 3))


def test_the_padding_of_multiple_choice():
    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)
    model, ids = BertForMultipleChoice(config).train(), torch.randint(1, 20, (2, 3, 5))
    mask = torch.ones_like(ids)
    mask[0, 1, 2:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    with RadialPenalty(model, 0.1, inputs=batch) as penalty:
        model(**batch)
        assert penalty.take().count.tolist() == [int(mask.sum())] * 2


def test_copies_and_pickles_of_an_attached_model_are_plain():
    model, batch = tiny_gpt2().train(), stack(token_rows(4, True))
    with RadialPenalty(model, 0.1) as penalty:
        model(**batch)  # and in the middle of a step
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            copied(**batch)
            assert len(penalty._collected) == 1


def test_evaluation_generation_and_no_grad_collect_nothing():
    model, batch = tiny_gpt2(), stack(token_rows(4, True))
    with RadialPenalty(model, 0.1) as penalty:
        model.eval()
        model(**batch)
        model.generate(batch["input_ids"][:, :3], max_new_tokens=2, do_sample=False)
        model.train()
        with torch.no_grad():
            model(**batch)
        with pytest.raises(RuntimeError, match="no vector was collected"):
            penalty()


def test_each_call_hands_out_what_was_collected_once():
    model, batch = tiny_gpt2().train(), stack(token_rows(4, False))
    with RadialPenalty(model, 0.1) as penalty:
        model(**batch)
        assert penalty() > 0
        with pytest.raises(RuntimeError, match="no vector was collected"):
            penalty()


def test_two_forwards_count_all_their_vectors_alike():
    model = tiny_gpt2().train()
    rows = token_rows(6, True)
    with RadialPenalty(model, 1.0) as penalty:
        model(**stack(rows[:2]))
        model(**stack(rows[2:]))
        assert penalty().item() == pytest.approx(reference(model, stack(rows), 1.0)["radial_penalty"], rel=1e-5)


def test_a_positional_mask_is_seen():
    model, batch = tiny_gpt2().train(), stack(token_rows(4, True))
    with RadialPenalty(model, 1.0) as penalty:
        model(batch["input_ids"], None, batch["attention_mask"])
        assert penalty().item() == pytest.approx(reference(model, batch, 1.0)["radial_penalty"], rel=1e-5)


def test_the_graph_is_freed_once_the_penalty_is_dropped():
    model, batch = tiny_gpt2().train(), stack(token_rows(4, False))
    with RadialPenalty(model, 0.1) as penalty:
        model(**batch)
        collected = [weakref.ref(sums.penalty) for sums in penalty._collected]
        penalty().backward()
        gc.collect()
        assert all(ref() is None for ref in collected)


def test_saving_and_copying_while_attached_are_clean(tmp_path):
    model = tiny_gpt2()
    model.save_pretrained(tmp_path / "plain")
    with RadialPenalty(model, 0.1):
        model.save_pretrained(tmp_path / "attached")
    plain, attached = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "attached"))
    assert plain == attached
    assert load_file(tmp_path / "attached" / "model.safetensors")


def test_calibration_sets_the_mean_radius_and_touches_nothing_else():
    model, batch = tiny_gpt2(dropout=0.5).train(), stack(token_rows(8, True))
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.transformer.h[0].eval()  # as who freezes it does
    modes = [module.training for module in model.modules()]
    penalty = RadialPenalty(model, 0.1, radius="initial")
    targets = penalty.calibrate(**batch)
    assert [module.training for module in model.modules()] == modes and hooks(model) == 0
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    expected = reference(model, batch, 0.0)["radius"]
    assert targets == {name: pytest.approx(r, rel=1e-5) for name, r in expected.items()}


def test_a_multiple_of_a_radius_multiplies_the_target():
    model, batch = tiny_gpt2().train(), stack(token_rows(8, True))
    initial = RadialPenalty(model, 0.1, radius="initial").calibrate(**batch)
    assert RadialPenalty(model, 0.1, radius="0.5*initial").calibrate(**batch) == {n: 0.5 * r for n, r in initial.items()}
    whole, twice = (RadialPenalty(model, 0.1, radius=radius).targets for radius in ("sqrt_d", "2 * sqrt_d"))
    assert whole and twice == {name: 2 * target for name, target in whole.items()}
    with RadialPenalty(model, 0.1, radius="2*initial"), pytest.raises(RuntimeError, match="calibrate"):
        model(**batch)


def test_an_uncalibrated_initial_radius_is_an_error():
    model = tiny_gpt2().train()
    with RadialPenalty(model, 0.1, radius="initial"), pytest.raises(RuntimeError, match="calibrate"):
        model(**stack(token_rows(2, False)))


def test_plain_modules_and_our_mlp():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)).train()
    x = torch.randn(5, 4)
    with RadialPenalty(plain, 2.0) as penalty:
        plain(x)
        expected = 2.0 * ((plain[0](x).norm(dim=-1) - 3.0) ** 2 / 9).mean()
        assert penalty().item() == pytest.approx(expected.item(), rel=1e-5)
    mlp = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=16)).train()
    with RadialPenalty(mlp, 1.0) as penalty:
        mlp(input_ids=torch.tensor([[1, 2], [3, 4]]))
        assert len(penalty.take().count) == 2


def test_bfloat16_models_are_measured_in_float32():
    model, batch = tiny_gpt2(), stack(token_rows(8, True))
    expected = reference(model, batch, 1.0)["radial_penalty"]
    model = model.to(torch.bfloat16).train()
    with RadialPenalty(model, 1.0) as penalty:
        model(**batch)
        value = penalty()
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected, rel=2e-2)  # bfloat16 activations
        value.backward()
    assert model.transformer.h[0].mlp.c_proj.weight.grad.dtype == torch.bfloat16


def test_the_table_and_repr_tell_where_the_penalty_is():
    penalty = RadialPenalty(tiny_gpt2(), 0.05)
    assert repr(penalty) == (
        "RadialPenalty(GPT2LMHeadModel, radial_lambda=0.05, radius='sqrt_d', side='both', 4 sites, detached)"
    )
    assert penalty.table().splitlines()[2].split() == ["transformer.h.0", "attn.c_proj", "Conv1D", "32", "4,288", "5.66"]
