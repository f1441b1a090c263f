"""Chapter 3: right and wrong answers, which its checkers must tell apart."""

import math
from itertools import combinations

import torch

from klrp.semirings import SEMIRINGS


def idempotent(kind):
    K = SEMIRINGS[kind]
    one = K.full((1,), "one", torch.zeros(1))
    return bool(K.plus(one, one) == one)


def walked(layers, y, join=torch.minimum, start=1.0):
    R = torch.eye(layers[-1].shape[1]).to(layers[0])[y] * start
    for d in reversed(layers):
        R = join(d, R).amax(1)
    return R


def by_inclusion(paths, p):
    """Add the probabilities that all paths of a subset are open, with alternating signs."""
    total = 0.0
    for n in range(1, len(paths) + 1):
        for chosen in combinations(paths, n):
            total -= (-1) ** n * math.prod(p[e] for e in set().union(*chosen))
    return total


def noisy_or(paths, p):
    return 1 - math.prod(1 - math.prod(p[e] for e in path) for path in paths)


RIGHT = {
    "ex-03-predict": "c",
    "ex-03-byhand": [False, 14, 0.81, 5],
    "ex-03-exponents": [2, 2, 8],
    "ex-03-laws": {1: (0.5, 0.75, 0.75), 2: (1, 1, 3)},
    "ex-03-why": lambda why, T: any(needed <= T for needed in why),
    "ex-03-idempotent": idempotent,
    "ex-03-fuzzy": walked,
    "ex-03-probability": by_inclusion,
}

WRONG = {
    "ex-03-predict": ["a", "b", "d", 0.5],
    "ex-03-byhand": [[True, 14, 0.81, 5], [False, 10, 0.81, 5], [False, 14, 1.62, 5], [False, 14, 0.81, 8], 14],
    "ex-03-exponents": [[1, 2, 8], [2, 2, 6], [2, 1, 8], [2, 2, 4]],
    "ex-03-laws": [
        {1: (0.5, 0.75, 0.75)},  # the second breaks laws, too
        {2: (1, 1, 3)},
        {1: (0.25, 0.25, 0.25), 2: (1, 1, 3)},  # no law fails
        {1: (0.5, 0.75, 0.75), 2: (1, 1, 3), 3: (1, 2, 3)},
        {1: (0.5, 2.0, 2.0), 2: (1, 1, 3)},  # no elements
        {1: 0.5, 2: (1, 1, 3)},
        "3",
    ],
    "ex-03-why": [
        lambda why, T: all(needed <= T for needed in why),
        lambda why, T: any(needed & T for needed in why),
        lambda why, T: set().union(*why) <= T,
        lambda why, T: T in why,
    ],
    "ex-03-idempotent": [
        lambda kind: kind == "boolean",
        lambda kind: kind not in ("counting", "counting_int"),
        lambda kind: not idempotent(kind),
        lambda kind: kind in ("boolean", "viterbi", "fuzzy"),
    ],
    "ex-03-fuzzy": [
        lambda layers, y: walked(layers, y, torch.mul),
        lambda layers, y: walked(layers, y, torch.maximum),
        lambda layers, y: walked(layers, 1 - y),
        lambda layers, y: walked(layers, y, start=0.5),
        lambda layers, y: walked(layers, y) >= 0.5,
    ],
    "ex-03-probability": [
        noisy_or,  # right where no edge is shared
        lambda paths, p: sum(math.prod(p[e] for e in path) for path in paths),
        lambda paths, p: max((math.prod(p[e] for e in path) for path in paths), default=0.0),
        lambda paths, p: by_inclusion(paths[:2], p),
    ],
}
