"""Text: the rows are the text, cut at the right place; plays follow the grammar; Python's texts are current."""

from __future__ import annotations

import gzip
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sized_tasks import rows_of

from hf_radial.tasks.checksums import checksum
from hf_radial.tasks.load import builder_class, load_task, task_builder
from hf_radial.tasks.plays import ALPHABET, LONGEST_ROW, NAMES, PLACES, THEMES, play
from hf_radial.tasks.text import TextConfig, reference_texts
from hf_radial.tasks.tokenizer import task_tokenizer

BAD_INPUT = [
    ("text", {"corpus": "shakespeare"}, r"corpus='shakespeare' is unknown\. There are: generated, pydoc"),
    ("text", {"characters": 9999}, r"characters must be a whole number from 10000 to 100000000, got 9999"),
    ("text", {"characters": -1}, r"characters must be a whole number"),
    ("text", {"train_fraction": 1}, r"train_fraction must be a number between 0 and 1"),
    ("text", {"train_fraction": 0.95}, r"leave 0 of 1000000 characters to the split 'test', fewer than the longest row"),
    ("text", {"train_fraction": 0.9, "validation_fraction": 0.3}, r"leave 0 of 1000000 characters to the split 'test'"),
    ("text", {"characters": 10_000}, r"leave 500 of 10000 characters to the split 'validation'.*or raise characters"),
    ("text", {"python_version": "3.11.2"}, r"python_version='3\.11\.2' is for corpus='pydoc'; leave it out"),
    ("text", {"corpus": "pydoc", "python_version": "2.7.18"}, r"is not the Python that runs, 3\.\d+\."),
    ("text", {"corpus": "pydoc", "seed": 1}, r"seed=1 does not apply to corpus='pydoc'"),
    ("text", {"corpus": "pydoc", "characters": 20_000}, r"characters=20000 does not apply to corpus='pydoc'"),
    ("text", {"config": "generated_f0.9_v0.05_s0"}, r"must be written 'generated_c1000000_f0\.9_v0\.05_s0'"),
    ("text", {"config": "pydoc_py2.7.18_f0.9_v0.05_s0"}, r"is not the Python that runs"),
    ("text", {"view": "lm"}, r"field='view' is unknown"),
]


@pytest.mark.parametrize(
    "fields",
    [
        dict(characters=30_000),
        dict(characters=123_457, train_fraction=0.3, validation_fraction=0.0, seed=9),
        dict(corpus="pydoc"),
        dict(corpus="pydoc", train_fraction=0.5, validation_fraction=0.25),
    ],
    ids=["generated", "generated-without-validation", "pydoc", "pydoc-in-quarters"],
)
def test_the_rows_are_the_text_cut_where_it_should_be(tmp_path: Path, fields: dict) -> None:
    config = TextConfig(**fields)
    rows = rows_of("text", tmp_path, **fields)
    assert list(rows) == (["train", "validation", "test"] if config.validation_fraction else ["train", "test"])
    texts = {split: [row["text"] for row in part] for split, part in rows.items()}
    text = "".join(row for part in texts.values() for row in part)
    whole = play(config.characters, config.seed) if config.corpus == "generated" else reference_texts()
    assert text == "".join(whole.to_pylist())
    if config.corpus == "generated":
        assert len(text) == config.characters
    cuts = {
        "train": 0,
        "validation": round(len(text) * config.train_fraction),
        "test": round(len(text) * (config.train_fraction + config.validation_fraction)),
    }
    start = 0
    for split, part in texts.items():
        # The split begins with the first row that begins at the cut or behind it.
        assert cuts[split] - 1 <= start < cuts[split] + max(map(len, whole.to_pylist()))
        start += sum(map(len, part))
    tokenizer = task_tokenizer("text", **fields)
    for row in [text[:5000], texts["test"][-1]]:
        assert tokenizer.decode(tokenizer(row)["input_ids"]) == row
    assert set(text) <= set(builder_class("text").vocabulary(config)) == set(tokenizer.get_vocab()) - {tokenizer.pad_token, "$"}
    assert not set(tokenizer.pad_token) <= set(text) and "$" not in text


def test_a_shorter_play_is_the_beginning_of_a_longer_one_and_seeds_differ() -> None:
    longer = "".join(play(400_000, seed=1).to_pylist())
    assert longer.startswith("".join(play(55_555, seed=1).to_pylist()))
    assert longer[:1000] != "".join(play(1000, seed=2).to_pylist())


def test_a_play_has_its_structure_and_skewed_words() -> None:
    """Read with expressions that know the format alone: casts, places, themes, forms of address, verse."""
    rows = play(300_000, seed=4).to_pylist()
    assert len(set(rows)) == len(rows) and max(map(len, rows)) < LONGEST_ROW
    assert set("".join(rows)) <= set(ALPHABET)
    words: Counter[str] = Counter()
    of_theme, of_two = 0, Counter()
    cast: list[str] = []
    nouns = {theme: set(text.split()) for theme, text in THEMES.items()}
    themes: Counter[str] = Counter()
    scenes = 0
    for row in rows[:-1]:  # the last is cut
        assert row.endswith("\n\n") and not row.endswith("\n\n\n")
        first, *lines = row.rstrip("\n").split("\n")
        if first.startswith("Scene "):
            scenes += 1
            number, place = re.fullmatch(r"Scene (\d+): (.+)\.", first).groups()
            assert int(number) == scenes and place in PLACES
            (entering,) = lines
            cast = re.split(r", | and ", re.fullmatch(r"Enter (.+)\.", entering).group(1))
            assert 2 <= len(cast) == len(set(cast)) <= 4 and set(cast) <= set(NAMES)
            if themes:
                # The theme that most nouns are of has well over half of them.
                of_theme += themes.most_common(1)[0][1] > 0.5 * of_two.total()
            themes, of_two = Counter(), Counter()
            continue
        speaker = first.removesuffix(":")
        assert first.endswith(":") and speaker in cast
        for line in lines:
            assert line[0].isupper() and line[-1] in ",.?!:;" and len(line) < 100
            spoken = re.findall(r"[A-Za-z]+", line)
            # Who is addressed is in the scene, and is not the speaker.
            assert {word for word in spoken if word in NAMES} <= set(cast) - {speaker}
            words.update(word.lower() for word in spoken)
            for word in spoken:
                if any(word in of for of in nouns.values()):
                    of_two[word] += 1
                    themes.update(theme for theme, of in nouns.items() if word in of)
    assert of_theme > 0.9 * (scenes - 1)
    assert 300 < len(words) < 1000
    ranked = [count for _, count in words.most_common()]
    assert ranked[0] > 20 * ranked[100] and sum(ranked[:20]) > 0.3 * sum(ranked)
    # Far from random letters, and far from one line said over and over.
    text = "".join(rows).encode()
    assert 0.1 < len(gzip.compress(text)) / len(text) < 0.35


def test_the_same_text_in_another_process_with_another_hash_seed(tmp_path: Path) -> None:
    """Word lists pass through sets, whose order depends on it."""
    code = (
        "import hashlib; from hf_radial.tasks.plays import play, ALPHABET; "
        "print(hashlib.sha256((ALPHABET + ''.join(play(70_000, 3).to_pylist())).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_reference_texts_are_those_of_the_running_python(tmp_path: Path) -> None:
    from pydoc_data.topics import topics

    builder = task_builder("text", corpus="pydoc", cache_dir=str(tmp_path))
    version = platform.python_version()
    assert builder.config.name == f"pydoc_py{version}_f0.9_v0.05_s0"
    assert version in builder.info.description and builder.info.license == "psf-2.0"
    assert not any("pydoc" in name for name in builder.SHELF)
    rows = reference_texts().to_pylist()
    said = {line for text in topics.values() for line in text.replace("$", "").split("\n")}
    read = {line for row in rows for line in row.split("\n")}
    assert {line for line in said if line.strip()} == {line for line in read if line.strip()}
    assert all(row.endswith("\n\n") and row.strip() for row in rows)


def test_a_python_without_its_texts_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    reference_texts.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match=r"needs pydoc_data.topics, which this Python comes without; take corpus='generated'"):
        TextConfig(corpus="pydoc")


def test_the_shelf_can_be_read_and_zero_means_a_million(tmp_path: Path) -> None:
    for name in builder_class("text").SHELF:
        assert TextConfig(name=name).name == name
    named = load_task("text", "generated_c1000000_f0.9_v0.05_s0", cache_dir=str(tmp_path))
    assert checksum(named["test"]) == checksum(load_task("text", cache_dir=str(tmp_path))["test"])
