"""The modular-arithmetic MLP: against plain torch, fresh and reloaded, through the Auto classes, and learning."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification

import hf_radial.models
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification

pytestmark = pytest.mark.quick

SMALL = {"modulus": 7, "embedding_size": 8, "hidden_size": 16}


def small(**overrides: Any) -> ModularMLPForSequenceClassification:
    torch.manual_seed(0)
    return ModularMLPForSequenceClassification(ModularMLPConfig(**{**SMALL, **overrides}))


def operands(batch: int, num_operands: int, modulus: int = 7) -> torch.Tensor:
    return torch.randint(modulus, (batch, num_operands), generator=torch.Generator().manual_seed(1))


def reference(state: dict[str, torch.Tensor], input_ids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and pre-activations from the weights alone, an operand at a time."""
    x = torch.cat([state["embedding.weight"][input_ids[:, i]] for i in range(input_ids.shape[1])], dim=-1)
    pre_activations = []
    for i in itertools.count():
        if f"hidden.{i}.weight" not in state:
            return x @ state["classifier.weight"].T + state["classifier.bias"], pre_activations
        h = x @ state[f"hidden.{i}.weight"].T + state[f"hidden.{i}.bias"]
        pre_activations.append(h)
        x = h.clamp(min=0)


@pytest.mark.parametrize(("num_operands", "num_hidden_layers"), [(1, 1), (2, 2), (3, 4)])
def test_forward_and_pre_activations_match_plain_torch(num_operands: int, num_hidden_layers: int) -> None:
    model = small(num_operands=num_operands, num_hidden_layers=num_hidden_layers)
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if name.startswith("hidden."):
            module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.update({name: output}))
    input_ids = operands(5, num_operands)
    logits, pre_activations = reference(model.state_dict(), input_ids)
    torch.testing.assert_close(model(input_ids).logits, logits)
    assert list(seen) == [f"hidden.{i}" for i in range(num_hidden_layers)]
    for output, expected in zip(seen.values(), pre_activations, strict=True):
        torch.testing.assert_close(output, expected)
        assert (output < 0).any(), "a pre-activation has both signs"


def test_the_default_is_the_mlp_of_the_paper() -> None:
    model = ModularMLPForSequenceClassification(ModularMLPConfig())
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes == {
        "embedding.weight": (97, 256),
        "hidden.0.weight": (512, 512),
        "hidden.0.bias": (512,),
        "hidden.1.weight": (512, 512),
        "hidden.1.bias": (512,),
        "classifier.weight": (97, 512),
        "classifier.bias": (97,),
    }
    assert model.get_input_embeddings() is model.embedding
    assert model.config.num_labels == 97


def test_loss_is_the_mean_cross_entropy_in_float32() -> None:
    model = small().to(torch.bfloat16)
    input_ids, labels = operands(6, 2), operands(6, 1)[:, 0]
    output = model(input_ids=input_ids, labels=labels)
    assert output.logits.dtype is torch.bfloat16
    assert output.loss.dtype is torch.float32
    expected = -output.logits.float().log_softmax(-1)[torch.arange(6), labels].mean()
    torch.testing.assert_close(output.loss, expected)
    assert model(input_ids).loss is None


def assert_default_linear(weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Uniform in +-1/sqrt(fan_in), as `nn.Linear` fills both; `PreTrainedModel` would give N(0, 0.02) and zeros."""
    bound = 1 / math.sqrt(weight.shape[1])
    for values in (weight.flatten(), bias):
        assert values.abs().max() <= bound
        # The distance of the empirical distribution from the uniform one (Kolmogorov-Smirnov; p < 1e-6 beyond 2.7).
        ranks = torch.arange(1, values.numel() + 1) / values.numel()
        distance = (values.detach().sort().values / (2 * bound) + 0.5 - ranks).abs().max()
        assert distance < 2.7 / math.sqrt(values.numel())


def assert_standard_normal(values: torch.Tensor) -> None:
    values = values.detach().flatten()
    ranks = torch.arange(1, values.numel() + 1) / values.numel()
    assert (torch.special.ndtr(values.sort().values) - ranks).abs().max() < 2.7 / math.sqrt(values.numel())


@pytest.mark.parametrize("built_by", [ModularMLPForSequenceClassification, AutoModelForSequenceClassification.from_config])
def test_a_fresh_model_has_normal_embeddings_and_torch_default_linears(built_by: Any) -> None:
    torch.manual_seed(0)
    model = built_by(ModularMLPConfig())
    assert_standard_normal(model.embedding.weight)
    for linear in (*model.hidden, model.classifier):
        assert_default_linear(linear.weight, linear.bias)


def test_weights_missing_from_a_checkpoint_are_initialised_and_the_others_are_kept(tmp_path: Path) -> None:
    model = small(hidden_size=256)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("hidden.1.")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    reloaded = ModularMLPForSequenceClassification.from_pretrained(tmp_path)
    for name, value in kept.items():
        assert torch.equal(reloaded.state_dict()[name], value), name
    assert not torch.equal(reloaded.hidden[1].weight, model.hidden[1].weight)
    assert_default_linear(reloaded.hidden[1].weight, reloaded.hidden[1].bias)


@pytest.mark.parametrize("auto", [False, True])
def test_save_and_load_is_bit_equal(tmp_path: Path, auto: bool) -> None:
    model = small(num_operands=3, num_hidden_layers=3)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loader = AutoModelForSequenceClassification if auto else ModularMLPForSequenceClassification
    reloaded = loader.from_pretrained(tmp_path)
    assert type(reloaded) is ModularMLPForSequenceClassification
    state = reloaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name
    input_ids = operands(4, 3)
    assert torch.equal(reloaded(input_ids).logits, model.eval()(input_ids).logits)


def test_auto_config_round_trip(tmp_path: Path) -> None:
    config = ModularMLPConfig(modulus=11, num_operands=3, embedding_size=5, hidden_size=6, num_hidden_layers=4)
    config.save_pretrained(tmp_path)
    reloaded = AutoConfig.from_pretrained(tmp_path)
    assert type(reloaded) is ModularMLPConfig
    assert reloaded.to_dict() == {**config.to_dict(), "_name_or_path": str(tmp_path)}
    assert reloaded.id2label == {i: str(i) for i in range(11)}
    assert AutoConfig.for_model("modular_mlp", modulus=5).modulus == 5


@pytest.mark.parametrize("name", ["modulus", "num_operands", "embedding_size", "hidden_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", [0, -3, 2.0, "2"])
def test_a_bad_size_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1"):
        ModularMLPConfig(**{name: value})


def test_labels_that_are_not_the_residues_are_refused() -> None:
    with pytest.raises(ValueError, match="id2label has 2 entries, but modulus is 7"):
        ModularMLPConfig(modulus=7, id2label={0: "even", 1: "odd"})


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (2,), (4, 2, 1)])
def test_operands_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, num_operands\) with num_operands = 2, but has shape"):
        small()(torch.zeros(shape, dtype=torch.long))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Matrices this small only wait for each other's threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_it_learns_the_addition_table_modulo_7() -> None:
    model = small(embedding_size=16, hidden_size=32)
    table = torch.tensor(list(itertools.product(range(7), repeat=2)))
    answers = table.sum(dim=1) % 7
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = model(input_ids=table, labels=answers).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model(table).logits.argmax(dim=-1), answers)
    assert F.cross_entropy(model(table).logits, answers) < 0.05


def test_every_parameter_gets_a_gradient() -> None:
    model = small()
    model(input_ids=operands(64, 2), labels=operands(64, 1)[:, 0]).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert isinstance(model.hidden, nn.ModuleList)


def test_the_package_exports_lazily() -> None:
    assert hf_radial.models.ModularMLPConfig is ModularMLPConfig
    assert set(hf_radial.models.__all__) <= set(dir(hf_radial.models))
    with pytest.raises(AttributeError, match="no attribute 'NoSuchModel'"):
        hf_radial.models.NoSuchModel  # noqa: B018
    code = "import sys, hf_radial.models; sys.exit('hf_radial.models.modular_mlp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
