"""Hooks: replaced vectors in any kind of output, arguments of a call, order, removal, copies and pickles."""

import copy
import pickle
from collections import namedtuple

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from hf_radial.sites.hooks import Hook, ModelHook, call_arguments, hook_sites, is_hooked, order_hooks, unhook, with_vectors
from hf_radial.sites.site import Site, site_vectors

Pair = namedtuple("Pair", "first second")
A, B, H = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)


def site(index=None, at_input=False):
    return Site("x", 1, "Linear", 0, index=index, at_input=at_input)


@pytest.mark.parametrize(
    ("output", "index"),
    [
        ((A, B), 1),
        ([A, B], 1),
        (Pair(A, B), 1),
        ({"h": A, "other": B}, "h"),
        (BaseModelOutput(last_hidden_state=A, hidden_states=(B,)), "last_hidden_state"),
        (torch.return_types.max((A, B)), 0),
    ],
)
def test_vectors_are_replaced_in_an_output_of_any_kind_which_keeps_its_class_and_is_not_changed(output, index):
    before = output[index]
    changed = with_vectors(site(index), (), {}, output, H)
    assert type(changed) is type(output) and len(changed) == len(output)
    assert changed[index] is H and site_vectors(site(index), (), {}, changed) is H
    assert output[index] is before
    if isinstance(output, BaseModelOutput):
        assert changed.last_hidden_state is H and changed.hidden_states[0] is B


def test_vectors_are_replaced_at_an_input_and_in_a_tensor_and_nowhere_else():
    assert with_vectors(site(), (), {}, A, H) is H
    assert with_vectors(site(at_input=True), (A, B), {}, None, H) == ((H, B), {})
    assert with_vectors(site(at_input=True), (), {"x": A, "y": B}, None, H) == ((), {"x": H, "y": B})
    assert with_vectors(site(0), (), {}, object(), H) is None


def test_arguments_of_a_call_by_position_by_name_and_within_a_batch():
    assert call_arguments(["a", "b"], [1], {"b": 2, "c": 3}) == {"a": 1, "b": 2, "c": 3}
    batch = {"input_ids": 1, "labels": 2}
    assert call_arguments(["batch"], [batch], {"labels": 3}) == {"batch": batch, "input_ids": 1, "labels": 3}


def double(site, h):
    return 2 * h


def add(site, h):
    return h + 1


def test_hooks_of_a_name_are_not_doubled_are_ordered_and_removed():
    model, one = nn.Sequential(nn.Identity()), Site("0", None, "Identity", 0)
    hook_sites(model, [one], double, "double")
    hook_sites(model, [one], double, "double")
    assert float(model(B)) == 2
    model[0].register_forward_hook(lambda module, args, output: output - 10)
    hook_sites(model, [one], add, "add")
    assert float(model(B)) == 2 * 1 - 10 + 1
    order_hooks(model, ["add", "double"])  # each in a place that one of the two had
    assert float(model(B)) == ((1 + 1) - 10) * 2
    unhook(model, "double")
    assert not is_hooked(model, "double") and is_hooked(model, "add")
    assert float(model(B)) == 1 + 1 - 10


def test_in_evaluation_hooks_of_training_leave_the_vectors_alone():
    model = nn.Sequential(nn.Identity())
    hook_sites(model, [Site("0", None, "Identity", 0)], double, "double", only_training=True)
    assert float(model.train()(B)) == 2 and float(model.eval()(B)) == 1


def test_only_hooks_of_the_model_go_into_copies_and_pickles():
    for kind, factor in ((Hook, 1), (ModelHook, 2)):
        model = nn.Sequential(nn.Identity())
        hook_sites(model, [Site("0", None, "Identity", 0)], double, "double", kind)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert float(other(B)) == factor
            assert is_hooked(other, "double") == (kind is ModelHook)
