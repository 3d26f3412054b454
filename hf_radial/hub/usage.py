"""Snippets for model cards: how to load a published model and ask it something. `{model_id}` is filled in by the card.

The words in capitals are replaced by the recipe that trained the model: `PROMPT` (a text), `LENGTH` (new tokens) and `OPERANDS`
(a list of token ids).
"""

GENERATION = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{model_id}")
model = AutoModelForCausalLM.from_pretrained("{model_id}")
prompt = tokenizer("PROMPT", return_tensors="pt")
written = model.generate(**prompt, do_sample=False, max_new_tokens=LENGTH)
print(tokenizer.decode(written[0]))"""
MODULAR_MLP = """import torch
from transformers import AutoModelForSequenceClassification

import hf_radial.models.modular_mlp  # tells transformers what this model is

model = AutoModelForSequenceClassification.from_pretrained("{model_id}")
print(model(input_ids=torch.tensor([OPERANDS])).logits.argmax(-1))"""
