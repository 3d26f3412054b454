"""The sites of the penalty: found automatically, named by the user, and refused."""

from __future__ import annotations

import pytest
import torch
import transformers
from reference import tiny_gpt2
from torch import nn
from warm import run_python
from zoo import tiny_inputs, tiny_model, training_batch

from hf_radial import RadialPenalty, find_sites
from hf_radial.models import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.sites.find import default_inputs

pytestmark = pytest.mark.quick

SITES = [
    "transformer.h.0.attn.c_proj",
    "transformer.h.0.mlp.c_proj",
    "transformer.h.1.attn.c_proj",
    "transformer.h.1.mlp.c_proj",
]


def names(sites):
    return [site.name for site in sites]


class Block(nn.Module):
    """A residual block that is nobody's: names tell nothing."""

    def __init__(self, d: int = 8, inline: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.inline = inline

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).relu()
        return x + (y @ self.b.weight.T if self.inline else self.b(y))


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_by_default_a_models_own_inputs_are_used():
    assert names(find_sites(tiny_gpt2())) == SITES
    seq2seq = tiny_model("seq2seq", "t5")
    masks = {site.name: site.mask for site in find_sites(seq2seq)}
    assert masks["encoder.block.0.layer.0.SelfAttention.o"] == "attention_mask"
    assert masks["decoder.block.0.layer.1.EncDecAttention.o"] == "decoder_attention_mask"
    image = tiny_model("image", "vit")
    assert {site.mask for site in find_sites(image)} == {None}
    assert default_inputs(image)["pixel_values"].shape == (1, 3, 32, 32)


def test_wrapped_models_have_the_same_sites():
    model = tiny_gpt2()
    wrapper = nn.DataParallel(model)  # on a machine without a GPU it only adds a level
    assert names(find_sites(wrapper, default_inputs(model))) == ["module." + name for name in SITES]


def test_any_module_will_do_if_it_gets_inputs():
    model = Stack(Block(), Block())
    assert names(find_sites(model, {"x": torch.randn(2, 3, 8)})) == ["blocks.0.b", "blocks.1.b"]
    with pytest.raises(ValueError, match=r"Stack is no transformers model.*Pass inputs="):
        find_sites(model)
    with pytest.raises(ValueError, match=r"failed on the given inputs with TypeError"):
        find_sites(model, {"y": torch.randn(2, 3, 8)})


def test_finding_leaves_no_trace():
    model = tiny_gpt2(dropout=0.5).train()
    torch.manual_seed(0)
    state, training = torch.get_rng_state(), [m.training for m in model.modules()]
    find_sites(model).verify()
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_hidden_pre_activations_of_mlps():
    mlp = ModularMLPForSequenceClassification(ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=8))
    assert names(find_sites(mlp)) == ["hidden.0", "hidden.1"]
    assert [site.width for site in find_sites(mlp)] == [8, 8]
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 2))
    assert [(site.name, site.width) for site in find_sites(plain)] == [("0", 8), ("2", 6)]
    traced = find_sites(plain, {"input": torch.randn(3, 4)})
    assert [(site.name, site.width, site.in_place) for site in traced] == [("0", 8, True), ("2", 6, False)]
    assert [check.how for check in traced.verify({"input": torch.randn(3, 4)})] == ["pre-activation"] * 2


def test_an_activation_that_overwrites_the_vectors_does_not_disturb_the_gradient():
    torch.manual_seed(0)
    x, gradients = torch.randn(5, 4, dtype=torch.float64), []
    for inplace in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=inplace), nn.Linear(8, 2)).double()
        with RadialPenalty(model, 0.5, inputs={"input": x}) as penalty:
            (model(x).sum() + penalty()).backward()
        gradients.append(model[0].weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-15)  # the sum is made in another order


def test_cross_attention_is_a_sublayer_too():
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=14, add_cross_attention=True)
    model = transformers.GPT2LMHeadModel(config)
    inputs = {**default_inputs(model), "encoder_hidden_states": torch.randn(2, 4, 16)}
    assert "transformer.h.0.crossattention.c_proj" in names(find_sites(model, inputs))


def test_patterns_say_what_to_take_instead():
    model = tiny_gpt2()
    assert names(find_sites(model, sites=["*.mlp.c_proj"])) == SITES[1::2]
    patterns = [r"re:.*h\.1\.(attn|mlp)\.c_proj", "*.h.0.ln_1"]
    assert names(find_sites(model, sites=patterns)) == ["transformer.h.0.ln_1", *SITES[2:]]
    assert names(find_sites(model, sites=["*.c_proj", "!*.h.0.*"])) == SITES[2:]


def test_exclusions_alone_leave_the_rest():
    model = tiny_gpt2()
    assert names(find_sites(model, sites=["!*.attn.*"])) == SITES[1::2]
    assert names(find_sites(model, sites=["!*.h.0"])) == SITES[2:]
    with pytest.raises(ValueError, match="all were left out"):
        find_sites(model, sites=["!*.h.*"])


def test_a_place_in_the_output_and_a_channel_axis():
    model = tiny_gpt2()
    with pytest.raises(ValueError, match=r"h.0.attn.*several.*h.0.attn#0"):
        find_sites(model, sites=["*.h.?.attn"])
    sites = find_sites(model, sites=["*.h.?.attn#0"])
    assert [(site.index, site.width) for site in sites] == [(0, 32)] * 2
    with (
        RadialPenalty(model, 0.1, sites=["*.h.?.attn#0"]) as penalty,
        RadialPenalty(model, 0.1, sites=["*.attn.c_proj"]) as same,
    ):
        model(torch.randint(1, 14, (2, 5)))
        assert penalty().item() == pytest.approx(same().item())
    turned = find_sites(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), {"input": torch.randn(2, 3, 4)}, ["0@1"])
    assert turned[0].dim == 1
    convolution = nn.Sequential(nn.Conv1d(4, 6, 1), nn.ReLU(), nn.Conv1d(6, 4, 1))
    found = find_sites(convolution, {"input": torch.randn(2, 4, 5)})
    assert [(site.dim, site.width) for site in found] == [(1, 6)]


def test_before_or_behind_the_norm_of_a_sublayer():
    model = tiny_model("causal-lm", "gemma2")
    behind, before = find_sites(model), find_sites(model, where="pre_norm")
    assert names(behind) == names(before)
    assert all("post_" in site.name and not site.at_input for site in behind)
    assert all(site.at_input for site in before)
    batch = training_batch("causal-lm", model)
    seen = {}
    norm = model.model.layers[0].post_attention_layernorm
    norm.register_forward_pre_hook(lambda module, args: seen.update(h=args[0].detach()))
    with RadialPenalty(model, 1.0, sites=None, where="pre_norm") as penalty:
        model.train()(**batch)
        radii = penalty.take().radius
    mask = batch["attention_mask"].bool()
    assert radii[0].item() == pytest.approx(seen["h"][mask].norm(dim=-1).sum().item(), rel=1e-5)
    llama = tiny_model("causal-lm", "llama")
    assert find_sites(llama, where="pre_norm")[:] == find_sites(llama)[:]
    with pytest.raises(ValueError, match="where='post_norm'"):
        find_sites(llama, where="post_norm")


def test_a_block_without_a_site_is_an_error_not_a_partial_penalty():
    x = {"x": torch.randn(2, 3, 8)}
    with pytest.raises(ValueError, match=r"block 'blocks.1' \(Block\) adds to its stream what no module returns"):
        find_sites(Stack(Block(), Block(inline=True)), x)
    hidden = Block()
    hidden.forward = lambda x: torch.lerp(x, hidden.b(hidden.a(x)), 0.5)  # an add of another name
    with pytest.raises(ValueError, match=r"block 'blocks.1' \(Block\) changes its stream by 'lerp'.*sites=\["):
        find_sites(Stack(Block(), hidden), x)
    assert names(find_sites(Stack(Block(), hidden), x, sites=["!blocks.1"])) == ["blocks.0.b"]
    assert names(find_sites(Stack(Block(), hidden), x, sites=["blocks.*.b"])) == ["blocks.0.b", "blocks.1.b"]


def test_a_site_without_a_graph_is_an_error():
    """Not every reentrant checkpoint can be seen beforehand; Reformer's layers are of their own kind."""

    class Checkpointed(Stack):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=True)

    x = torch.randn(2, 3, 8, requires_grad=True)
    model = Checkpointed(Block(), Block())
    with RadialPenalty(model, 0.1, inputs={"x": x}), pytest.raises(RuntimeError, match=r"'blocks.0.b' runs without a graph"):
        model(x)
    with RadialPenalty(model, 0.0, inputs={"x": x}) as penalty:  # only measured
        model(x).sum().backward()
        assert penalty.take().count.tolist() == [6, 6]
    reformer = tiny_model("causal-lm", "reformer")
    with RadialPenalty(reformer, 0.1), pytest.raises(RuntimeError, match="reversible layers"):
        reformer.train()(**training_batch("causal-lm", reformer))


class Two(Block):
    """A sublayer that a module returns, then another, whose term `of` makes from the stream and the module."""

    def __init__(self, of) -> None:
        super().__init__()
        self.first, self.of = nn.Linear(8, 8), of

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.first(x)
        return x + self.of(x, self)


def test_a_later_sublayer_is_not_lost_behind_an_earlier_one():
    x = {"x": torch.randn(2, 3, 8)}
    for of in (
        lambda x, s: s.b(s.a(x)).relu(),
        lambda x, s: s.b(s.a(x)) @ torch.ones(8, 8),
        lambda x, s: s.b(s.a(x)).sigmoid() * s.b(s.a(x)),
    ):
        with pytest.raises(ValueError, match=r"block 'blocks.0' \(Two\) adds to its stream what no module returns"):
            find_sites(Stack(Two(of), Two(of)), x)


def test_residual_blocks_are_not_taken_for_an_mlp():
    x = {"x": torch.randn(2, 3, 8)}
    with pytest.raises(ValueError, match=r"block 'blocks.0' \(Block\) adds to its stream what no module returns"):
        find_sites(Stack(Block(inline=True), Block(inline=True)), x)
    other = Stack(Block(), Block())
    for block in other.blocks:
        block.forward = lambda x, block=block: torch.lerp(x, block.b(block.a(x).relu()), 0.5)
    with pytest.raises(ValueError, match=r"block 'blocks.0' \(Block\) changes its stream by 'lerp'"):
        find_sites(other, x)
    with pytest.raises(ValueError, match=r"Pass inputs="):  # the hidden layers of its blocks are no sites
        find_sites(Stack(*[nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(2)]))
    output = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Sigmoid())
    assert names(find_sites(output)) == names(find_sites(output, {"input": torch.randn(3, 4)})) == ["0"]


def test_a_hidden_layer_that_is_called_again_is_one_site():
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(self.a(x).relu()).relu())

    assert names(find_sites(Again(), {"x": torch.randn(3, 8)})) == ["a"]


def test_blocks_whose_names_have_no_number():
    """The numbers in `feed.2` are those of a sublayer's parts."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.feed = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.mix(x)
            return x + self.feed(x)

    class Named(Stack):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = Layer(), Layer()
            self.in_order = [self.one, self.other, self.one]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.in_order:
                x = layer(x)
            return x

    model, x = Named(), {"x": torch.randn(2, 3, 8)}
    assert names(find_sites(model, x)) == ["one.mix", "one.feed.2", "other.mix", "other.feed.2"]
    model.other.forward = lambda x: x + model.other.feed(x).relu()
    with pytest.raises(ValueError, match=r"block 'other' \(Layer\) adds to its stream what no module returns"):
        find_sites(model, x)


def test_what_python_sums():
    layer = Block()
    layer.forward = lambda x: x + sum([layer.b(layer.a(x)), layer.b(layer.a(-x))])
    assert names(find_sites(Stack(layer), {"x": torch.randn(2, 3, 8)})) == ["blocks.0.b"]


def test_recurrent_sublayers():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.LSTM(8, 8), nn.GRU(8, 8)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = x + layer(x)[0]
            return x

    sites = find_sites(Recurrent(), {"x": torch.randn(2, 3, 8)})
    assert [(site.name, site.index) for site in sites] == [("layers.0", 0), ("layers.1", 0)]


def test_padding_in_torchs_own_encoder():
    """In evaluation mode it would pack a padded batch into a nested tensor, and the self-check too."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    inputs = {"src": torch.randn(2, 3, 8), "src_key_padding_mask": torch.tensor([[0, 0, 0], [0, 0, 1]]).bool()}
    sites = find_sites(model, inputs)
    assert [(site.name, site.index) for site in sites[:2]] == [("layers.0.self_attn", 0), ("layers.0.linear2", None)]
    assert [check.how for check in sites.verify(inputs)] == ["replay"] * 2
    assert RadialPenalty(model, 0.1, radius="initial", inputs=inputs).calibrate(**inputs)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_self_check_needs_more_than_one_vector_to_tell_a_channels_weight():
    model = Stack(Block(), Block())
    model.blocks[1].b = nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8))
    inputs = {"x": torch.randn(1, 1, 8)}
    wrong = find_sites(model, inputs, sites=["*.b.0"]).verify(inputs)
    assert [check.how for check in wrong] == ["failed"]


def test_the_self_check_knows_gates_for_each_row_and_low_precision():
    class Gated(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.b(self.a(x)) * x.mean(1, keepdim=True)

    x = {"x": torch.randn(2, 5, 8)}
    assert all(check.ok for check in find_sites(Stack(Gated(), Gated()), x).verify(x))
    low = tiny_model("causal-lm", "llama").to(torch.bfloat16)
    assert all(check.ok for check in find_sites(low).verify())


def test_attention_without_a_residual_is_not_taken_for_an_mlp():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layer._sa_block = lambda x, *a, **k: layer.self_attn(x, x, x)[0]
    layer.forward = lambda x: layer._sa_block(layer.linear2(layer.linear1(x).relu()))
    with pytest.raises(ValueError, match="no site found"):
        find_sites(layer, {"x": torch.randn(2, 3, 8)})


def test_shared_layers_are_one_site_with_all_their_calls():
    model = tiny_model("masked-lm", "albert")
    sites = find_sites(model)
    assert len(sites) == len(set(names(sites))) == 2
    with RadialPenalty(model, 0.1) as penalty:
        batch = training_batch("masked-lm", model)
        model.train()(**batch)
        count = penalty.take().count
    assert count.tolist() == [model.config.num_hidden_layers * int(batch["attention_mask"].sum())] * 2


def test_the_check_of_each_block_can_be_read():
    model = tiny_model("causal-lm", "granite")
    checks = find_sites(model).verify(tiny_inputs("causal-lm", model))
    assert all(check.ok and check.how == "intervention" and check.error < 1e-5 for check in checks)
    checks = find_sites(tiny_gpt2()).verify()
    assert [(check.block, check.how) for check in checks] == [(f"transformer.h.{i}", "replay") for i in (0, 1)]
    assert checks[0].sites == tuple(SITES[:2]) and checks[0].error < 1e-6
    wrong = find_sites(tiny_gpt2(), sites=["*.mlp.c_fc"]).verify()
    assert [check.how for check in wrong] == ["failed"] * 2 and all(check.reason for check in wrong)


def test_the_table_shows_layer_sublayer_module_width_and_parameters():
    lines = str(find_sites(tiny_gpt2())).splitlines()
    assert lines[0].split("  ")[0] == "layer" and len(lines) == 6
    assert lines[2].split() == ["transformer.h.0", "attn.c_proj", "Conv1D", "32", "4,288"]


@pytest.mark.parametrize("source", ["model", "config"])
def test_the_command_line_shows_the_sites(source, tmp_path):
    (tiny_gpt2() if source == "model" else tiny_gpt2().config).save_pretrained(tmp_path)
    command = ["-m", "hf_radial.cli", "sites", str(tmp_path), "--verify"]
    result = run_python(*command)
    assert result.returncode == 0, result.stderr
    assert "transformer.h.1  mlp.c_proj" in result.stdout
    assert result.stdout.count("replay") == 2
    result = run_python(*command, "--exclude", "*.attn.*")
    assert "attn.c_proj" not in result.stdout
    assert result.stdout.count("intervention") == 2 and result.returncode == 0  # the rest are increments, but not all of them
    result = run_python(*command, "--sites", "*.mlp.c_fc")
    assert result.stdout.count("failed") == 2 and result.returncode == 1
    result = run_python(*command[:-2], "no/such")
    assert result.returncode == 2 and "hf-radial: error: 'no/such'" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda x, f: torch.lerp(x, f, 0.5), "lerp"),
        (lambda x, f: x - f, "sub"),
        (lambda x, f: torch.stack([x, f]).sum(0), "sum"),
        (lambda x, f: torch.addcmul(x, f, f.sigmoid()), "addcmul"),
    ],
)
def test_a_sublayer_that_is_not_added_makes_the_penalty_partial(change, what):
    class Mixed(Block):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 8)

        def forward(self, x):
            x = x + self.first(x)
            return change(x, self.b(self.a(x).relu()))

    with pytest.raises(ValueError, match=rf"block 'blocks.0' \(Mixed\) changes its stream by '{what}'"):
        find_sites(Stack(Mixed(), Mixed()), {"x": torch.randn(2, 3, 8)})


def test_the_channels_are_the_streams_where_a_sublayer_mixes_positions():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions, self.channels = nn.Linear(5, 5), nn.Linear(8, 8)

        def forward(self, x):
            x = x + self.positions(x.transpose(1, 2)).transpose(1, 2)
            return x + self.channels(x)

    sites = find_sites(Stack(Mixer(), Mixer()), {"x": torch.randn(2, 5, 8)})
    assert [(site.sublayer, site.dim, site.width) for site in sites[:2]] == [("positions", 1, 8), ("channels", -1, 8)]


def test_an_activation_of_any_kind_has_its_hidden_layer():
    class MLP(nn.Module):
        def __init__(self, *activations, functional_first=False):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(len(activations) + 1))
            self.activations, self.functional_first = activations, functional_first

        def forward(self, x):
            for i, activation in enumerate(self.activations):
                layer = self.layers[i]
                hidden = nn.functional.linear(x, layer.weight) if self.functional_first and i == 0 else layer(x)
                x = activation(hidden)
            return self.layers[-1](x)

    x = {"x": torch.randn(3, 4)}
    functions = [torch.relu, nn.PReLU(), nn.CELU(), torch.sin, lambda z: z * z, lambda z: z * z.sigmoid(), torch.abs]
    sites = find_sites(MLP(*functions), x)
    assert names(sites) == [f"layers.{i}" for i in range(len(functions))]
    assert {check.how for check in sites.verify(x)} == {"pre-activation"}
    with pytest.raises(ValueError, match="no module returns what goes into one of the activations"):
        find_sites(MLP(torch.relu, torch.relu, functional_first=True), x)


def test_batch_and_sequence_of_one_length_are_told_apart():
    class SequenceFirst(Stack):
        def forward(self, input_ids):
            return super().forward(nn.functional.one_hot(input_ids, 8).float().transpose(0, 1)).transpose(0, 1)

    assert all(
        site.sequence_first for site in find_sites(SequenceFirst(Block(), Block()), {"input_ids": torch.ones(4, 4).long()})
    )


@pytest.mark.parametrize("call", ["positional", "batch"])
def test_the_mask_is_found_however_the_batch_is_passed(call):
    class TakesTheBatch(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, batch):
            return self.model(**batch)

    model = tiny_model("causal-lm", "llama").train()
    batch = training_batch("causal-lm", model)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    wrapper = TakesTheBatch(model) if call == "batch" else nn.DataParallel(model)
    with RadialPenalty(wrapper, 1.0, inputs={"batch": inputs} if call == "batch" else inputs) as penalty:
        wrapper(inputs) if call == "batch" else wrapper(*inputs.values())
        assert set(penalty.take().count.tolist()) == {int(batch["attention_mask"].sum())}
