"""Plays from a small probabilistic grammar: synthetic text that looks like verse drama, written for this project.

In here: the words, the sentences, and `play`, which fills them in without a Python loop over words or speeches. Not in here:
the splits of a text (`text.py`).

The grammar. A scene has a place, a theme, a thing that is talked about, and a cast of two to four. Only the cast speaks. Nobody
speaks twice in a row (unless the speech between them was left out), and speakers call the one they answer by name. A speech is
one to four sentences, each of one or two lines. Three nouns in four belong to the scene's theme. In every list (words,
sentences), the r-th entry is chosen 1 / r as often as the first. A repeated speech is left out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_radial.tasks.draws import join_words
from hf_radial.tasks.splits import random_generator

# The text of a seed depends on this number and on every list below.
SCENES_AT_ONCE = 64
MOST_CAST, MOST_SENTENCES = 4, 4


def _listed(text: str, separator: str | None = None) -> list[str]:
    return text.split(separator)


NAMES = _listed(
    "Marda Tovin Ilse Brannoc Quill Sefa Odran Wenna Harrow Pell Ansgar Lioba Corvin Taddea Rusk Yselt Fenwick Orla Dagna Moss "
    "Petra Alder Viggo Nessa"
)
PLACES = _listed(
    "a harbour at dawn, the old mill, a hall in the palace, the edge of the forest, a kitchen, the city wall, a ship at sea, "
    "the market square, a garden by night, the chapel, a mountain pass, the counting house",
    ", ",
)
# Every theme has the same number of nouns. Nouns form the plural with s, and verbs the third person.
THEMES = {
    "sea": "ship tide sail harbour captain wave anchor storm island gull rope mast net star oar lantern current shore",
    "court": "king crown throne letter servant promise law seal banner guest duke toll herald ring council oath mirror secret",
    "war": "soldier sword horse wall camp drum shield wound captain spear gate signal trench rider helmet siege scout arrow",
    "love": "heart letter song rose window dream vow tear name smile garden dance ribbon whisper sigh hope glance ring",
    "money": "coin debt purse merchant price bargain ledger chest market tailor gift scale loan wagon bribe key ship cart",
    "farm": "field plough barn goat seed fence river orchard bell rain cart well lamb hen wall furrow scarecrow miller",
}
ADJECTIVES = _listed(
    "old good dark cold little long strange bitter gentle broken golden silent empty early honest heavy hollow bright "
    "proud weary narrow foolish patient faithful crooked distant hungry pale sudden quiet stubborn tender ragged secret "
    "frozen"
)
TRANSITIVES = _listed(
    "know want hear keep fear find follow need remember call break hold claim guard trust mend count burn curse answer steal "
    "forget hide sell wake mourn admire borrow"
)
INTRANSITIVES = _listed(
    "wait sleep fall return speak stand sing turn burn tremble sail rest begin laugh wander weep shine ripen linger change"
)
ADVERBS = _listed(
    "now, again, tonight, slowly, alone, tomorrow, softly, twice, gladly, in vain, by moonlight, at last, without a word, "
    "before the others, as ever",
    ", ",
)
# "/" ends a line. {same} is the noun before it, {thing} is the scene's thing, {you} is the one whom the speaker answers.
SENTENCES = _listed(
    """
the {noun} is {adjective} , and the {noun} is {adjective} .
I {transitive} the {adjective} {noun} , {you} .
what do you {transitive} , {you} ?
we {intransitive} {adverb} , for the {noun} {intransitive_s} {adverb} , / and no {noun} will {transitive} the {same} .
I have seen the {thing} .
if the {noun} {intransitive_s} , / then who will {transitive} the {same} ?
{you} , {transitive} the {thing} and {intransitive} .
the {nouns} {intransitive} , the {nouns} {intransitive} , / and still I {transitive} the {thing} .
no {noun} was ever so {adjective} .
where is the {thing} , {you} ?
give me the {noun} , or give me the {thing} !
my {noun} {transitive_s} me {adverb} , / and all the {adjective} {nouns} {intransitive} .
they say the {thing} {intransitive_s} {adverb} .
when the {adjective} {noun} {intransitive_s} , / I {transitive} what the {nouns} {transitive} .
you {transitive} my {noun} as the {noun} {transitive_s} the {noun} .
not the {noun} , {you} , but the {adjective} {noun} .
{adverb} I {intransitive} , and {adverb} I {transitive} the {thing} .
some {adjective} {noun} for some {adjective} {noun} : / so {nouns} {transitive} the {thing} , and so do I .
O {adjective} {noun} , how {adverb} you {intransitive} !
let them {transitive} their {nouns} ; we {transitive} the {thing} .
""".strip(),
    "\n",
)
SPEAKER, SILENCE = "{speaker} :", ""
HEADINGS = [
    f"scene {{number}} : {{place}} . / enter {cast} ."
    for cast in ("{cast0} and {cast1}", "{cast0} , {cast1} and {cast2}", "{cast0} , {cast1} , {cast2} and {cast3}")
]
TEMPLATES = [SPEAKER, SILENCE, *HEADINGS, *SENTENCES]
PUNCTUATION = ",.?!:;"
NEWLINE = "/"
_NOUNS = list(dict.fromkeys(noun for nouns in THEMES.values() for noun in nouns.split()))
# The words that each slot can be filled with. Slots that are drawn independently list their words by rank.
FILLINGS: dict[str, list[str]] = {
    "noun": _NOUNS,
    "nouns": [f"{noun}s" for noun in _NOUNS],
    "adjective": ADJECTIVES,
    "transitive": TRANSITIVES,
    "transitive_s": [f"{verb}s" for verb in TRANSITIVES],
    "intransitive": INTRANSITIVES,
    "intransitive_s": [f"{verb}s" for verb in INTRANSITIVES],
    "adverb": ADVERBS,
    "same": _NOUNS,
    "thing": _NOUNS,
    "place": PLACES,
    **dict.fromkeys(("you", "speaker", *(f"cast{i}" for i in range(MOST_CAST))), NAMES),
}
DRAWN = ("adjective", "transitive", "transitive_s", "intransitive", "intransitive_s", "adverb")
_PLAIN = {word for template in TEMPLATES for word in template.split() if not word.startswith("{")}
# Each word once, sorted: the order must not depend on a hash.
WORDS = sorted({NEWLINE, *_PLAIN, *(word for words in FILLINGS.values() for word in words)})
ALPHABET = "".join(sorted({"\n", " ", *"0123456789", *"".join(WORDS), *"".join(word[0].upper() for word in WORDS)} - {NEWLINE}))


def _longest(template: str) -> int:
    """The most characters that a template can give, with its line ends. A number has up to 10 digits."""
    slots = [word.strip("{}") for word in template.split()]
    return 1 + sum(1 + max(map(len, FILLINGS.get(slot, [slot, "0" * 10]))) for slot in slots)


# The most characters of a speech or a heading, with the empty line after it.
LONGEST_ROW = 1 + _longest(SPEAKER) + MOST_SENTENCES * max(map(_longest, TEMPLATES))


class Scenes(NamedTuple):
    """The scenes of a block: `(scenes,)` each, but `cast` is `(scenes, 4)`, of which the first `cast_size` appear."""

    speeches: np.ndarray
    cast: np.ndarray
    cast_size: np.ndarray
    place: np.ndarray
    theme: np.ndarray
    thing: np.ndarray


def play(characters: int, seed: int) -> pa.Array:
    r"""Rows of a text of exactly `characters` characters: headings and speeches, all different. The last one may be cut.

    Example:
        >>> rows = play(10_000, seed=0).to_pylist()
        >>> rows[0]
        'Scene 1: the old mill.\nEnter Lioba, Brannoc and Petra.\n\n'
        >>> rows[1].splitlines()[:3]
        ['Brannoc:', 'The fences sing, the rivers sleep,', 'And still I admire the bell.']
        >>> sum(map(len, rows))
        10000
    """
    rng = random_generator(seed)
    blocks: list[pa.Array] = []
    rows, length = pa.array([], pa.string()), 0
    while True:
        while length < characters:
            blocks.append(_block(rng, first=len(blocks) * SCENES_AT_ONCE + 1))
            length += int(pc.sum(pc.utf8_length(blocks[-1])).as_py())
        rows = pc.unique(pa.concat_arrays(blocks))
        ends = np.cumsum(pc.utf8_length(rows).to_numpy())
        if ends[-1] >= characters:
            break
        length = int(ends[-1])  # without the repeated speeches; blocks are added until this suffices
    last = int(np.searchsorted(ends, characters))
    over = int(ends[last]) - characters
    whole = rows[last].as_py()
    return pa.concat_arrays([rows[:last], pa.array([whole[: len(whole) - over]])])


def _block(rng: np.random.Generator, first: int) -> pa.Array:
    """Headings and speeches of the next scenes. The first of them has the number `first`."""
    scenes = _scenes(rng)
    of_scene = scenes.speeches + 1  # rows of each scene, with its heading
    scene = np.repeat(np.arange(SCENES_AT_ONCE), of_scene)
    start = np.cumsum(of_scene) - of_scene
    heading = np.zeros(len(scene), dtype=bool)
    heading[start] = True
    # The next speaker is 1 to (cast size - 1) places further on, so nobody follows himself. 6 is divisible by 1, 2 and 3.
    step = np.where(heading, 0, 1 + rng.integers(0, 6, size=len(scene)) % (scenes.cast_size[scene] - 1))
    turn = np.cumsum(step)
    turn -= turn[start][scene]
    speaker, answered = (scenes.cast[scene, at % scenes.cast_size[scene]] for at in (turn, turn - step))

    # A row is a list of templates: a heading; or a speaker, sentences and the empty line after them.
    sentences = rng.integers(1, MOST_SENTENCES + 1, size=len(scene))
    of_row = np.where(heading, 2, sentences + 2)
    row = np.repeat(np.arange(len(scene)), of_row)
    place_in_row = np.arange(len(row)) - np.repeat(np.cumsum(of_row) - of_row, of_row)
    template = len(TEMPLATES) - len(SENTENCES) + _rank(rng, len(row), len(SENTENCES))
    template[place_in_row == 0] = np.where(heading, 2 + scenes.cast_size[scene] - 2, 0)
    template[place_in_row == of_row[row] - 1] = 1

    grammar = _grammar()
    of_template = grammar.lengths[template]
    row = np.repeat(row, of_template)
    token = grammar.tokens[_ranges(grammar.starts[template], of_template)]
    word = token.copy()  # a slot is replaced below

    def fill(slot: str, choice: np.ndarray) -> None:
        word[token == grammar.slot[slot]] = choice

    for slot in DRAWN:
        fill(slot, grammar.fillings[slot][_rank(rng, int((token == grammar.slot[slot]).sum()), len(FILLINGS[slot]))])
    for slot in ("noun", "nouns"):
        themes = scenes.theme[scene[row[token == grammar.slot[slot]]]]
        elsewhere = rng.integers(0, 4, size=len(themes)) == 0
        themes = np.where(elsewhere, rng.integers(0, len(THEMES), size=len(themes)), themes)
        fill(slot, grammar.fillings[slot][grammar.nouns[themes, _rank(rng, len(themes), grammar.nouns.shape[1])]])
    last_noun = np.maximum.accumulate(np.where(token == grammar.slot["noun"], np.arange(len(token)), 0))
    fill("same", word[last_noun[token == grammar.slot["same"]]])
    of_row_slots = {
        "thing": scenes.thing[scene],
        "place": scenes.place[scene],
        "speaker": speaker,
        "you": answered,
        **{f"cast{i}": scenes.cast[scene, i] for i in range(MOST_CAST)},
    }
    for slot, choice in of_row_slots.items():
        fill(slot, grammar.fillings[slot][choice[row[token == grammar.slot[slot]]]])
    numbered = token == grammar.slot["number"]
    word[numbered] = 2 * len(WORDS) + scene[row[numbered]]

    # Two spellings of each word: within a line after a space, and at the start of a line with a capital.
    begins = np.concatenate([[True], word[:-1] == grammar.newline])
    word = np.where(begins & (word != grammar.newline) & (word < len(WORDS)), word + len(WORDS), word)
    spelt = pa.array([*grammar.spelt, *(f" {first + i}" for i in range(SCENES_AT_ONCE))])
    return join_words(spelt, word, np.bincount(row, minlength=len(scene)), separator="").cast(pa.string())


def _scenes(rng: np.random.Generator) -> Scenes:
    count = SCENES_AT_ONCE
    order = np.argsort(rng.integers(0, 2**63 - 1, size=(count, len(NAMES))), axis=1, kind="stable")
    theme = rng.integers(0, len(THEMES), size=count)
    nouns = _grammar().nouns
    return Scenes(
        speeches=rng.integers(6, 21, size=count),
        cast=order[:, :MOST_CAST],
        cast_size=rng.integers(2, MOST_CAST + 1, size=count),
        place=rng.integers(0, len(PLACES), size=count),
        theme=theme,
        thing=nouns[theme, rng.integers(0, nouns.shape[1], size=count)],
    )


class Grammar(NamedTuple):
    """The lists above as arrays: words and slots of all templates in one array, and for each slot the ids of its words."""

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    slot: dict[str, int]  # below 0
    fillings: dict[str, np.ndarray]
    nouns: np.ndarray  # (themes, nouns of each theme): positions in FILLINGS["noun"]
    newline: int
    spelt: list[str]


@lru_cache(maxsize=1)
def _grammar() -> Grammar:
    number = {word: index for index, word in enumerate(WORDS)}
    slot = {name: -1 - index for index, name in enumerate([*FILLINGS, "number"])}
    ids = [
        [slot[word[1:-1]] if word.startswith("{") else number[word] for word in [*template.split(), NEWLINE]]
        for template in TEMPLATES
    ]
    lengths = np.array([len(words) for words in ids])
    within = ["\n" if word == NEWLINE else word if word in PUNCTUATION else f" {word}" for word in WORDS]
    return Grammar(
        tokens=np.array([word for words in ids for word in words]),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        slot=slot,
        fillings={name: np.array([number[word] for word in words]) for name, words in FILLINGS.items()},
        nouns=np.array([[_NOUNS.index(noun) for noun in nouns.split()] for nouns in THEMES.values()]),
        newline=number[NEWLINE],
        spelt=[*within, *(word[0].upper() + word[1:] for word in WORDS)],
    )


def _rank(rng: np.random.Generator, count: int, choices: int) -> np.ndarray:
    """`count` random numbers below `choices`. The r-th number is 1 / r as likely as the first."""
    # Whole numbers: no choice depends on rounding.
    upto = np.cumsum(27_720 // np.arange(1, choices + 1))
    return np.searchsorted(upto, rng.integers(0, int(upto[-1]), size=count), side="right")


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`lengths[0]` consecutive numbers from `starts[0]`, then `lengths[1]` from `starts[1]`, and so on.

    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    first = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - first, lengths)
