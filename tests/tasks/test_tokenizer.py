"""The character tokenizer: round trips, and the same tokenizer after a reload without this package."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from warm import run_python

from hf_radial.tasks.tokenizer import character_tokenizer, check_alphabet, encode

pytestmark = pytest.mark.quick

ODD = "0 +=\n\t\\^[](){}.*?|'\"é漢🙂\u0301#_-ab,!~"


@pytest.mark.parametrize("characters", ["0123456789+=", ODD], ids=["digits", "odd"])
def test_every_string_over_the_alphabet_comes_back(characters: str) -> None:
    tokenizer = character_tokenizer(characters)
    rng = random.Random(0)
    texts = [*characters, *("".join(rng.choices(characters + "$", k=rng.randrange(1, 40))) for _ in range(300))]
    ids = {token: index for index, token in enumerate(["<pad>", "$", *characters])}
    for text, encoded in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert encoded == [ids[character] for character in text]
        assert tokenizer.decode(encoded) == text
        assert tokenizer.decode(encoded, skip_special_tokens=True) == text.replace("$", "")
    assert tokenizer("")["input_ids"] == []
    assert len(tokenizer) == tokenizer.vocab_size == len(characters) + 2


def test_no_token_is_added_and_padding_is_on_the_left() -> None:
    tokenizer = character_tokenizer()
    batch = tokenizer(["1+2=", "9"], padding=True)
    assert batch["input_ids"] == [[3, 12, 4, 13], [0, 0, 0, 11]]
    assert batch["attention_mask"] == [[1, 1, 1, 1], [0, 0, 0, 1]]
    # token_type_ids would be handed on to `generate`, which rejects them.
    assert set(batch) == {"input_ids", "attention_mask"}
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.bos_token is None and tokenizer.unk_token is None
    right = character_tokenizer(padding_side="right")
    assert right(["1+", "9"], padding=True)["input_ids"] == [[3, 12], [11, 0]]


def test_a_stranger_raises_and_the_helper_names_it() -> None:
    tokenizer = character_tokenizer()
    with pytest.raises(Exception, match="UNK"):
        tokenizer("1 + 2")
    with pytest.raises(ValueError, match=r"texts .* alphabet: \[' ', 'x'\].*`characters`"):
        check_alphabet(tokenizer, ["1+2=", "1 +x", "$"])
    check_alphabet(tokenizer, "1+2=3$<pad>")
    with pytest.raises(ValueError, match=r"\['<', 'p'\]"):
        check_alphabet(tokenizer, "<p")


RELOAD = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
try:
    tokenizer("x")
    stranger = "encoded"
except Exception:
    stranger = "raised"
texts = json.loads(sys.argv[2])
ids = tokenizer(texts)["input_ids"]
print(json.dumps({
    "ids": ids, "texts": tokenizer.batch_decode(ids), "padded": tokenizer(texts, padding=True)["input_ids"],
    "keys": sorted(tokenizer(texts)), "specials": tokenizer.special_tokens_map, "vocab": tokenizer.get_vocab(),
    "side": tokenizer.padding_side, "clean": tokenizer.clean_up_tokenization_spaces, "stranger": stranger,
    "own": [name for name in sys.modules if name.startswith("hf_radial")],
}))
"""


def test_a_new_process_reloads_the_same_tokenizer_without_custom_code(tmp_path: Path) -> None:
    tokenizer = character_tokenizer("0123456789+=\n ", padding_side="left")
    tokenizer.save_pretrained(tmp_path)
    # A config.json beside it, as a checkpoint has: its model type must not decide on the tokenizer.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 16}))
    texts = ["12 + 3 =\n", "1", " $"]
    done = run_python(
        "-c", RELOAD, tmp_path, json.dumps(texts), env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=tmp_path, check=True
    )
    assert json.loads(done.stdout) == {
        "ids": tokenizer(texts)["input_ids"],
        "texts": texts,
        "padded": tokenizer(texts, padding=True)["input_ids"],
        "keys": ["attention_mask", "input_ids"],
        "specials": {"pad_token": "<pad>", "eos_token": "$"},
        "vocab": tokenizer.get_vocab(),
        "side": "left",
        "clean": False,
        "stranger": "raised",
        "own": [],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"characters": ""}, r"characters must hold at least one"),
        ({"characters": "01210"}, r"characters .* \['0', '1'\] come more than once"),
        ({"characters": "01$"}, r"eos_token='\$' consists of characters .* take '\$' out"),
        ({"characters": "<pad>"}, r"pad_token='<pad>' consists of characters"),
        ({"pad_token": ""}, r"pad_token must not be empty"),
        ({"eos_token": ""}, r"eos_token must not be empty"),
        ({"pad_token": "$"}, r"pad_token and eos_token must differ, got '\$'"),
        ({"padding_side": "both"}, r"padding_side must be 'left' or 'right', got 'both'"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        character_tokenizer(**arguments)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"input_ids": [[5, 96]], "labels": [4]}, r"got \['input_ids', 'labels'\]; load the task with view='lm'"),
        ({"prompt": "5+96=", "completion": "101"}, r"got a single one; map with batched=True"),
    ],
)
def test_rows_that_cannot_be_encoded_are_an_error_that_says_how_they_can(rows: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(rows, character_tokenizer())
