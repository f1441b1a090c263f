"""Chapter 18: right and wrong answers, which its checkers must tell apart."""

import torch

from klrp import quality
from klrp.perturbation import bootstrap


def changes(net, k, x, out, ranked=True):
    before = net(x)
    after = net[k:](net[:k](x).masked_fill(out, 0))
    two = before.topk(2).indices if ranked else after.topk(2).indices
    return (after - before).gather(1, two)


def tau(a, b):
    signs = [(v[:, None] - v[None]).sign() for v in map(torch.tensor, (a, b))]
    return (signs[0] * signs[1]).sum() / (len(a) * (len(a) - 1))


viterbi = quality.lrp(semiring="viterbi")


def contrast(model, x, y):
    two = model(x).topk(2).indices
    other = torch.where(two[:, 0] == y, two[:, 1], two[:, 0])
    return viterbi(model, x, y) - viterbi(model, x, other)


QUESTIONS = {1: "boolean", 2: "counting", 3: "viterbi", 4: "fuzzy", 5: "real"}

RIGHT = {
    "ex-18-question": QUESTIONS,
    "ex-18-theta": [[0.5, 0.5], [0.05, 0.95]],
    "ex-18-layer": changes,
    "ex-18-paired": lambda one, other: bootstrap(one - other),
    "ex-18-tau": tau,
    "ex-18-own": contrast,
}

WRONG = {
    "ex-18-question": [
        QUESTIONS | {1: "fuzzy", 4: "boolean"},
        QUESTIONS | {3: "fuzzy", 4: "viterbi"},
        QUESTIONS | {2: "real"},
        {1: "boolean"},
        "boolean",
    ],
    "ex-18-theta": [
        [[0.5, 0.5], [0.5, 0.5]],
        [[0.95, 0.05], [0.01, 0.99]],  # it shrinks
        [[0.5, 0.5], [0.05, 0.05]],
        [0.5, 0.5],
        "none",
    ],
    "ex-18-layer": [
        lambda net, k, x, out: -changes(net, k, x, out),
        lambda net, k, x, out: changes(net, k, x, ~out),
        lambda net, k, x, out: changes(net, k, x, out, ranked=False),  # the classes that lead afterwards
        lambda net, k, x, out: changes(net, k, x, out).mean(0),
    ],
    "ex-18-paired": [
        lambda one, other: [a - b for a, b in zip(bootstrap(one), bootstrap(other), strict=True)],
        lambda one, other: [bootstrap(one)[0] - bootstrap(other)[1], bootstrap(one)[1] - bootstrap(other)[0]],
        lambda one, other: bootstrap(other - one),
        lambda one, other: (one - other).quantile(torch.tensor([0.025, 0.975])),  # of the pairs, not of their mean
        lambda one, other: bootstrap(one - other, level=0.5),
    ],
    "ex-18-tau": [
        lambda a, b: (tau(a, b) + 1) / 2,  # the part of the pairs in the same order
        lambda a, b: -tau(a, b),
        lambda a, b: torch.corrcoef(torch.tensor([a, b]))[0, 1],
    ],
    "ex-18-own": [
        lambda model, x, y: -contrast(model, x, y),
        viterbi,
        lambda model, x, y: viterbi(model, x, y) - viterbi(model, x, model(x).topk(2).indices[:, 1]),
        lambda model, x, y: contrast(model, x, y)[:, None],
    ],
}
