"""Every intervention acts in every way to train, and each checkpoint loads as the trained model.

One setting of each goes through: `model=` and `model_init=`, a second `train()`, the trials of a search, stop and resume,
`from_pretrained` of each checkpoint, and weights in float16 and bfloat16.
"""

import copy
import json
from functools import cache

import pytest
import torch
from intervention_runs import PAIRS, ROWS, Ours, make, same, small_config, weights
from intervention_runs import SETTINGS as ALL
from reference import tiny_gpt2, token_rows
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, set_seed

from hf_radial import RadialArguments, RadialCallback
from hf_radial.geometry.observe import observe, quiet
from hf_radial.hub.publish_model import _card_of_checkpoint, published
from hf_radial.interventions import INTERVENTIONS, add_interventions, configure, restore
from hf_radial.interventions.replay import FILE
from hf_radial.models.modular_mlp import ModularMLPForSequenceClassification
from hf_radial.sites.find import find_sites
from hf_radial.sites.hooks import is_hooked
from hf_radial.tasks.tensor_rows import as_batch

SETTINGS = ALL | {
    "radial": "radial:strength=0.1,radius=initial",
    "projection": "projection:mode=straight_through,radius=3",
    "logit_temperature": "logit_temperature:temperature=3",
    "redo": "redo:threshold=0.5,every=1",
    "record": "record",
    "replay weight_norm": "replay:what=weight_norm,file=FILE",
    "replay logit_scale": "replay:what=logit_scale,file=FILE",
    "replay radius": "replay:what=radius,file=FILE",
}
# What no weights can hold; `restore` puts it in force again.
RESTORED = {"projection", "logit_temperature", "cosine_head", "replay radius"}
STEPS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "max_grad_norm": 0.0}


def test_every_intervention_goes_through():
    assert {name.partition(" ")[0] for name in SETTINGS} == set(INTERVENTIONS)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The record of a run with another learning rate."""
    folder = tmp_path_factory.mktemp("recorded")
    make(folder, ["record"], model=copy.deepcopy(base("record")), max_steps=4, learning_rate=5e-2).train()
    return str(folder / FILE)


@pytest.fixture(params=SETTINGS)
def name(request):
    return request.param


@pytest.fixture
def text(name, recorded):
    return SETTINGS[name].replace("FILE", recorded)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The weights of a run without the intervention, of each model that interventions start from and each dtype once."""
    found = {}

    def weights_of(name, dtype=torch.float32, **options):
        key = (name if name in ("layer_norm", "ngpt") else "", dtype)
        if key not in found:
            folder = tmp_path_factory.mktemp("plain")
            found[key] = weights(run(folder, name, [], model=copy.deepcopy(base(name)).to(dtype), **options)[0])
        return found[key]

    return weights_of


@cache
def base(name):
    """The model that all runs of an intervention start from."""
    set_seed(3)
    given = [SETTINGS[name]] if name in ("layer_norm", "ngpt") else []
    return ModularMLPForSequenceClassification(configure(small_config(), given))


class Watch(TrainerCallback):
    """The logits of the model in evaluation at each checkpoint, and the weights and the learning rate of each training."""

    def __init__(self):
        self.logits, self.weights, self.rates = {}, [], []

    def on_save(self, args, state, control, model, **kwargs):
        self.logits[state.global_step] = answers(model)
        model.train()

    def on_train_end(self, args, state, control, model, **kwargs):
        self.weights.append({name: value.detach().clone() for name, value in model.state_dict().items()})
        self.rates.append(args.learning_rate)


@torch.no_grad()
def answers(model):
    tokens = torch.arange(24).reshape(3, 8) % model.config.vocab_size if isinstance(model, GPT2LMHeadModel) else PAIRS
    return model.eval()(input_ids=tokens).logits


def run(folder, name, given, **options):
    """A run from the same model, with `model_init=` unless a `model` is given."""
    start = {} if "model" in options else {"model_init": lambda: copy.deepcopy(base(name))}
    checkpoint = options.pop("checkpoint", None)
    watch = Watch()
    trainer = make(folder, given, callbacks=[watch], **start, **{**STEPS, **options})
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    return trainer, watch


def assert_in_force(name, folder, with_it, without):
    """By the weights that it leads to; `record` trains nothing otherwise, and writes its file."""
    assert all(value.isfinite().all() for value in with_it.values())
    if name == "record":
        assert same(with_it, without)
        assert [row["step"] for row in json.loads((folder / FILE).read_text())] == list(range(1, STEPS["max_steps"] + 1))
    elif name not in ("layer_norm", "ngpt"):  # these are in the model that both runs start from
        assert not same(with_it, without)
    if name == "ngpt":
        torch.testing.assert_close(with_it["hidden.0.weight"].norm(dim=1), torch.ones(8))


def test_model_init_a_second_training_resuming_and_loading(name, text, plain, tmp_path):
    whole, watch = run(tmp_path / "model", name, [text], model=copy.deepcopy(base(name)))
    expected = weights(whole)
    assert_in_force(name, tmp_path / "model", expected, plain(name))

    # model_init makes another model in `train()`, and again in the next.
    trainer, again = run(tmp_path / "init", name, [text])
    assert_in_force(name, tmp_path / "init", weights(trainer), plain(name))
    assert same(weights(trainer), expected)
    trainer.train()
    assert same(weights(trainer), expected)
    assert again.logits.keys() == watch.logits.keys() == {2, 4}
    assert is_hooked(trainer.model, name.partition(" ")[0]) == (name in RESTORED)

    # A run that was stopped goes on as if it had not been.
    (tmp_path / "model" / FILE).unlink(missing_ok=True)
    resumed, _ = run(tmp_path / "model", name, [text], checkpoint=tmp_path / "model" / "checkpoint-2")
    assert same(weights(resumed), expected)
    assert_in_force(name, tmp_path / "model", weights(resumed), plain(name))

    # Each checkpoint is the model that there was, and so is what is saved at the end.
    whole.save_model(str(tmp_path / "end"))
    folders = {step: tmp_path / "init" / f"checkpoint-{step}" for step in watch.logits} | {"end": tmp_path / "end"}
    for step, folder in folders.items():
        loaded = ModularMLPForSequenceClassification.from_pretrained(folder)
        there = watch.logits.get(step, answers(whole.model))
        assert torch.equal(answers(loaded), there) == (name not in RESTORED)
        assert torch.equal(answers(restore(loaded)), there)
        assert torch.equal(answers(copy.deepcopy(restore(loaded))), there)  # once, however often it is asked for


def test_a_second_training_of_the_same_model_is_one_that_starts_from_it(name, text, tmp_path):
    options = {**STEPS, "save_strategy": "no"}
    trainer, _ = run(tmp_path / "first", name, [text], model=copy.deepcopy(base(name)), **options)
    other = copy.deepcopy(base(name))
    other.load_state_dict(trainer.model.state_dict())
    trainer.optimizer = None  # which `Trainer` would go on with
    set_seed(7)
    trainer.train()
    fresh = make(tmp_path / "second", [text], model=other, **options)
    set_seed(7)
    fresh.train()
    assert same(weights(trainer), weights(fresh))


def test_it_is_in_force_in_each_trial_of_a_search(name, text, tmp_path):
    watch = Watch()
    trainer = make(
        tmp_path / "search",
        [text],
        Ours,
        model_init=lambda: copy.deepcopy(base(name)),
        callbacks=[watch],
        **STEPS,
    )
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)},
        n_trials=2,
        direction="minimize",
        backend="optuna",
        compute_objective=lambda metrics: metrics["eval_loss"],
    )
    assert len(set(watch.rates)) == 2
    # The second trial, in which the first could have left something.
    alone, _ = run(tmp_path / "alone", name, [text], learning_rate=watch.rates[1], kind=Ours)
    assert same(watch.weights[1], weights(alone)) and not same(watch.weights[0], watch.weights[1])
    for trial, rate in enumerate(watch.rates):
        folder = tmp_path / "search" / f"run-{trial}"
        assert files(folder) == files(tmp_path / "alone")
        for checkpoint in ("checkpoint-2", "checkpoint-4"):
            assert files(folder / checkpoint) == files(tmp_path / "alone" / checkpoint)
        record = json.loads((folder / "run.json").read_text())
        assert record["training_args"]["learning_rate"] == pytest.approx(rate)
    assert not files(tmp_path / "search")


def files(folder):
    return {file.name for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_stay_finite(name, text, dtype, plain, tmp_path):
    # AdamW's epsilon is 0 in float16.
    options = {"optim": "sgd", "max_steps": 3, "learning_rate": 0.1, "save_strategy": "no"}
    model = copy.deepcopy(base(name)).to(dtype)
    if name == "soap" or (name == "muon" and dtype == torch.float16):
        with pytest.raises(ValueError, match="float32"):
            run(tmp_path, name, [text], model=model, **options)
        return
    found = weights(run(tmp_path, name, [text], model=model, **options)[0])
    assert all(value.dtype == dtype and value.isfinite().all() for value in found.values())
    # `record` trains nothing otherwise, both runs start from a model with the norm, and `ewc` pulls from the second step on
    # after its anchor.
    assert same(found, plain(name, dtype, **options)) == (name in ("record", "layer_norm", "ewc"))


@pytest.mark.parametrize("name", ["spectral_norm", "projection", "logit_temperature", "muon", "dropout", "stablemax"])
def test_checkpoints_of_a_transformer_load_as_the_model_that_was_trained(name, tmp_path):
    start = tiny_gpt2(width=8)
    watch, options = Watch(), {**STEPS, "per_device_train_batch_size": 4}
    trainer = make(tmp_path, [SETTINGS[name]], model=start, callbacks=[watch], rows=token_rows(16, True), **options)
    plain = make(tmp_path / "plain", [], model=tiny_gpt2(width=8), rows=token_rows(16, True), **options)
    trainer.train()
    plain.train()
    assert not same(weights(trainer), weights(plain))
    for step, there in watch.logits.items():
        loaded, info = GPT2LMHeadModel.from_pretrained(tmp_path / f"checkpoint-{step}", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert torch.equal(answers(loaded), there) == (name not in RESTORED)
        assert torch.equal(answers(restore(loaded)), there)


def test_the_best_checkpoint_that_is_loaded_at_the_end_is_divided_already(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "greater_is_better": True}
    trainer, watch = run(tmp_path, "spectral_norm", ["spectral_norm"], model=copy.deepcopy(base("record")), **options)
    assert trainer.state.best_global_step == 2
    assert torch.equal(answers(trainer.model), watch.logits[2])


@pytest.mark.parametrize(
    "name", ["grokfast_ema", "grokfast_ma", "weight_norm", "spectral_norm", "record", "l2_init", "ewc", "redo"]
)
def test_a_checkpoint_without_what_it_remembered_is_refused(name, tmp_path):
    run(tmp_path, name, [SETTINGS[name]])
    checkpoint = tmp_path / "checkpoint-2"
    (checkpoint / f"intervention_{name}.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"{name}: .*checkpoint-2.* is missing.*from_pretrained\("):
        run(tmp_path, name, [SETTINGS[name]], checkpoint=checkpoint)


def test_what_another_model_remembered_is_refused(tmp_path):
    run(tmp_path, "grokfast_ema", ["grokfast_ema"])
    checkpoint = tmp_path / "checkpoint-2"
    file = checkpoint / "intervention_grokfast_ema.safetensors"
    save_file({f"other.{name}": value for name, value in load_file(file).items()}, file)
    with pytest.raises(ValueError, match="does not fit this model"):
        run(tmp_path, "grokfast_ema", ["grokfast_ema"], checkpoint=checkpoint)


@pytest.mark.parametrize("names", [["radial_gradient", "projection"], ["projection", "radial_gradient"]])
def test_interventions_take_effect_in_the_order_in_which_they_are_given(names, tmp_path):
    given = [SETTINGS[name] for name in names]
    trainer, _ = run(tmp_path / "a", "record", given, model=copy.deepcopy(base("record")))
    fresh, _ = run(tmp_path / "b", "record", given)
    turned, _ = run(tmp_path / "c", "record", given[::-1])
    assert same(weights(trainer), weights(fresh)) and not same(weights(fresh), weights(turned))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("weight_decay:value=0.5", "ngpt"),
        ("optim:optim=adafactor", "muon"),
        ("muon", "optim:optim=adafactor"),
        ("embedding_rate:ratio=3", "muon"),
    ],
)
def test_one_that_another_takes_out_of_force_is_refused_before_the_first_step(first, second, tmp_path):
    with pytest.raises(ValueError, match="leave"):
        run(tmp_path, "ngpt" if second == "ngpt" else "record", [first, second])


@pytest.mark.parametrize(("text", "space"), [("weight_decay:value=0.5", "weight_decay"), ("ngpt", "weight_decay")])
def test_a_search_cannot_take_one_out_of_force(text, space, tmp_path):
    trainer = make(tmp_path, [text], model_init=lambda: copy.deepcopy(base("ngpt")), **STEPS)
    with pytest.raises(ValueError, match=r"it sets weight_decay=.*leave weight_decay out"):
        trainer.hyperparameter_search(
            lambda trial: {space: trial.suggest_float(space, 1e-3, 1e-2)}, n_trials=1, direction="minimize", backend="optuna"
        )


def test_an_intervention_is_given_once(tmp_path):
    trainer = make(tmp_path, ["stablemax"])
    with pytest.raises(ValueError, match="stablemax: the trainer has this intervention already"):
        add_interventions(trainer, ["stablemax"])


def test_a_loop_that_is_not_the_trainers_is_refused(tmp_path):
    class OwnLoop(Trainer):
        def train(self, *args, **kwargs):
            self.callback_handler.on_train_begin(self.args, self.state, self.control)

    with pytest.raises(RuntimeError, match="not in force"):
        make(tmp_path, ["projection"], OwnLoop).train()


def test_a_published_checkpoint_is_its_model_without_what_only_training_needs_and_its_card_restores_it(tmp_path):
    given = ["projection:radius=3", "spectral_norm", "grokfast_ema"]
    run(tmp_path, "record", given, kind=Ours)
    for checkpoint in (tmp_path / "checkpoint-2", tmp_path / "checkpoint-4"):
        there = {file.name for file in published(checkpoint)}
        assert {"model.safetensors", "config.json"} <= there and not any("intervention" in name for name in there)
        card = _card_of_checkpoint(tmp_path, checkpoint, "org/name", 2)
        assert "from hf_radial.interventions import restore" in card
        assert "restore(model)  # trained with projection:radius=3.0" in card
    run(tmp_path / "plain", "record", ["spectral_norm"], kind=Ours)
    assert "restore" not in _card_of_checkpoint(tmp_path / "plain", tmp_path / "plain" / "checkpoint-2", "org/name", 2)


def test_what_is_measured_of_a_projected_model_in_half_precision_is_projected(tmp_path):
    """Geometry is measured on a copy in float32."""
    trainer = make(tmp_path, ["projection:radius=3"], model=copy.deepcopy(base("record")).to(torch.bfloat16))
    sites = list(find_sites(trainer.model))
    with quiet(trainer.model) as model:
        seen = observe(model, {"input_ids": PAIRS, "labels": PAIRS[:, 0]}, sites)
    for view in seen.sites:
        torch.testing.assert_close(view.vectors.norm(dim=1), torch.full((len(PAIRS),), 3.0))


@pytest.mark.parametrize("space", [["dropout:p=0.1"], ["projection"]])
def test_a_search_cannot_choose_interventions_in_silence(space, tmp_path):
    """The record would name them."""
    args = RadialArguments(
        str(tmp_path), max_steps=1, intervention=["projection"], report_to="none", use_cpu=True, remove_unused_columns=False
    )
    trainer = Ours(model_init=lambda: copy.deepcopy(base("record")), args=args, train_dataset=ROWS, data_collator=as_batch)
    trainer.args.intervention = space
    if space == ["projection"]:
        trainer.train()
        return
    with pytest.raises(ValueError, match=r"intervention=\['dropout:p=0.1'\] is in the arguments but not in force"):
        trainer.train()


@pytest.mark.parametrize("given", [True, False])
def test_arguments_that_name_interventions_need_them_in_force_with_a_callback_too(given, tmp_path):
    args = RadialArguments(
        str(tmp_path), max_steps=1, intervention=["dropout:p=0.1"], report_to="none", use_cpu=True, remove_unused_columns=False
    )
    callbacks = [RadialCallback(radial_lambda=0.1)]
    model = copy.deepcopy(base("record"))
    trainer = Trainer(model=model, args=args, train_dataset=ROWS, data_collator=as_batch, callbacks=callbacks)
    if given:
        add_interventions(trainer, args.intervention)
        trainer.train()
        return
    with pytest.raises(ValueError, match=r"needs add_interventions\(trainer, args.intervention\)"):
        trainer.train()
