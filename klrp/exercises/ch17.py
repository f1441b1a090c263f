"""Checkers of chapter 17, words: small untrained networks for sentences, and short lists of numbers in place of words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from klrp.exercises.checking import Check, NotYet, function, same, shown, unanswered, value


def by_hand(vectors: Tensor, w: Tensor, b: float) -> list[float]:
    """Word by word what it adds to the logit of the mean, and at the end the bias."""
    n = len(vectors)
    return [sum(v * c for v, c in zip(row, w.tolist(), strict=True)) / n for row in vectors.tolist()] + [b]


def vectors_of_words() -> Iterator[tuple[Tensor, Tensor, float]]:
    yield torch.tensor([[1.0, 2.0], [3.0, 0.0], [-1.0, 1.0]]).double(), torch.tensor([1.0, -2.0]).double(), 0.5
    draw = torch.Generator().manual_seed(0)
    for n in (1, 2, 7, 11):
        yield torch.randn(n, 5, generator=draw).double(), torch.randn(5, generator=draw).double(), n / 4


def two_ways(x: Tensor) -> list[list[float]]:
    """Relevances of the words with the weights of attention held, and gradient times input by two small steps."""
    numbers = x.tolist()

    def y(numbers: list[float]) -> tuple[float, list[float]]:
        p = [math.exp(v) for v in numbers]
        p = [v / sum(p) for v in p]
        return sum(a * b for a, b in zip(p, numbers, strict=True)), p

    held = [a * b for a, b in zip(y(numbers)[1], numbers, strict=True)]
    slopes = []
    for i in range(len(numbers)):
        up, down = ([v + step * (i == j) for j, v in enumerate(numbers)] for step in (1e-5, -1e-5))
        slopes.append((y(up)[0] - y(down)[0]) / 2e-5)
    return [held, [v * s for v, s in zip(numbers, slopes, strict=True)]]


def words_of_one_number() -> Iterator[tuple[Tensor]]:
    yield (torch.tensor([1.0, 0.0, -1.0]).double(),)
    draw = torch.Generator().manual_seed(0)
    for n in (2, 3, 5, 7):
        yield (torch.randn(n, generator=draw, dtype=torch.float64),)


def sentences() -> Iterator[tuple[str, Any, Tensor]]:
    """A name for messages, an untrained network, and tokens [1, 3] or [3, 7] with padding."""
    from klrp.models import words

    draw = torch.Generator().manual_seed(0)
    for seed, kind in enumerate(("mean", "convolution", "mean", "attention", "convolution")):
        tokens = torch.randint(1, 11, (3, 7), generator=draw)
        tokens[0, 2:], tokens[1, 5:] = 0, 0
        tokens = tokens[:1, :3] if seed == 0 else tokens
        network = words(kind, 11, seed=seed).double().eval()
        yield f"klrp.models.words({kind!r}, 11, seed={seed}).double().eval(), tokens = {shown(tokens)}", network, tokens


def difference(answer: Callable) -> str | None:
    """What speaks for the film less what speaks against it: each logit is explained by itself, and subtracted."""
    from klrp import explain

    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    n = 0
    for n, (name, network, tokens) in enumerate(sentences(), 1):
        got = answer(network, tokens.clone())
        if n == 1 and unanswered(got):
            return None
        of, against = (explain(network, tokens, c, start="logit").input for c in (1, 0))
        if not same(got, of - against, 1e-3):
            raise NotYet(f"For {name}: expected {shown(of - against)}, your function gave {shown(got)}.")
    return f"on {n} networks"


def with_vectors(weight: Tensor, vocabulary: list[str], vectors: dict[str, Tensor]) -> Tensor:
    """Row by row: the vector of the word, where there is one."""
    return torch.stack([vectors.get(word, row) for word, row in zip(vocabulary, weight, strict=True)])


def embeddings() -> Iterator[tuple[Tensor, list[str], dict[str, Tensor]]]:
    words = ["<padding>", "<unknown>", "good", "film", "bad"]
    for n, names in enumerate((["good", "superb"], ["bad", "good"], ["dull"], ["film", "bad", "of"])):
        draw = torch.Generator().manual_seed(n)
        vectors = {name: torch.randn(2 + n, generator=draw) for name in names}
        yield torch.zeros(5, 2 + n) if n == 0 else torch.randn(5, 2 + n, generator=draw), words, vectors


def widths(R: Tensor) -> dict[int, int]:
    """Sentence by sentence: the largest of 150 relevances belongs to one of the widths, fifty filters each."""
    counts = {3: 0, 4: 0, 5: 0}
    for row in R.tolist():
        counts[3 + row.index(max(row)) // 50] += 1
    return counts


def relevances_of_filters() -> Iterator[tuple[Tensor]]:
    yield (torch.eye(150)[[0, 49, 50, 149]],)
    draw = torch.Generator().manual_seed(0)
    for n in (5, 7, 11):
        yield (torch.rand(n, 150, generator=draw),)


CHECKS: dict[str, Check] = {
    "ex-17-mean": function(by_hand, vectors_of_words),
    "ex-17-flat": value(
        [0.75, 0.0, 0.75],
        within=1e-6,
        hints=[
            ([0.75, 0.0, 0.0], "The third number: a mask lets nothing pass. Who would hand it to the words?"),
            ([0.75, 0.75, 0.75], "The second number: LRP-0 shares by contributions, and those of zeros are zero."),
            ([0.6, 0.0, 0.6], "The window has four places, not five. How many of them are padding?"),
            ([0.6, 0.0, 0.0], "The window has four places, not five. How many of them are padding?"),
            ([0.25, 0.0, 0.25], "One of the four places has a word; the other three are padding."),
        ],
    ),
    "ex-17-widths": function(widths, relevances_of_filters),
    "ex-17-glove": function(with_vectors, embeddings),
    "ex-17-difference": difference,
    "ex-17-attention": function(two_ways, words_of_one_number, within=1e-6),
}  # fmt: skip
