"""Chapter 19: right and wrong answers, which its checkers must tell apart."""

from dataclasses import replace

import torch

import klrp


def largest_three(x):
    return x.topk(3, dim=-1).values


def add(x, dim):
    return largest_three(x.movedim(dim, -2).flatten(-2))


def mul(x, y):
    return largest_three((x[..., :, None] * y[..., None, :]).flatten(-2))


THREE = klrp.Semiring("three", [0.0] * 3, [1.0, 0.0, 0.0], add, mul, domain=(0, 1), shape=3)


def front(strength, number):
    """From the strongest on, those that have more paths than all before; of equal strength the largest number counts."""
    order = sorted(range(len(strength)), key=lambda i: (-strength[i], -number[i], i))
    found, most, last = [], -1.0, None
    for i in order:
        pair = float(strength[i]), float(number[i])
        if pair[1] > most or pair == last:
            found, most, last = [*found, i], pair[1], pair
    return found


def strictly_better_in_both(strength, number):
    beaten = ((strength > strength[:, None]) & (number > number[:, None])).any(1)
    return [i for i in strength.argsort(descending=True, stable=True).tolist() if not beaten[i]]


def never_both(strength, number):
    """Leaves out one of two equal neurons, too."""
    found = front(strength, number)
    pairs = [(float(strength[i]), float(number[i])) for i in found]
    return [i for n, i in enumerate(found) if pairs[n] not in pairs[:n]]


def walk_needed(d, theta, join=set.intersection):
    R = [set()]
    for layer, m in reversed(list(enumerate(d))):
        below = []
        for row in (m >= theta).tolist():
            sets = [{(layer, k)} | R[k] for k, there in enumerate(row) if there and R[k] is not None]
            below.append(join(*sets) if sets else None)
        R = below
    return [None if s is None else sorted(s) for s in R]


def agreement(likeness, labels, mixed, spearman=True, both=True):
    C = len(mixed)
    upper = tuple(torch.triu_indices(C, C, 1))
    means = torch.tensor([[float(likeness[labels == a][:, labels == b].mean()) for b in range(C)] for a in range(C)])
    pairs = [means[upper], (mixed + mixed.T if both else mixed)[upper]]
    if spearman:
        pairs = [v.argsort().argsort().double() for v in pairs]
    return float(torch.corrcoef(torch.stack([v.double() for v in pairs]))[0, 1])


def cut(weights, paths):
    kept = [sorted(set(layer)) for layer in zip(*paths, strict=True)]
    small = []
    for i, w in enumerate(weights):
        masked = torch.zeros_like(w)
        for path in paths:
            masked[path[i + 1], path[i]] = w[path[i + 1], path[i]]
        small.append(masked[kept[i + 1]][:, kept[i]])
    return small


def all_between(weights, paths):
    kept = [sorted(set(layer)) for layer in zip(*paths, strict=True)]
    return [w[kept[i + 1]][:, kept[i]] for i, w in enumerate(weights)]


def still_large(weights, paths):
    kept = [list(range(w.shape[1])) for w in weights]
    return [w * sum(i in k for i in k) * 0 for w, k in zip(weights, kept, strict=True)]


def in_place(weights, paths):
    found = cut(weights, paths)
    for w in weights:
        w.zero_()
    return found


RIGHT = {
    "ex-19-minus": [10, 11],
    "ex-19-boolean": "c",
    "ex-19-kbest": THREE,
    "ex-19-pareto": front,
    "ex-19-needed": walk_needed,
    "ex-19-confused": agreement,
    "ex-19-formula": cut,
}

WRONG = {
    "ex-19-minus": [[6, 4], [11, 10], [10, 10], [21, 0]],
    "ex-19-boolean": ["a", "b", "d"],
    "ex-19-kbest": [
        klrp.VITERBI,
        replace(THREE, mul=torch.mul),
        replace(THREE, one=[1.0, 1.0, 1.0]),
        replace(THREE, add=lambda x, dim: x.amax(dim)),
    ],
    "ex-19-pareto": [
        strictly_better_in_both,
        never_both,
        lambda s, n: sorted(front(s, n)) if len(s) != 4 else [1, 0],
        lambda s, n: (s * n).argsort(descending=True)[:2].tolist(),
    ],
    "ex-19-needed": [
        lambda d, theta: walk_needed(d, theta, set.union),
        lambda d, theta: [s or [] for s in walk_needed(d, theta)],
        lambda d, theta: walk_needed(d, theta + 0.2),
    ],
    "ex-19-confused": [
        lambda *given: agreement(*given, spearman=False),
        lambda *given: agreement(*given, both=False),
        lambda likeness, labels, mixed: agreement(-likeness, labels, mixed),
    ],
    "ex-19-formula": [all_between, still_large, in_place, lambda weights, paths: cut(weights, paths[:1])],
}
