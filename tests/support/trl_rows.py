"""A tokenizer of ten words and rows of such words, for trainers that take text."""

from __future__ import annotations

from collections.abc import Callable

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far"]
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<eos>{% endgeneration %}"
    "{% else %}{{ m['content'] }} {% endif %}{% endfor %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Its 13 tokens are a padding token, an end token, an unknown token and `WORDS`."""
    words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=64
    )
    fast.chat_template = CHAT
    return fast


def sentence(generator: torch.Generator, least: int, most: int) -> str:
    """From `least` to `most` random words."""
    length = int(torch.randint(least, most + 1, (), generator=generator))
    return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator))


def sentences(kind: str, rows: int = 8, seed: int = 5) -> Dataset:
    """Rows of a kind, of uneven lengths."""
    generator = torch.Generator().manual_seed(seed)

    def some(most: int = 6) -> str:
        return sentence(generator, 1, most)

    def turns() -> list[dict[str, str]]:
        return [{"role": "user", "content": some()}, {"role": "assistant", "content": some()}]

    make: dict[str, Callable[[int], dict]] = {
        "text": lambda i: {"text": some(9)},
        "completion": lambda i: {"prompt": some(), "completion": " " + some()},
        "chat": lambda i: {"messages": turns()},
        "preference": lambda i: {"prompt": some(), "chosen": " " + some(), "rejected": " " + some()},
        "prompt": lambda i: {"prompt": some()},
        "judged": lambda i: {"prompt": some(), "completion": " " + some(), "label": i % 2 == 0},
        "three": lambda i: {"prompt": some(), "chosen": " " + some(), "rejected": " " + some(), "reference": " " + some()},
        "pairs": lambda i: {"anchor": some(9), "positive": some()},
        "triplets": lambda i: {"anchor": some(9), "positive": some(), "negative": some(4)},
        "classes": lambda i: {"text": some(9), "label": i % 2},
        "translation": lambda i: {"source": some(9), "target": some(5)},
    }
    return Dataset.from_list([make[kind](i) for i in range(rows)])
