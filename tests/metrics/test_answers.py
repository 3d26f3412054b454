"""Exact match of generated answers: what counts as right, and what the model is given."""

from __future__ import annotations

import torch

from hf_radial.metrics.answers import generated_exact_match, predicted_exact_match
from hf_radial.tasks.tokenizer import IGNORED, character_tokenizer


class Writes:
    """A model that writes the same text after every prompt, as many characters as it is asked for."""

    device = torch.device("cpu")

    def __init__(self, tokenizer, text):
        self.tokenizer, self.text, self.prompts = tokenizer, text, []

    def generate(self, input_ids, attention_mask, max_new_tokens, **options):
        self.prompts += self.tokenizer.batch_decode(input_ids)
        written = torch.tensor(self.tokenizer(self.text)["input_ids"][:max_new_tokens])
        return torch.cat([input_ids, written.expand(len(input_ids), -1)], dim=1)


def test_an_answer_that_goes_on_is_wrong():
    tokenizer = character_tokenizer("0123456789+=")
    prompts, answers = ["1+2=", "1+1="], ["3", "35"]
    model = Writes(tokenizer, f"35{tokenizer.eos_token}")
    found = generated_exact_match(model, tokenizer, prompts, answers)
    assert found == {"exact_match": 0.5, "problems": 2, "examples": ["1+2=35", f"1+1=35{tokenizer.eos_token}"]}


def test_the_start_sign_is_given_to_the_model_and_is_no_part_of_the_examples():
    tokenizer = character_tokenizer("0123456789+=")
    model = Writes(tokenizer, f"3{tokenizer.eos_token}")
    found = generated_exact_match(model, tokenizer, ["1+2="] * 7, ["3"] * 7, start=tokenizer.eos_token)
    assert found["exact_match"] == 1.0 and found["examples"] == [f"1+2=3{tokenizer.eos_token}"] * 5
    assert model.prompts == [f"{tokenizer.eos_token}1+2="] * 7


def test_a_prediction_is_that_of_the_position_before():
    class Prediction:
        predictions = torch.tensor([[7, 5, 3, 0], [7, 5, 4, 0]]).numpy()
        label_ids = torch.tensor([[IGNORED, IGNORED, 5, 3], [IGNORED, IGNORED, 5, 3]]).numpy()

    assert predicted_exact_match()(Prediction())["exact_match"] == 0.5
