"""Chapter 17: right and wrong answers, which its checkers must tell apart."""

import torch

import klrp


def by_hand(vectors, w, b):
    return torch.cat([vectors @ w / len(vectors), torch.tensor([b])])


def two_ways(x):
    p = x.softmax(0)
    y = (p * x).sum()
    return torch.stack([p * x, p * x * (1 + x - y)])


def difference(network, tokens, sign=1, start="logit"):
    def output(logits):
        return sign * (logits[:, 1] - logits[:, 0])

    return klrp.explain(network, tokens, start=start, output=output).input


def with_vectors(weight, vocabulary, vectors):
    new = weight.clone()
    for word, vector in vectors.items():
        if word in vocabulary:
            new[vocabulary.index(word)] = vector
    return new


def as_unknown(weight, vocabulary, vectors):
    """A word that the vocabulary lacks overwrites the vector of all unknown ones."""
    new = weight.clone()
    for word, vector in vectors.items():
        new[vocabulary.index(word) if word in vocabulary else 1] = vector
    return new


def widths(R, of=lambda k: 3 + k // 50):
    found = of(R.argmax(1))
    return {w: int((found == w).sum()) for w in (3, 4, 5)}


RIGHT = {
    "ex-17-mean": by_hand,
    "ex-17-flat": [0.75, 0, 0.75],
    "ex-17-widths": widths,
    "ex-17-glove": with_vectors,
    "ex-17-difference": difference,
    "ex-17-attention": two_ways,
}

WRONG = {
    "ex-17-mean": [
        lambda vectors, w, b: torch.cat([vectors @ w, torch.tensor([b])]),  # the sum
        lambda vectors, w, b: vectors @ w / len(vectors),
        lambda vectors, w, b: torch.cat([vectors.abs() @ w / len(vectors), torch.tensor([b])]),
        lambda vectors, w, b: by_hand(vectors, w, 0.0),
    ],
    "ex-17-flat": [[0.75, 0, 0], [0.75, 0.75, 0.75], [0.6, 0, 0.6], [0.25, 0, 0.25], 0.75],
    "ex-17-widths": [
        lambda R: widths(R, lambda k: 3 + k % 3),
        lambda R: widths(R, lambda k: 5 - k // 50),
        lambda R: {w: float(R[:, 50 * w - 150 : 50 * w - 100].sum()) for w in (3, 4, 5)},
        lambda R: list(widths(R).values()),
    ],
    "ex-17-glove": [
        as_unknown,
        lambda weight, vocabulary, vectors: with_vectors(0 * weight, vocabulary, vectors),
        lambda weight, vocabulary, vectors: torch.stack([*vectors.values()]),
        lambda weight, vocabulary, vectors: weight,
    ],
    "ex-17-difference": [
        lambda network, tokens: difference(network, tokens, -1),
        lambda network, tokens: difference(network, tokens, start="one"),
        lambda network, tokens: klrp.explain(network, tokens, 1, start="logit").input,
        lambda network, tokens: klrp.explain(network, tokens, start="logit").input,
        3,
    ],
    "ex-17-attention": [
        lambda x: two_ways(x).flip(0),
        lambda x: two_ways(x)[:1].repeat(2, 1),  # the weights held in both
        lambda x: two_ways(x) / x,
        lambda x: x.softmax(0) * x,
    ],
}
