"""Every intervention acts in a GPT-2 and in an encoder-decoder of a Seq2SeqTrainer as it does in an MLP.

Each trains, is stopped and goes on, and each checkpoint loads as the model that was trained. The MLP is in `test_in_force.py`.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from intervention_runs import make, same, weights
from reference import VOCABULARY, tiny_gpt2, token_rows
from test_in_force import RESTORED, SETTINGS, Watch
from transformers import GPT2LMHeadModel, Seq2SeqTrainer, T5Config, T5ForConditionalGeneration, Trainer

from hf_radial.interventions import restore
from hf_radial.interventions.replay import FILE

OF_THE_MLP = {name: f"{name}: the model was made with normalization=None" for name in ("layer_norm", "ngpt")}
OF_THE_MLP["redo"] = "redo: .* has no layers `hidden` and `classifier`"
OF_THE_MLP["jacobian"] = "jacobian: .* has logits at each position"
NAMES = [name for name in SETTINGS if name not in OF_THE_MLP]
STEPS: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4}


def tiny_t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, dropout_rate=0.0, decoder_start_token_id=0, **sizes))


KINDS: dict[str, tuple[Any, Any, type[Trainer]]] = {
    "gpt2": (lambda: tiny_gpt2(width=8), GPT2LMHeadModel, Trainer),
    "t5": (tiny_t5, T5ForConditionalGeneration, Seq2SeqTrainer),
}
# With decoder_input_ids, as of DataCollatorForSeq2Seq: a loss of one's own takes away the labels that T5 would make them from.
ROWS = {
    "gpt2": token_rows(16, True),
    "t5": [{**row, "decoder_input_ids": [0, *row["input_ids"][:-1]]} for row in token_rows(16, True)],
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: Any) -> Any:
    return request.param


@pytest.fixture(scope="module")
def plain(kind: str, tmp_path_factory: Any) -> tuple[dict[str, torch.Tensor], str]:
    """The weights of a run without interventions, and the record of a run with another learning rate."""
    folder = tmp_path_factory.mktemp(kind)
    alone, _ = run(folder / "plain", kind, [])
    run(folder, kind, ["record"], learning_rate=5e-2)
    return weights(alone), str(folder / FILE)


def run(folder: Path, kind: str, given: list[str], **options: Any) -> tuple[Trainer, Watch]:
    start, _, trainer_class = KINDS[kind]
    checkpoint, watch = options.pop("checkpoint", None), Logits()
    trainer = make(folder, given, trainer_class, model=start(), rows=ROWS[kind], callbacks=[watch], **{**STEPS, **options})
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    return trainer, watch


class Logits(Watch):
    def on_save(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.logits[state.global_step] = answers(model)
        model.train()


@torch.no_grad()
def answers(model: Any) -> torch.Tensor:
    tokens = torch.arange(24).reshape(3, 8) % VOCABULARY
    return model.eval()(input_ids=tokens, labels=tokens).logits


@pytest.mark.parametrize("name", NAMES)
def test_it_acts_goes_on_and_loads(name: str, kind: str, plain: Any, tmp_path: Path) -> None:
    without, record = plain
    given = [SETTINGS[name].replace("FILE", record)]
    whole, watch = run(tmp_path, kind, given)
    expected = weights(whole)
    assert all(value.isfinite().all() for value in expected.values())
    assert same(expected, without) == (name == "record")
    if name == "record":
        rows = json.loads((tmp_path / FILE).read_text())
        assert [row["step"] for row in rows] == [1, 2, 3, 4] and any(key.startswith("radius/") for key in rows[0])

    resumed, _ = run(tmp_path, kind, given, checkpoint=tmp_path / "checkpoint-2")
    assert same(weights(resumed), expected)

    assert set(watch.logits) == {2, 4}
    for step, there in watch.logits.items():
        loaded, info = KINDS[kind][1].from_pretrained(tmp_path / f"checkpoint-{step}", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert torch.equal(answers(loaded), there) == (name not in RESTORED)
        assert torch.equal(answers(copy.deepcopy(restore(loaded))), there)


@pytest.mark.parametrize("name", OF_THE_MLP)
def test_an_option_of_the_mlp_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=OF_THE_MLP[name]):
        run(tmp_path, kind, [name])
