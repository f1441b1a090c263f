"""One-sentence film reviews as rows of word numbers: those of Pang and Lee, or those that a grammar writes."""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from klrp.data.folders import data_folder
from klrp.data.grammar import sentences
from klrp.errors import KlrpError

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
PAD, UNKNOWN = "<pad>", "<unknown>"
SIDES = ("neg", "pos")


@dataclass(frozen=True, eq=False)
class Reviews:
    """Sentences as rows of word numbers, [n, longest] int64; labels [n] int64, 1 for the film and 0 against it.

    Number 0 is padding, behind the words of a row, and 1 a word that is not in ``vocabulary``, the words by number.
    ``train_texts`` and ``test_texts`` are the sentences themselves. ``source`` is ``"rt-polarity"`` or ``"grammar"``:
    bounds on results depend on it.
    """

    train_tokens: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_tokens: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    train_texts: tuple[str, ...] = field(repr=False)
    test_texts: tuple[str, ...] = field(repr=False)
    vocabulary: tuple[str, ...] = field(repr=False)
    source: str

    def encode(self, texts: str | Sequence[str]) -> Tensor:
        """The numbers of the words of one sentence or of several, [n, longest] int64, padded with 0.

        Raises:
            KlrpError: for a sentence without words.

        Example:
            >>> reviews.encode("not bad")  # a row of two numbers
        """
        rows = [
            [self._numbers.get(word, 1) for word in tokenise(t)] for t in ([texts] if isinstance(texts, str) else texts)
        ]
        if not rows or not all(rows):
            raise KlrpError.value(f"encode: got {texts!r}; expected sentences with at least one word each.")
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary)}


def tokenise(text: str) -> list[str]:
    """The words of a text in small letters: letters and digits, with apostrophes inside; all else separates.

    The regular expression is ``[^\\W_]+(?:'[^\\W_]+)*``.

    Example:
        >>> tokenise("It isn't half-bad!")
        ['it', "isn't", 'half', 'bad']
    """
    if not isinstance(text, str):
        raise KlrpError.type(f"tokenise: got a {type(text).__name__}; expected a text.")
    return WORD.findall(text.lower())


def reviews(words: int = 5000) -> Reviews:
    """One-sentence film reviews, for or against a film; one line says which.

    They are the 10 662 sentences of Pang and Lee (2005) where ``$KLRP_DATA`` or the cache holds
    ``rt-polarity/rt-polarity.pos`` and ``.neg`` (latin-1, a sentence a line); nothing is fetched. Otherwise they
    are 4000 that a grammar of this package writes. About a tenth is held out for testing: the sentences whose
    CRC-32 is a multiple of ten, so that equal sentences stay together. The vocabulary is padding, the unknown word, and
    the most frequent words of the others, at most ``words`` in all; among words of one frequency in the order of the alphabet.

    A KlrpError says that ``words`` is no integer >= 3, that ``$KLRP_DATA`` is no folder, or that a file is missing or
    has no sentences.

    Example:
        >>> tokens = klrp.data.reviews().test_tokens  # [1098, 51] with Pang and Lee's
    """
    if not isinstance(words, int) or words < 3:
        raise KlrpError.value(f"reviews: words is {words!r}; give the size of the vocabulary, an integer >= 3.")
    folder, origin = _folder()
    labelled = sentences() if folder is None else _read(folder)
    found = _numbered(labelled, words, "grammar" if folder is None else "rt-polarity")
    name = "written by a grammar" if folder is None else "Pang and Lee's sentences"
    print(f"reviews: {name}, {len(found.train_texts)} for training and {len(found.test_texts)} for testing ({origin})")
    return found


def _folder() -> tuple[Path | None, str]:
    """The folder with the two files, or None, and in words how that came about."""
    if os.environ.get("KLRP_DATA") == "none":
        return None, "KLRP_DATA=none"
    folder, cache = data_folder(), Path(os.environ.get("KLRP_CACHE") or "~/.cache/klrp").expanduser()
    for place, origin in ((folder, "KLRP_DATA"), (cache, "cache")):
        if place is not None and (place / "rt-polarity").is_dir():
            return place / "rt-polarity", origin
    return None, "rt-polarity is neither in KLRP_DATA nor in the cache"


def _read(folder: Path) -> list[tuple[str, int]]:
    labelled = []
    for label, side in enumerate(SIDES):
        path = folder / f"rt-polarity.{side}"
        lines = path.read_text("latin-1").splitlines() if path.is_file() else []
        found = [(line.strip(), label) for line in lines if tokenise(line)]
        if not found:
            what = "has no sentences" if path.is_file() else "is missing"
            raise KlrpError.value(
                f"reviews: {path} {what}. Fetch Pang and Lee's sentence polarity data again, or set KLRP_DATA to 'none' "
                "for sentences that a grammar writes."
            )
        labelled += found
    return labelled


def _numbered(labelled: Sequence[tuple[str, int]], words: int, source: str) -> Reviews:
    held_out = [zlib.crc32(text.encode()) % 10 == 0 for text, _ in labelled]
    parts = [[pair for pair, out in zip(labelled, held_out, strict=True) if out == side] for side in (False, True)]
    counts = Counter(word for text, _ in parts[0] for word in tokenise(text))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    texts = [tuple(text for text, _ in part) for part in parts]
    labels = [torch.tensor([label for _, label in part]) for part in parts]
    found = Reviews(*[torch.empty(0)] * 4, *texts, (PAD, UNKNOWN, *frequent[: words - 2]), source)
    train, test = (found.encode(part) for part in texts)
    return Reviews(train, labels[0], test, labels[1], *texts, found.vocabulary, source)
