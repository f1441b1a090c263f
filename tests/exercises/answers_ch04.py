"""Chapter 4: right and wrong answers, which its checkers must tell apart."""

from itertools import pairwise

import torch

import klrp
from klrp.conversions import magnitude, threshold


def relevant(model, x, c, t, theta=threshold):
    return klrp.explain(model, x, c, semiring="boolean", theta=theta(t)).input


def first_loss(model, x, c, low=1e-9, high=1.0, theta=threshold):
    whole = relevant(model, x, c, low, theta)
    while high / low > 1.0005:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if torch.equal(relevant(model, x, c, middle, theta), whole) else (low, middle)
    return high


def last_loss(model, x, c, low=1e-9, high=1.0):
    while high / low > 1.0005:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if relevant(model, x, c, middle).any() else (low, middle)
    return high


def masks(model, images, c, theta):
    maps = relevant(model, images, c, theta)
    return maps.any(0), maps.all(0)


def semiring(add, mul=torch.logical_and, **settings):
    return klrp.Semiring("own", False, True, add, mul, dtype=torch.bool, domain=(0, 1), **settings)


def way(edges, start, end):
    came, todo = {start: None}, [start]
    for v in todo:
        for w in (w for u, w in edges if u == v and w not in came):
            came[w] = v
            todo.append(w)
    path = [end] if end in came else []
    while path and path[-1] != start:
        path.append(came[path[-1]])
    return path[::-1]


def apart(layers, j, y, undo=True):
    edges = sorted({((i, j), (i + 1, k)) for i, d in enumerate(layers) for j, k in d.nonzero().tolist()})
    n = 0
    while path := way(edges, (0, j), (len(layers), y)):
        n += 1
        for v, w in pairwise(path):
            edges.remove((v, w))
            edges += [(w, v)] * undo
    return n


def number_of_paths(layers, j, y):
    R = torch.eye(layers[-1].shape[1])[y]
    for d in reversed(layers):
        R = d.float() @ R
    return int(R[j])


RIGHT = {
    "ex-04-split": "b",
    "ex-04-toy": [[True, False, True], [True, False]],
    "ex-04-step": lambda d, R, theta: ((d >= theta) & R).any(1),
    "ex-04-masks": masks,
    "ex-04-monotone": ([[0.45, 10], [0.55, -9]], [0.6, 0.4]),
    "ex-04-bisection": first_loss,
    "ex-04-parity": semiring(lambda x, dim: x.sum(dim) % 2 == 1),
    "ex-04-apart": apart,
}

WRONG = {
    "ex-04-split": ["a", "c", "d"],
    "ex-04-toy": [
        [[False, True, False], [True, False]],
        [[False, True, False], [False, True]],
        [[True, True, True], [True, True]],
        [[True, False, True], [True, True]],
        [True, False, True],
        RIGHT,
    ],
    "ex-04-step": [
        lambda d, R, theta: ((d > theta) & R).any(1),  # a share that equals θ is relevant
        lambda d, R, theta: (d >= theta).any(1),  # of neurons that are not relevant themselves
        lambda d, R, theta: ((d >= theta) & R).all(1),
    ],
    "ex-04-masks": [
        lambda model, images, c, theta: masks(model, images, c, theta)[::-1],
        lambda model, images, c, theta: ((images > 0).any(0), (images > 0).all(0)),  # the ink
        lambda model, images, c, theta: masks(model, images, c, 1e-9),
        lambda model, images, c, theta: masks(model, images, model(images).argmax(1), theta),
        lambda model, images, c, theta: relevant(model, images, c, theta),
    ],
    "ex-04-monotone": [
        ([[0.5, 0.5], [0.5, 0.5]], [0.5, 0.5]),
        ([[0.45, 10], [0.55, -9]], [0.4, 0.6]),
        ([[0.45, 10], [0.55, 1]], [0.6, 0.4]),  # shares that do not add up to 1
        ([0.45, 0.55], [0.6, 0.4]),
        3,
    ],
    "ex-04-bisection": [
        last_loss,
        lambda model, x, c: first_loss(model, x, c, theta=magnitude),
        lambda model, x, c: first_loss(model, x, c) * 1.02,
        lambda model, x, c: first_loss(model, x, 0),
        0.005,
    ],
    "ex-04-parity": [
        klrp.BOOLEAN,
        klrp.COUNTING,
        semiring(lambda x, dim: x.sum(dim) % 2 == 0),
        semiring(lambda x, dim: x.sum(dim) == 1),  # exactly one path
        lambda x: x % 2,
    ],
    "ex-04-apart": [
        number_of_paths,
        lambda layers, j, y: apart(layers, j, y, undo=False),
        lambda layers, j, y: min(int(layers[0][j].sum()), int(layers[-1][:, y].sum())),
    ],
}
