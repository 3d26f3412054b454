"""Tokenizers of characters and of words that need no vocabulary file and no custom code to reload.

In here: `character_tokenizer` and `word_tokenizer` build tokenizers, and `task_tokenizer` builds the one of a task.
`check_alphabet` names the characters that cannot be encoded. `encode` prepares rows of prompt and completion for a causal
language model. Not in here: training of a vocabulary. The alphabet is the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that losses and metrics ignore


def character_tokenizer(
    characters: str = "0123456789+=",
    *,
    pad_token: str = "<pad>",
    eos_token: str = "$",
    padding_side: str = "left",
) -> PreTrainedTokenizerFast:
    r"""Tokenizer with one token per character: id 0 is `pad_token`, 1 is `eos_token`, then `characters` in order.

    `decode(encode(text))` returns every text over the alphabet (and `eos_token`) unchanged. No token is added automatically:
    append `eos_token` to the text where a sequence ends. `save_pretrained` followed by `AutoTokenizer.from_pretrained` gives
    the same tokenizer.

    There is no unknown token that a model could learn by accident. A character outside the alphabet raises the Rust library's
    bare `Exception`, "Missing [UNK] token from the vocabulary". `check_alphabet` raises a ValueError that names the character.

    Args:
        characters: the alphabet, each character once. Newline, space and any other code point are ordinary characters.
        pad_token: padding, never part of a text.
        eos_token: end of sequence; a single character keeps texts easy to read.
        padding_side: "left" (needed for generation: the answer follows the prompt directly) or "right".

    Raises:
        ValueError: `characters` is empty or repeats one; `pad_token` or `eos_token` is empty, or is spelt with `characters`
            only (a text could then not be told from the token); the two are equal; or `padding_side` is unknown.

    Example:
        >>> tokenizer = character_tokenizer()
        >>> tokenizer("12+3=")["input_ids"]
        [3, 4, 12, 5, 13]
        >>> tokenizer.decode(tokenizer("012+345=7530$")["input_ids"])
        '012+345=7530$'
    """
    if not characters:
        raise ValueError("characters must hold at least one character, got an empty string.")
    repeated = sorted({character for character in characters if characters.count(character) > 1})
    if repeated:
        raise ValueError(f"characters must hold each character once, but {repeated} come more than once.")
    for name, token in (("pad_token", pad_token), ("eos_token", eos_token)):
        if token and set(token) <= set(characters):
            raise ValueError(
                f"{name}={token!r} consists of characters only, so a text could not be told from the token; "
                f"pass another {name} or take {token[0]!r} out of characters."
            )
    # [\s\S] and not ".", because a dot does not match a newline.
    by_character = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    # Without a decoder, spaces would join the tokens of a WordLevel model.
    return _tokenizer([pad_token, eos_token, *characters], by_character, decoders.Fuse(), pad_token, eos_token, padding_side)


def word_tokenizer(
    words: Sequence[str], *, pad_token: str = "<pad>", eos_token: str = "<eos>", padding_side: str = "left"
) -> PreTrainedTokenizerFast:
    """Tokenizer with one token per word between spaces: `words` in order from id 0, then `pad_token` and `eos_token`.

    Thus the residue 5 of modular arithmetic is token 5. There is no unknown token, as in `character_tokenizer`.

    Args:
        words: the vocabulary, each word once and without spaces.
        pad_token: padding, never part of a text.
        eos_token: end of sequence.
        padding_side: "left" (needed for generation) or "right".

    Raises:
        ValueError: `words` is empty, repeats a word or has a word with a space; a special token is a word or empty; the two
            special tokens are equal; or `padding_side` is unknown.

    Example:
        >>> tokenizer = word_tokenizer(["0", "1", "2", "+", "="])
        >>> tokenizer("1 + 2 = 0<eos>")["input_ids"]
        [1, 3, 2, 4, 0, 6]
        >>> tokenizer.decode([1, 3, 2, 4, 0])
        '1 + 2 = 0'
    """
    if not words:
        raise ValueError("words must hold at least one word, got none.")
    if len(set(words)) < len(words):
        raise ValueError(f"words must hold each word once, but {max(words, key=list(words).count)!r} comes more than once.")
    if spaced := [word for word in words if not word or word.split() != [word]]:
        raise ValueError(f"words must hold no spaces and not be empty, got {spaced[0]!r}.")
    for name, token in (("pad_token", pad_token), ("eos_token", eos_token)):
        if token in words:
            raise ValueError(f"{name}={token!r} is one of the words; pass another.")
    return _tokenizer(
        [*words, pad_token, eos_token], pre_tokenizers.WhitespaceSplit(), None, pad_token, eos_token, padding_side
    )


def _tokenizer(
    tokens: list[str], split: Any, decoder: Any, pad_token: str, eos_token: str, padding_side: str
) -> PreTrainedTokenizerFast:
    """One token for each of `tokens`, numbered in order. The two special tokens must be among them."""
    for name, token in (("pad_token", pad_token), ("eos_token", eos_token)):
        if not token:
            raise ValueError(f"{name} must not be empty.")
    if pad_token == eos_token:
        # Collators mask padding in the labels. If one token were both, the model would never learn to stop.
        raise ValueError(f"pad_token and eos_token must differ, got {pad_token!r} for both.")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}.")
    # The vocabulary has no unk_token on purpose: encoding then raises an error for an unknown character.
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}))
    backend.pre_tokenizer = split
    if decoder is not None:
        backend.decoder = decoder
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad_token,
        eos_token=eos_token,
        padding_side=padding_side,
        clean_up_tokenization_spaces=False,
        # No token_type_ids, because `generate` of a decoder-only model rejects them.
        model_input_names=["input_ids", "attention_mask"],
    )


def task_tokenizer(task: str, config: str | None = None, **fields: Any) -> PreTrainedTokenizerFast:
    """The tokenizer of a task's texts (``view="lm"``): of words if the task has words, else of characters.

    Args:
        task: a name out of `hf_radial.tasks.load.TASKS`.
        config: the configuration's name; or leave it out and give its fields.
        **fields: fields of the configuration, and `padding_side`.

    Raises:
        ValueError: the task is unknown, or the configuration refuses a field or the name.

    Example:
        >>> tokenizer = task_tokenizer("modular", p=97)
        >>> tokenizer("5 + 96 = 4")["input_ids"]
        [5, 97, 96, 98, 4]
    """
    from hf_radial.tasks.load import builder_class, task_config

    side = fields.pop("padding_side", "left")
    words = builder_class(task).vocabulary(task_config(task, config, **fields))
    if isinstance(words, str):
        # An alphabet that could spell <pad> (technical prose) gets this sign instead.
        pad = "\N{SYMBOL FOR NULL}" if set("<pad>") <= set(words) else "<pad>"
        return character_tokenizer(words, pad_token=pad, padding_side=side)
    return word_tokenizer(words, padding_side=side)


def encode(rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerFast, start: str = "") -> dict[str, list[list[int]]]:
    """Token ids of rows. The labels are the completion and the end sign after it, and -100 on the prompt.

    For `dataset.map(encode, batched=True, fn_kwargs={"tokenizer": tokenizer}, remove_columns=dataset.column_names)`. Rows may
    differ in length; `transformers.DataCollatorForSeq2Seq(tokenizer)` pads them with their labels.

    Args:
        rows: a batch with the columns `prompt` and `completion`.
        tokenizer: the task's tokenizer.
        start: text before each prompt.

    Returns:
        `input_ids` and `labels`, one list for each row, as long as the row.

    Raises:
        ValueError: a column is missing, or `rows` is a single row.

    Example:
        >>> encode({"prompt": ["1 + 2 ="], "completion": [" 0"]}, word_tokenizer(["0", "1", "2", "+", "="]))
        {'input_ids': [[1, 3, 2, 4, 0, 6]], 'labels': [[-100, -100, -100, -100, 0, 6]]}
    """
    if "prompt" not in rows or "completion" not in rows:
        raise ValueError(f"rows must have the columns prompt and completion, got {list(rows)}; load the task with view='lm'.")
    given: Any = rows["prompt"]
    if isinstance(given, str):  # each of its characters would be read as a row
        raise ValueError("rows must be a batch of rows, got a single one; map with batched=True.")
    prompts = tokenizer([start + prompt for prompt in rows["prompt"]])["input_ids"]
    completions = tokenizer(list(rows["completion"]))["input_ids"]
    ends = [[*completion, tokenizer.eos_token_id] for completion in completions]
    return {
        "input_ids": [prompt + end for prompt, end in zip(prompts, ends, strict=True)],
        "labels": [[IGNORED] * len(prompt) + end for prompt, end in zip(prompts, ends, strict=True)],
    }


def encode_splits(data: DatasetDict, tokenizer: PreTrainedTokenizerFast, start: str = "") -> DatasetDict:
    """Every split of a task with the columns `input_ids` and `labels` alone; arguments as in `encode`."""
    columns = next(iter(data.values())).column_names
    return data.map(encode, batched=True, remove_columns=columns, fn_kwargs={"tokenizer": tokenizer, "start": start})


def check_alphabet(tokenizer: PreTrainedTokenizerBase, texts: str | Iterable[str]) -> None:
    """Raise a ValueError that names the characters of `texts` for which `tokenizer` has no token.

    Use it with a tokenizer from `character_tokenizer` before a long encoding: it reads the texts once. Special tokens in a text
    are allowed.

    Args:
        tokenizer: a character-level tokenizer, built here or reloaded.
        texts: one text or several.

    Raises:
        ValueError: a character is outside the alphabet.

    Example:
        >>> check_alphabet(character_tokenizer(), ["1+2=3$", "4"])
        >>> check_alphabet(character_tokenizer(), "1 + 2")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: texts hold characters outside the tokenizer's alphabet: [' ']; add them to `characters`, ...
    """
    alphabet = set(tokenizer.get_vocab())
    special = list(tokenizer.all_special_tokens)
    strangers: set[str] = set()
    for text in [texts] if isinstance(texts, str) else texts:
        if set(text) <= alphabet:
            continue
        # Only now, because most texts have no special token of several characters.
        for token in special:
            text = text.replace(token, "")
        strangers |= set(text) - alphabet
    if strangers:
        raise ValueError(
            f"texts hold characters outside the tokenizer's alphabet: {sorted(strangers)}; add them to `characters`, "
            "or take them out of the texts."
        )
