"""A character-level tokenizer that needs no vocabulary file and no custom code to reload.

In here: `character_tokenizer` builds it, `check_alphabet` explains which characters it cannot encode. Not in here: any
training of a vocabulary; the alphabet is the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def character_tokenizer(
    characters: str = "0123456789+=",
    *,
    pad_token: str = "<pad>",
    eos_token: str = "$",
    padding_side: str = "left",
) -> PreTrainedTokenizerFast:
    r"""Tokenizer with one token per character: id 0 is `pad_token`, 1 is `eos_token`, then `characters` in order.

    Every string over the alphabet (and `eos_token`) comes back from `decode(encode(text))` unchanged. No token is added
    by itself: append `eos_token` to the text where a sequence ends. `save_pretrained` followed by
    `AutoTokenizer.from_pretrained` gives the same tokenizer.

    There is no unknown token. A character outside the alphabet raises (the Rust library's bare `Exception`, "Missing
    [UNK] token from the vocabulary") instead of quietly becoming a token that the model would learn; `check_alphabet`
    names the character in a ValueError.

    Args:
        characters: the alphabet, each character once; newline, space and any other code point are ordinary characters.
        pad_token: padding, never part of a text.
        eos_token: end of sequence; a single character keeps texts easy to read.
        padding_side: "left" (what generation needs: the answer follows the prompt at once) or "right".

    Raises:
        ValueError: `characters` is empty or repeats one; `pad_token` or `eos_token` is empty, is spelt by `characters`
            alone (then a text could not be told from the token), or the two are equal; `padding_side` is unknown.

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
        if not token:
            raise ValueError(f"{name} must not be empty.")
        if set(token) <= set(characters):
            raise ValueError(
                f"{name}={token!r} is spelt by characters alone, so a text could not be told from the token; "
                f"pass another {name} or take {token[0]!r} out of characters."
            )
    if pad_token == eos_token:
        # Collators mask padding in the labels: with one token for both, the model never learns to stop.
        raise ValueError(f"pad_token and eos_token must differ, got {pad_token!r} for both.")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}.")

    vocabulary = {token: index for index, token in enumerate([pad_token, eos_token, *characters])}
    # The default unk_token name is left out of the vocabulary on purpose: encoding then raises on a stranger.
    backend = Tokenizer(models.WordLevel(vocabulary))
    # [\s\S] and not ".": a dot does not match a newline.
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    # Without a decoder the tokens of a WordLevel model are joined by spaces.
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad_token,
        eos_token=eos_token,
        padding_side=padding_side,
        clean_up_tokenization_spaces=False,
        # No token_type_ids: `generate` of a decoder-only model rejects them.
        model_input_names=["input_ids", "attention_mask"],
    )


def check_alphabet(tokenizer: PreTrainedTokenizerBase, texts: str | Iterable[str]) -> None:
    """Raise a ValueError that names the characters of `texts` which `tokenizer` has no token for.

    For a tokenizer from `character_tokenizer`, before a long run of encoding: one pass over the characters. Special
    tokens inside a text are fine.

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
        # Only now: most texts hold no multi-character special token.
        for token in special:
            text = text.replace(token, "")
        strangers |= set(text) - alphabet
    if strangers:
        raise ValueError(
            f"texts hold characters outside the tokenizer's alphabet: {sorted(strangers)}; add them to `characters`, "
            "or take them out of the texts."
        )
