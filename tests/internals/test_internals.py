"""The private parts of other libraries that hf_radial replaces or reads have not changed since we read them.

A failure here says which assumption no longer holds. `docs/internals.md` says where we use it and why.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import internals
import pytest
import torch
from reference import tiny_gpt2
from torch import nn
from transformers import Trainer

from hf_radial.internals.epoch import EPOCH_ARGUMENTS
from hf_radial.internals.replacing import method_replaced, put_in_front, set_class
from hf_radial.internals.torch_compile import functorch_is_active
from hf_radial.internals.torch_modules import fused_adam_step, is_compiled, operation, storage_of, writes
from hf_radial.internals.trainer_parts import checkpoints_reentrantly, forward_without_autocast
from hf_radial.training.mixin import RadialMixin

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/internals.md").read_text(encoding="utf-8")
READ = json.loads(internals.RECORD.read_text())
pytestmark = pytest.mark.quick  # so that every environment of `make versions` is asked


@pytest.mark.parametrize("library", internals.FUNCTIONS)
def test_the_source_is_one_that_was_read(library):
    version, found = internals.installed(library)
    new = [name for name, code in found.items() if code not in READ[name]]
    assert not new, (
        f"{library} {version} has other sources of {', '.join(new)} than hf_radial was written for. Compare them with "
        "the last version, correct what docs/internals.md names, then record them:\n"
        "python tests/support/internals.py --wheels FOLDER"
    )


def test_a_changed_source_is_noticed_and_a_comment_is_not():
    file = '''class Accelerator:
    def backward(self, loss):
        """Doc."""
        # why
        loss.backward()
'''
    read = lambda change: lambda name: change(file) if name == "accelerator.py" else ""  # noqa: E731
    name = "accelerate/accelerator.py: Accelerator.backward"
    one, commented, changed, gone = (
        internals.sources(read(change), "accelerate")[name]
        for change in (
            lambda code: code,
            lambda code: code.replace("# why", "# because").replace('"""Doc."""', '"""Other."""'),
            lambda code: code.replace("loss.backward()", "(loss / 2).backward()"),
            lambda code: code.replace("def backward", "def back"),
        )
    )
    assert one == commented != changed and gone == "missing"


def test_the_page_names_the_versions_that_were_read():
    for library in internals.FUNCTIONS:
        versions = {v for name in READ if name.startswith(f"{library}/") for group in READ[name].values() for v in group}
        first, *_, last = sorted(versions, key=lambda v: [int(part) for part in v.split(".")])
        assert f"{library} {first} to {last}" in PAGE


def test_every_row_of_the_page_has_a_test_and_a_file_that_exist():
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "what | where" not in line]
    written = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert len(rows) > 25
    for row in rows:
        tests, files = re.findall(r"`(test_\w+)`", row[3]), re.findall(r"`([\w/]+(?:\.py|/))`", row[1])
        assert tests and files, row
        assert [name for name in tests if f"def {name}(" not in written] == []
        assert [file for file in files if not (ROOT / "hf_radial" / file).exists()] == []


def test_only_internals_uses_private_names():
    """Names that have a function in hf_radial/internals. Subclasses of `Trainer` override others where their code is."""
    private = re.compile(
        r"torch\._\w|_getframe|\.__class__ = |\._schema\.|\._cdata|\b_forward_(?:pre_)?hooks|_compiled_call_impl|_orig_mod"
        r"|_gradient_checkpointing_func|_original_forward|_get_output_dir|_get_collator_with_removed_columns"
        r"|mallopt|_total_train_tokens|_opt_called|_set_sync_gradients|_remove_dataloader|\bcall_event\b"
    )
    files = [file for file in (ROOT / "hf_radial").rglob("*.py") if "internals" not in file.parts]
    assert len(files) > 100
    found = {str(file.relative_to(ROOT)): private.findall(file.read_text(encoding="utf-8")) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_the_fused_step_is_that_of_adamw():
    torch.manual_seed(0)
    weight, (first, second) = torch.randn(5, 7), torch.zeros(2, 5, 7)
    reference = torch.nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([reference], lr=0.01, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    for step in (1.0, 2.0, 3.0):
        reference.grad = torch.randn(5, 7)
        fused_adam_step(weight, reference.grad, first, second, torch.tensor(step), 0.01, (0.9, 0.98), 1e-8)
        optimizer.step()
    assert torch.equal(weight, reference.detach())


def test_what_is_replaced_on_an_object_is_put_back_after_an_error():
    class Thing:
        def name(self):
            return "plain"

    class Front:
        def name(self):
            return f"front of {super().name()}"

    thing = Thing()
    with pytest.raises(KeyError), method_replaced(thing, "name", lambda: "replaced"):
        assert thing.name() == "replaced"
        raise KeyError
    assert thing.name() == "plain" and vars(thing) == {}
    thing.name = other = lambda: "another's replacement"
    with method_replaced(thing, "name", lambda: "replaced"):
        assert thing.name() == "replaced"
    assert thing.name is other
    del thing.name
    plain = put_in_front(thing, Front, __name__)
    assert thing.name() == "front of plain" and type(thing).__name__ == "RadialThing" and type(thing).__module__ == __name__
    set_class(thing, plain)
    assert type(thing) is Thing


# transformers ---------------------------------------------------------------------------------------------------------


def test_an_epoch_has_the_arguments_that_the_fast_loop_reads():
    assert set(EPOCH_ARGUMENTS) <= set(inspect.signature(Trainer._run_epoch).parameters)


@pytest.mark.parametrize("name", ["_inner_training_loop", "_save_checkpoint", "get_batch_samples"])
def test_overridden_methods_have_the_same_parameters(name):
    ours, theirs = (list(inspect.signature(getattr(cls, name)).parameters) for cls in (RadialMixin, Trainer))
    assert ours == theirs


@pytest.mark.parametrize("name", ["_run_epoch", "_evaluate", "_finalize_training"])
def test_methods_that_we_wrap_are_still_called_by_the_loop(name):
    code = inspect.getsource(Trainer._inner_training_loop) + inspect.getsource(Trainer._maybe_log_save_evaluate)
    assert f"self.{name}(" in code


def test_a_training_step_calls_backward_once():
    assert inspect.getsource(Trainer.training_step).count("self.accelerator.backward(") == 1


@pytest.mark.parametrize("method", [Trainer.train, Trainer._inner_training_loop])
def test_the_frames_of_a_trainer_have_the_names_that_we_read(method):
    assert {"self", "resume_from_checkpoint"} <= set(inspect.unwrap(method).__code__.co_varnames)


def test_uploads_under_way_have_jobs():
    from transformers.utils import PushInProgress

    assert PushInProgress([]).jobs == [] and "push_in_progress" in inspect.getsource(Trainer._push_from_checkpoint)


def test_checkpointed_modules_have_the_function_that_we_look_at():
    model = tiny_gpt2()
    # Its name from transformers 5.23 on, and before.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": True})
    assert any(checkpoints_reentrantly(module) for module in model.modules())
    enable({"use_reentrant": False})
    assert not any(checkpoints_reentrantly(module) for module in model.modules())


# accelerate -----------------------------------------------------------------------------------------------------------


def test_schedulers_ask_whether_a_step_came_first():
    from torch.optim import lr_scheduler

    assert "_opt_called" in inspect.getsource(lr_scheduler)


def test_a_prepared_model_keeps_its_forward():
    from accelerate import Accelerator

    assert "model._original_forward = model.forward" in inspect.getsource(Accelerator.prepare_model)
    plain, model = nn.Linear(1, 1), nn.Linear(1, 1)
    model._original_forward = forward = model.forward
    assert forward_without_autocast(plain) is None and forward_without_autocast(model) is forward


# torch ----------------------------------------------------------------------------------------------------------------


def test_functorch_says_whether_it_is_active():
    inside = []
    torch.vmap(lambda x: (inside.append(functorch_is_active()), x)[1])(torch.zeros(2))
    assert inside == [True] and not functorch_is_active()


def test_a_compiled_module_is_known_as_one():
    plain, in_place = nn.Linear(1, 1), nn.Linear(1, 1)
    wrapped = torch.compile(nn.Linear(1, 1))
    in_place.compile()
    assert is_compiled(in_place) and is_compiled(wrapped) and not is_compiled(plain)
    assert is_compiled(nn.Sequential(plain, in_place)) and is_compiled(nn.Sequential(plain, wrapped))


def test_compiled_graphs_can_be_kept():
    import torch._functorch.config as settings

    assert isinstance(settings.donated_buffer, bool)


def test_operations_and_storages_tell_what_the_trace_asks():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = {}

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen[operation(func)] = writes(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(4)
    with Names():
        (x + 1).add_(1)
    assert seen == {"add": False, "add_": True}
    assert storage_of(x[1:]) == storage_of(x) != storage_of(torch.ones(4))


# trl ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SFTTrainer", "DPOTrainer"])
def test_trl_keeps_its_statistics_where_we_look(name):
    trl = pytest.importorskip("trl")
    code = inspect.getsource(inspect.getmodule(getattr(trl, name)))
    assert "self._metrics = " in code and "self._total_train_tokens = " in code
