"""Chapter 10: right and wrong answers, which its checkers must tell apart."""

from dataclasses import replace

import torch

import klrp
from klrp import rules


def positive_rank():
    return replace(rules.zplus(), name="positive_rank()", normaliser="max")


def walk(**settings):
    return lambda model, x, k: klrp.explain(model, x, k, **settings).input


def bisected(covered, low, high, to=1.02):
    while high / low > to:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if covered(middle) > 0 else (low, middle)
    return low


def upper_end(covered, low, high):
    return bisected(covered, low, high) * 1.02


def stepwise(covered, low, high):
    while covered(low * 1.005) > 0:
        low *= 1.005
    return low


SHARES = dict(rule=rules.epsilon(1e-9), theta=lambda d: d.clamp(0, 1))

RIGHT = {
    "ex-10-gate": [1.0] * 20 + [0.0] * 80,
    "ex-10-both": [0.66, 0.66],
    "ex-10-signed": positive_rank,
    "ex-10-bottleneck": walk(semiring="fuzzy", **SHARES),
    "ex-10-flower": bisected,
}

WRONG = {
    "ex-10-gate": [[1.0] * 21 + [0.0] * 79, [1.0] * 20 + [0.1] * 80, [1.0] * 20, torch.arange(100), "twenty ones"],
    "ex-10-both": [[0.0908, 0.8813], [0.66, 0.88], [0.88, 0.09], 0.66],
    "ex-10-signed": [
        rules.max_share,  # inhibition counts
        rules.zplus,  # compares with the sum
        lambda: rules.norm_share(2),
        lambda: "max",
    ],
    "ex-10-bottleneck": [
        walk(semiring="viterbi", **SHARES),  # multiplies along a path
        walk(semiring="fuzzy"),  # compares with the largest contribution
        walk(semiring="boolean"),
        walk(),
    ],
    "ex-10-flower": [
        upper_end,  # where the map may be empty
        stepwise,  # too many maps
        lambda covered, low, high: bisected(covered, low, high, to=1.2),
        lambda covered, low, high: high,
    ],
}
