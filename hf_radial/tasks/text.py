r"""Text for a character-level language model: a check that a method does no harm on data without delayed generalisation.

In here: the two corpora, and the builder that cuts one into train, validation and test. Not in here: the grammar of the
generated corpus (`plays.py`), windows of characters to train on (`windows.py`), and downloads.

``corpus="generated"`` (default) is **synthetic**: plays from a small probabilistic grammar written for this project. A shorter
text is the beginning of a longer one with the same seed. The text looks like Tiny Shakespeare and has regularities from letters
to scenes, but it is not natural language. Its rules are few and known, and its words repeat often. A model gets much closer to
its entropy than to that of English.

``corpus="pydoc"`` is **real English**: the reference texts in `pydoc_data.topics` that CPython ships (from its language
reference, PSF licence). It is a third of Tiny Shakespeare in size (about 370,000 characters in Python 3.11), and is technical
prose with tables and code. The texts change with the version of Python. The version is therefore part of the name, and no
checksum is committed. Repeated paragraphs are left out, and so are dollar signs, the end sign of the character tokenizer.

Limits. Neither corpus shows that a method is harmless on natural text at scale. Results are not comparable with published
results for Tiny Shakespeare, enwik8 or other corpora. The corpora show whether the loss curve on text-like data is the same
with and without a method.

Both are cut contiguously, as nanoGPT cuts its corpora: the first `train_fraction` of the characters for training, then
validation, then test. A row is a speech or the heading of a scene (a paragraph in "pydoc"), and no two rows are equal. A row
belongs to the split of its first character. All rows in order, with nothing between them, are the text. The column is `text`.
There are no prompts, and so no views.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_radial.tasks.base import NUMBER, ROWS_PER_TABLE, SPLITS, TaskBuilder, TaskConfig
from hf_radial.tasks.checks import fraction, one_of, shown, whole_number
from hf_radial.tasks.plays import ALPHABET, LONGEST_ROW, play

CORPORA = ("generated", "pydoc")
CHARACTERS = 1_000_000


@dataclass
class TextConfig(TaskConfig):
    """One text, and where it is cut.

    Args:
        corpus: "generated" (synthetic plays) or "pydoc" (the reference texts of the Python that runs).
        characters: length of the generated text, from 10,000 to 100 million; 0 for 1,000,000, nearly as long as Tiny
            Shakespeare. "pydoc" is always taken whole.
        python_version: the version of the texts of "pydoc". Leave it out: it is the version of the running Python.
        train_fraction: share of the characters to train on, from the start of the text.
        validation_fraction: share of the characters after that; the rest is "test".

    Raises:
        ValueError: a field is out of its range, or does not apply to the corpus; a split would be shorter than the longest row
            and might stay empty; the name has another version of Python; or this Python has no `pydoc_data.topics`.

    Example:
        >>> TextConfig().name
        'generated_c1000000_f0.9_v0.05_s0'
        >>> TextConfig(name="generated_c50000_f0.8_v0.1_s3").characters
        50000
        >>> TextConfig(characters=100)
        Traceback (most recent call last):
        ...
        ValueError: characters must be a whole number from 10000 to 100000000, got 100.
    """

    corpus: str = "generated"
    characters: int = 0
    python_version: str = ""
    train_fraction: float = 0.9
    validation_fraction: float = 0.05

    PATTERN: ClassVar[str] = (
        r"(?P<corpus>generated|pydoc)(?:_c(?P<characters>\d+))?(?:_py(?P<python_version>[\w.+]+?))?"
        rf"_f(?P<train_fraction>{NUMBER})_v(?P<validation_fraction>{NUMBER})_s(?P<seed>\d+)"
    )
    EXAMPLE: ClassVar[str] = "generated_c1000000_f0.9_v0.05_s0"

    def check(self) -> None:
        one_of("corpus", self.corpus, CORPORA)
        if not isinstance(self.python_version, str):
            raise ValueError(f"python_version must be text, got {shown(self.python_version)}; leave it out.")
        self.train_fraction = fraction("train_fraction", self.train_fraction)
        self.validation_fraction = fraction("validation_fraction", self.validation_fraction, zero=True)
        if self.corpus == "generated":
            if self.python_version:
                raise ValueError(f"python_version={shown(self.python_version)} is for corpus='pydoc'; leave it out.")
            characters = whole_number("characters", self.characters, 0) or CHARACTERS
            self.characters = whole_number("characters", characters, 10_000, 100_000_000)
            total, longest = self.characters, LONGEST_ROW
        else:
            running = platform.python_version()
            if self.python_version not in ("", running):
                raise ValueError(
                    f"python_version={shown(self.python_version)} is not the Python that runs, {running}, whose texts "
                    f"corpus='pydoc' has; run that one, or leave python_version out."
                )
            self.python_version = running
            for field in ("characters", "seed"):
                if getattr(self, field) != 0:
                    raise ValueError(
                        f"{field}={shown(getattr(self, field))} does not apply to corpus='pydoc', which is taken whole; "
                        f"leave it out."
                    )
            lengths = pc.utf8_length(reference_texts()).to_numpy()
            total, longest = int(lengths.sum()), int(lengths.max())
        for split, (start, end) in self.bounds(total).items():
            if end - start < longest and not (split == "validation" and self.validation_fraction == 0):
                raise ValueError(
                    f"train_fraction={self.train_fraction} and validation_fraction={self.validation_fraction} leave "
                    f"{max(0, end - start)} of {total} characters to the split {split!r}, fewer than the longest row may have "
                    f"({longest}); change them{' or raise characters' if self.corpus == 'generated' else ''}."
                )

    def bounds(self, characters: int) -> dict[str, tuple[int, int]]:
        """First character of each split, and the one after its last, in a text of that many characters; rounded half up."""
        train = int(characters * self.train_fraction + 0.5)
        validation = int(characters * self.validation_fraction + 0.5)
        ends = [train, train + validation, characters]
        return dict(zip(SPLITS, zip([0, *ends[:-1]], ends, strict=True), strict=True))

    def spell_name(self) -> str:
        which = f"_c{self.characters}" if self.corpus == "generated" else f"_py{self.python_version}"
        return f"{self.corpus}{which}_f{self.train_fraction!r}_v{self.validation_fraction!r}_s{self.seed}"


class Text(TaskBuilder):
    """Builder of `TextConfig`: a text in rows of speeches or paragraphs, cut into three splits."""

    BUILDER_CONFIG_CLASS = TextConfig
    SUMMARY = (
        "Text: synthetic plays, or the English texts that Python ships, for a check that nothing is harmed; contiguous splits."
    )
    SOURCE = "cut as karpathy/nanoGPT cuts Tiny Shakespeare; the generated text is this project's own"
    SHELF = ("generated_c100000_f0.9_v0.05_s0", "generated_c1000000_f0.9_v0.05_s0")

    def _info(self) -> datasets.DatasetInfo:
        info = super()._info()
        if self.config.corpus == "generated":
            info.description += " Synthetic plays from a small probabilistic grammar, not natural language."
        else:
            info.description += f" The reference texts of CPython {self.config.python_version} (pydoc_data.topics)."
            info.license = "psf-2.0"
        return info

    def features(self) -> datasets.Features:
        return datasets.Features({"text": datasets.Value("string")})

    def shards(self) -> dict[str, list[pa.Array]]:
        return self.cut(self.config, text_of(self.config))

    @staticmethod
    def cut(config: TextConfig, rows: pa.Array) -> dict[str, list[pa.Array]]:
        """The rows of each split, in pieces of up to `ROWS_PER_TABLE`."""
        starts = np.concatenate([[0], np.cumsum(pc.utf8_length(rows).to_numpy())])
        shards = {}
        for split, (start, end) in config.bounds(int(starts[-1])).items():
            first, last = np.searchsorted(starts[:-1], [start, end])
            pieces = range(int(first), int(last), ROWS_PER_TABLE)
            shards[split] = [rows[at : min(at + ROWS_PER_TABLE, int(last))] for at in pieces]
        return shards

    def table(self, shard: pa.Array) -> pa.Table:
        return pa.table({"text": shard})

    @staticmethod
    def vocabulary(config: TextConfig) -> str:
        if config.corpus == "generated":
            return ALPHABET
        return "".join(sorted(set("".join(reference_texts().to_pylist()))))


def text_of(config: TextConfig) -> pa.Array:
    """All rows of the text, before it is cut."""
    return play(config.characters, config.seed) if config.corpus == "generated" else reference_texts()


@lru_cache(maxsize=1)
def reference_texts() -> pa.Array:
    """Paragraphs of this Python's reference texts, by topic, each with the empty line after it, without repetitions.

    Raises:
        ValueError: this Python has no such texts.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ValueError(
            "corpus='pydoc' needs pydoc_data.topics, which this Python comes without; take corpus='generated'."
        ) from error
    text = "\n\n".join(topics[topic].strip("\n") for topic in sorted(topics)).replace("$", "")
    paragraphs = [paragraph.strip("\n") for paragraph in re.split(r"\n\s*\n", text)]
    return pc.unique(pa.array([f"{paragraph}\n\n" for paragraph in paragraphs if paragraph.strip()]))
