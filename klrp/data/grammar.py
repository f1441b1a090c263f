"""Reviews that a small grammar writes: short sentences with labels, the same ones on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence

SENTENCES = 4000

_NOUNS = """film movie story plot script cast acting direction music ending dialogue pace comedy drama thriller romance
    camera lead villain opening finale remake sequel score editing""".split()
_PLACES = """from start to finish|for two hours|in every scene|on the whole|at its heart|in the second half|
    for the whole family|this year|by any measure|to the last frame""".replace("\n", "").split("|")
_STRONGER = "very really truly quite so utterly rather simply".split()
_DENIALS = "is not|is never|isn't|is hardly|is far from".split("|")

# By side: against the film, and for it.
_ADJECTIVES = (
    """dull boring bad awful terrible stupid tedious lifeless weak bland predictable clumsy shallow hollow silly annoying
    painful forgettable horrible lame messy pointless disappointing pathetic ugly sad poor dreadful""".split(),
    """funny good great wonderful brilliant charming moving clever fresh beautiful delightful engaging gripping smart warm
    witty superb touching honest powerful thrilling lovely impressive enjoyable inspired perfect strong excellent""".split(),
)
_VERBS = (
    "bores drags fails disappoints annoys stumbles insults suffers collapses irritates".split(),
    "works shines entertains delights succeeds impresses charms soars satisfies sparkles".split(),
)
_OPINIONS = (
    "i hated|i regret|skip|nobody needs|a waste of|i could not stand|avoid|i slept through".split("|"),
    "i loved|i enjoyed|see|everybody needs|a triumph of|i could not resist|treasure|i laughed through".split("|"),
)


def sentences(n: int = SENTENCES, seed: int = 0) -> list[tuple[str, int]]:
    """``n`` sentences with their labels, 1 for the film and 0 against it, in turn.

    A sentence has one or two clauses. A clause names a side by an adjective, a verb or an opinion; a denial before
    an adjective turns it round; with *and* both clauses are of one side, with *but* the last one decides.

    Example:
        >>> sentences(2)[1]
        ('the music is charming', 1)
    """
    draw = random.Random(seed)
    return [(_sentence(draw, number % 2), number % 2) for number in range(n)]


def valence() -> dict[str, float]:
    """The grammar's own opinion of its adjectives and verbs: −1 against the film, 1 for it."""
    sides = (-1.0, 1.0)
    return {
        word: side for kind in (_ADJECTIVES, _VERBS) for words, side in zip(kind, sides, strict=True) for word in words
    }


def _sentence(draw: random.Random, side: int) -> str:
    kind = draw.random()
    if kind < 0.4:
        return _clause(draw, side)
    if kind < 0.7:
        return f"{_clause(draw, side)} and {_clause(draw, side)}"
    return f"{_clause(draw, 1 - side)} but {_clause(draw, side)}"


def _clause(draw: random.Random, side: int) -> str:
    """A clause whose words speak for ``side``, or for the other one where they are denied."""
    noun, kind = f"the {_one(draw, _NOUNS)}", draw.random()
    if kind < 0.2:
        clause = f"{_one(draw, _OPINIONS[side])} {noun}"
    elif kind < 0.35:
        clause = f"{noun} {_one(draw, _VERBS[side])}"
    elif kind < 0.6:
        clause = f"{noun} {_one(draw, _DENIALS)} {_one(draw, _ADJECTIVES[1 - side])}"
    else:
        stronger = f"{_one(draw, _STRONGER)} " if draw.random() < 0.4 else ""
        clause = f"{noun} is {stronger}{_one(draw, _ADJECTIVES[side])}"
    return f"{clause} {_one(draw, _PLACES)}" if draw.random() < 0.3 else clause


def _one(draw: random.Random, words: Sequence[str]) -> str:
    # random() alone is promised to stay the same from one Python to the next.
    return words[int(draw.random() * len(words))].strip()
