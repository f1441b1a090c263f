"""Sentences whose words are coloured by relevance, and tables of the words most for and most against."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.plot.maps import SIGNED, ink_on
from klrp.plot.values import limit_of
from klrp.tables import Table


@dataclass(frozen=True)
class Sentences:
    """What `words` returns: ``html`` for notebooks and the book, with the alternative text ``alt``, and plain ``text``."""

    text: str
    alt: str = field(repr=False)
    html: str = field(repr=False)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.html


def words(
    relevance: Any, words: Sequence[str] | Sequence[Sequence[str]], *, limit: float | None = None, alt: str | None = None,
    titles: Sequence[str] | None = None,
) -> Sentences:  # fmt: skip
    """Sentences, a line each, with their words coloured by relevance: red for the class, blue against it.

    Args:
        relevance: one number for each word, [t], or [n, t] for n sentences; or a Relevance, of which the input's map is
            drawn. What lies behind the words of a sentence is padding. Truth values are red or white; where the
            scores of the semiring are logarithms, exp(score) relative to the largest is drawn.
        words: the words of a sentence, or of n of them, as klrp.data.tokenise gives them.
        limit: where the scale ends; by default at the 99.5th percentile of the sizes.
        alt: for those who cannot see it; by default the words with the largest relevance for and against.
        titles: n of them, each in front of its sentence.

    As plain text each word is followed by its relevance.

    Raises:
        KlrpError: numbers that do not fit to the words, or NaN.

    Example:
        >>> print(klrp.plot.words(torch.tensor([-1.0, 2.0]), ["not", "bad"]))
        not −1  bad +2
    """
    rows: Any = [words] if words and isinstance(words[0], str) else words
    values = _numbers(relevance)
    values = values[None] if values.ndim == 1 else values
    titles = [""] * len(rows) if titles is None else titles
    if values.ndim != 2 or not len(values) == len(rows) == len(titles) > 0 or max(map(len, rows)) > values.shape[1]:
        raise KlrpError.value(
            f"words: got relevance of shape {tuple(values.shape)}, {len(rows)} sentences of up to "
            f"{max(map(len, rows), default=0)} words and {len(titles)} titles; expected a number for each word, [n, t]."
        )
    pairs = [list(zip(row, numbers.tolist(), strict=False)) for row, numbers in zip(rows, values, strict=True)]
    end = limit_of(torch.tensor([number for row in pairs for _, number in row]), limit)
    text = "\n".join(
        _joined(t, "  ".join(f"{w} {_signed(v)}" for w, v in row)) for t, row in zip(titles, pairs, strict=True)
    )
    alt = alt or "; ".join(_joined(t, _described(row)) for t, row in zip(titles, pairs, strict=True))
    lines = [_joined(html.escape(t), _coloured(row, end)) for t, row in zip(titles, pairs, strict=True)]
    body = "".join(f'<div style="margin:0.2em 0;line-height:1.9">{line}</div>' for line in lines)
    # role and label: a screen reader reads the text that says what the colours say.
    return Sentences(text, alt, f'<div role="img" aria-label="{html.escape(alt)}">{body}</div>')


def word_table(words: Sequence[str], scores: Any, n: int = 10) -> Table:
    """The ``n`` words with the largest and with the smallest of the scores [len(words)], side by side.

    Raises:
        KlrpError: unless there is one score for each word.

    Example:
        >>> klrp.plot.word_table(["dull", "film", "funny"], [-2.0, 0.1, 1.5], 1)
        for    score  against  score
        funny  1.5    dull     -2
    """
    scores = torch.as_tensor(scores, dtype=torch.float64).detach()
    if scores.shape != (len(words),) or not len(words):
        raise KlrpError.value(f"scores: got shape {tuple(scores.shape)} for {len(words)} words; expected one for each.")
    best, worst = (scores.argsort(descending=down, stable=True)[:n].tolist() for down in (True, False))
    rows = [(words[i], float(scores[i]), words[j], float(scores[j])) for i, j in zip(best, worst, strict=True)]
    return Table(("for", "score", "against", "score"), tuple(rows))


def _numbers(relevance: Any) -> Tensor:
    """Relevance as float64 numbers [t] or [n, t], zero where it is the semiring's zero."""
    if hasattr(relevance, "semiring"):
        scores, semiring = relevance.semiring.score(relevance.input), relevance.semiring
        relevance = (scores - scores.max().nan_to_num(neginf=0.0)).exp() if semiring.logarithmic else scores
    values = torch.as_tensor(relevance).detach().cpu().double()
    if values.isnan().any():
        raise KlrpError.value("words: got NaN among the relevances; expected numbers.")
    return values


def _coloured(row: list[tuple[str, float]], end: float) -> str:
    spans = []
    for word, value in row:
        red, green, blue, _ = SIGNED(0.5 + 0.5 * max(-1.0, min(1.0, value / end)), bytes=True)
        ink = ink_on(red / 255, green / 255, blue / 255)
        style = f"background:rgb({red},{green},{blue});color:{ink};padding:0.15em 0.3em;border-radius:0.2em"
        spans.append(f'<span style="{style}" title="{_signed(value)}">{html.escape(word)}</span>')
    return " ".join(spans)


def _described(row: list[tuple[str, float]]) -> str:
    """The sentence, and up to three words each way."""
    up = [w for w, v in sorted(row, key=lambda pair: -pair[1]) if v > 0][:3]
    down = [w for w, v in sorted(row, key=lambda pair: pair[1]) if v < 0][:3]
    found = f"“{' '.join(w for w, _ in row)}”, most relevant for the class: {', '.join(up) or 'no word'}"
    return found + (f"; against it: {', '.join(down)}" if down else "")


def _signed(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−") if value else "0"


def _joined(title: str, rest: str) -> str:
    return f"{title}: {rest}" if title else rest
