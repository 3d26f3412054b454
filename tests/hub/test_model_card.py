"""The card of any RadialTrainer is made from the run, parses as a Hub card, and travels with push_to_hub's arguments."""

from __future__ import annotations

import sys

import pytest
from huggingface_hub import ModelCard
from reference import tiny_gpt2, token_rows
from transformers import TrainingArguments

from hf_radial import RadialTrainer
from hf_radial.runs.shipped import card_template

pytestmark = pytest.mark.quick


@pytest.fixture
def trainer(tmp_path):
    args = TrainingArguments(
        output_dir=str(tmp_path / "my-run"), max_steps=4, logging_steps=2, report_to="none", use_cpu=True, disable_tqdm=True
    )
    rows = token_rows(16, True)
    trainer = RadialTrainer(
        model=tiny_gpt2(),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        radial_lambda=0.3,
        radial_side="above",
        radial_radius=2.0,
        radial_warmup_steps=3,
    )
    trainer.train()
    trainer.evaluate()
    return trainer


def test_a_trainer_without_facts_gets_a_true_card(trainer):
    trainer.create_model_card(tags="mine", dataset="org/rows", language="en", license="mit")
    card = ModelCard.load(trainer.args.output_dir + "/README.md")
    assert card.data.license == "mit" and card.data.datasets == ["org/rows"]
    assert {"mine", "hf_radial"} <= set(card.data.tags)
    first, last = (trainer.state.log_history[i]["radius/transformer.h.1.mlp.c_proj"] for i in (0, 1))
    assert f"| `transformer.h.1.mlp.c_proj` | 32 | 2.00 | {first:.2f} | {last:.2f} |" in card.text
    assert "one-sided, target 2, warm-up 3" in card.text
    assert f"eval_loss: {trainer.state.log_history[-1]['eval_loss']}" in card.text
    assert "my-run" in card.text and "radial_lambda = 0.3" in card.text
    assert "{" not in card.text.replace("@inproceedings{", "").split("## Citation")[0]  # no placeholder left


def test_facts_and_results_are_in_the_card_and_in_its_metadata(trainer):
    results = {"test": {"exact_match": 0.99512, "problems": 2000}, "fit_step": 300, "held_out_at_fit": 0.25}
    results |= {"onset_90": 900, "onset_99": None, "last_step": 1200}
    trainer.run_facts = {"title": "A title", "task": "sums", "usage": "load('{model_id}')", "results": results, "rows": 7}
    trainer.create_model_card()
    card = ModelCard.load(trainer.args.output_dir + "/README.md")
    assert card.data.eval_results[0].metric_value == 0.99512
    for text in ("# A title", "99.51% of 2,000", "step 300", "25.0%", "step 900", "not by step 1,200", "rows: 7"):
        assert text in card.text
    assert f"load('{trainer.args.output_dir}')" in card.text


def test_the_template_is_part_of_the_package():
    from importlib.resources import files

    assert files("hf_radial.model_cards").joinpath("run_card.md").read_text() == card_template("run_card.md")


def test_the_template_is_found_in_a_checkout_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "hf_radial.model_cards", None)  # no finder of an installation leads there
    assert "radial_lambda" in card_template("run_card.md")
