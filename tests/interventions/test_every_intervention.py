"""All interventions do the same in a plain Trainer and in ours, also under accumulation, and leave files that load.

More ways to train, resuming among them, are in `test_in_force.py`.
"""

import pytest
import torch
from intervention_runs import PAIRS, SETTINGS, Ours, make, same, small_config, weights
from pages import said
from transformers import Trainer

from hf_radial.interventions import INTERVENTIONS, configure, intervention
from hf_radial.interventions.base import Intervention
from hf_radial.models.modular_mlp import ModularMLPForSequenceClassification

NAMES = sorted(set(INTERVENTIONS) - {"record", "replay"})


def config(given):
    return configure(small_config(), given)


def run(folder, given, kind=Trainer, **options):
    trainer = make(folder, given, kind, config(given), **options)
    trainer.train(resume_from_checkpoint=options.get("resume_from_checkpoint"))
    return trainer


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_otherwise_than_without_it_in_any_trainer(name, tmp_path):
    plain = weights(run(tmp_path / "plain", []))
    theirs = weights(run(tmp_path / "a", [SETTINGS[name]]))
    assert plain.keys() != theirs.keys() or not same(plain, theirs)
    assert all(value.isfinite().all() for value in theirs.values())

    ours = weights(run(tmp_path / "b", [SETTINGS[name]], Ours))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_accumulated_gradients_are_one_step(name, tmp_path):
    if name in ("dropout", "spectral_norm", "jacobian"):
        pytest.skip("draws or estimates something in every forward pass")
    if name == "soap":
        pytest.skip("rounding decides the eigenvectors of the first gradients, which have not full rank")
    whole = weights(run(tmp_path / "a", [SETTINGS[name]], max_grad_norm=0.0, train_sampling_strategy="sequential"))
    split = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "train_sampling_strategy": "sequential"}
    parts = weights(run(tmp_path / "b", [SETTINGS[name]], max_grad_norm=0.0, max_steps=3, **split))
    first = weights(run(tmp_path / "c", [SETTINGS[name]], max_grad_norm=0.0, max_steps=3, train_sampling_strategy="sequential"))
    assert not same(whole, first)
    for key, value in first.items():
        torch.testing.assert_close(parts[key], value, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_loads_and_says_the_same(name, tmp_path):
    trainer = run(tmp_path, [SETTINGS[name]])
    trainer.save_model()
    loaded = ModularMLPForSequenceClassification.from_pretrained(tmp_path)
    if name in ("projection", "cosine_head"):
        loaded = make(tmp_path / "again", [SETTINGS[name]], model=loaded).model  # in force before it trains, too
    with torch.no_grad():
        ours, theirs = (model.eval()(input_ids=PAIRS).logits for model in (trainer.model, loaded))
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grokfast", "grokfast_ma"),
        ("grokfast_ema:beta=1", "its options are alpha, lamb"),
        ("grokfast_ema:alpha=1", "alpha=1"),
        ("grokfast_ma:window_size=0", "window_size=0"),
        ("stablemax:x=1", "it has no options"),
        ("weight_decay:value=-1", "value=-1"),
        ("embedding_rate:ratio=0", "ratio=0.0 must be a number above 0"),
        ("layer_norm:layers=first", "layers='first' must be"),
        ("layer_norm:layers=last,affine=true", "affine=True is not there for layers='last'"),
        ("weight_decay", "value"),
        ("muon:momentum=2", "momentum=2"),
        ("optim:optim=adamx", "adamx"),
    ],
)
def test_what_cannot_be_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        intervention(text)


@pytest.mark.parametrize("second", ["weight_decay", "ngpt", "optim"])
def test_what_an_optimizer_would_never_see_is_refused(second, tmp_path):
    """Muon is made with the weight decay that there is then."""
    text = SETTINGS[second]
    with pytest.raises(ValueError, match=f"{second}: the trainer has an optimizer already"):
        make(tmp_path, ["muon", text], config=config([text]))


def test_the_pages_name_those_whose_saved_model_needs_a_line():
    changed = [name for name, kind in INTERVENTIONS.items() if kind.text_to_restore is not Intervention.text_to_restore]
    *first, last = [f"`{name}`" for name in changed]
    assert len(changed) == 4 and said(f"four need a line after loading: {', '.join(first)} and {last}.")
