"""Chapter 9: right and wrong answers, which its checkers must tell apart."""

import torch
from torch import nn

import klrp
from klrp import rules


def part_apart(A, B):
    return (A / A.sum() - B / B.sum()).abs().sum() / 2


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


def by_blocks(low, high):
    block = [(f"features.{i}", rules.gamma(0.25), None) for i in (34, 37, 40)]
    return klrp.Composite([first(low, high), *block, *GENERAL])


def first(low, high):
    return klrp.FIRST, rules.zbox(low, high), None


GENERAL = [(nn.Conv2d, rules.zplus(), None), (klrp.ANY, rules.epsilon(1e-6), None)]
LATE = [("features.3[4-9]", rules.gamma(0.25), None), ("features.40", rules.gamma(0.25), None)]
BOX = first(-2.0, 2.0)


def everywhere(rule, *rows):
    return klrp.Composite([*rows, (klrp.ANY, rule, None)])


RIGHT = {
    "ex-09-cam": [[1, 0], [0, 7]],
    "ex-09-decide": part_apart,
    "ex-09-shift": lambda map_of, x: correlation(map_of(x).flip(2), map_of(x.flip(3))),
    "ex-09-pools": (4, 1024),
    "ex-09-own": by_blocks,
    "ex-09-choose": klrp.Composite([BOX, *GENERAL]),
}

WRONG = {
    "ex-09-cam": [[[1, -1], [-2, 7]], [[4, 0], [0, 28]], [[1, 2], [0, 9]], [1, 0, 0, 7]],
    "ex-09-decide": [
        lambda A, B: (A / A.sum() - B / B.sum()).abs().sum(),  # what differs is counted twice
        lambda A, B: (A - B).abs().sum() / 2,
        lambda A, B: (A / A.max() - B / B.max()).abs().mean(),
    ],
    "ex-09-shift": [
        lambda map_of, x: correlation(map_of(x), map_of(x.flip(3))),  # the map is not mirrored
        lambda map_of, x: correlation(map_of(x).flip(1), map_of(x.flip(3))),  # upside down
        lambda map_of, x: nn.functional.cosine_similarity(map_of(x).flip(2).flatten(), map_of(x.flip(3)).flatten(), 0),
    ],
    "ex-09-pools": [(2, 32), (4, 20), (1, 1)],
    "ex-09-own": [
        lambda low, high: klrp.Composite([first(low, high), *GENERAL, *LATE]),  # the general row comes first
        lambda low, high: klrp.Composite([*LATE, *GENERAL]),  # no box
        lambda low, high: klrp.Composite([first(low, high), ("features.*", rules.gamma(0.25), None), *GENERAL]),
        lambda low, high: [first(low, high), *LATE, *GENERAL],  # rows, not a composite
    ],
    "ex-09-choose": [
        everywhere(rules.epsilon()),  # grains of both signs
        everywhere(rules.epsilon(1e-9, std=0.25)),  # too little arrives
        everywhere(rules.zplus()),  # the class is gone
        everywhere(rules.gamma(0.25)),  # pixels may be negative
        everywhere(rules.flat()),
        rules.zplus(),
    ],
}
