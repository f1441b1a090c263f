"""Chapter 6: right and wrong answers, which its checkers must tell apart."""

import math

import torch


def best_path(tables, y):
    R, came = torch.eye(tables[-1].shape[1])[y], []
    for d in reversed(tables):
        R, k = (d * R).max(1)
        came.append(k)
    path = [int(R.argmax())]
    for k in reversed(came):
        path.append(int(k[path[-1]]))
    return path


def from_the_top(tables, y):
    path = [y]
    for d in reversed(tables):
        path.append(int(d[:, path[-1]].argmax()))
    return path[::-1]


def from_the_bottom(tables, y):
    path = [int(tables[0].amax(1).argmax())]
    for d in tables[:-1]:
        path.append(int(d[path[-1]].argmax()))
    return [*path, y]


def halves(tables, y, layer):
    up = torch.eye(tables[-1].shape[1])[y]
    for d in reversed(tables[layer:]):
        up = (d * up).amax(1)
    down = torch.ones(len(tables[0]))
    for d in tables[:layer]:
        down = (d * down[:, None]).amax(0)
    return up, down


def without_each(tables, y, layer):
    up, down = halves(tables, y, layer)
    first, second = (up * down).topk(2)[0]
    return torch.where(up * down == first, second, first)


def layers_until(factor, smallest):
    return math.floor(-math.log(smallest) / math.log(factor)) + 1


def one_edge(d):
    return torch.where(d > 0, 1.0, -torch.inf)


RIGHT = {
    "ex-06-predict": "b",
    "ex-06-toy": [[0.017, 0.664, 1], [1, 0.022], 2],
    "ex-06-one": ([[1.0, 0, 2], [0, 1, 0]], [0, 10, 0], [1, 0]),
    "ex-06-bottleneck": ([1, 1, 0.5], [0.6, 0.6, 0.6]),
    "ex-06-classes": best_path,
    "ex-06-underflow": layers_until,
    "ex-06-longest": one_edge,
    "ex-06-without": without_each,
}

WRONG = {
    "ex-06-predict": ["a", "c", "d"],
    "ex-06-toy": [
        [[0.0025, 1.0, 0.8129], [1.0, 0.0338], 2],  # the first output
        [[0.017, 0.664, 1], [1, 0.022], 3],
        [[0.017, 0.664, 1], [1, 0.008], 3],
        [0.017, 0.664, 1],
    ],
    "ex-06-one": [
        ([[2.5, 1.0, 1.0], [-1.0, 0.2, 0.1]], [0, 0, 0], [1, 1]),
        ([[1.0, 0, 2], [0, 1, 0]], [0, 10, 0], [0, 0]),
        ([[1.0, 0, 2], [0, 1, 0]], [0, 0, 0], [1, 0]),
        ([[1.0, 0], [0, 1], [2, 0]], [0, 10, 0], [1, 0]),
        0.28,
    ],
    "ex-06-bottleneck": [
        ([0.6, 0.6, 0.6], [1, 1, 0.5]),
        ([0.9, 0.9, 0.9], [0.5, 0.5, 0.5]),
        ([1, 1, 0.5], [0.5, 0.5, 0.5]),
        ([2, 1, 0.5], [0.6, 0.6, 0.6]),
        (0.5, 0.6),
    ],
    "ex-06-classes": [from_the_top, from_the_bottom, lambda tables, y: best_path(tables, y)[:-1], [0, 1, 0]],
    "ex-06-underflow": [
        lambda factor, smallest: layers_until(factor, smallest) - 1,
        lambda factor, smallest: -math.log10(smallest),
        lambda factor, smallest: round(-math.log(smallest) / math.log(factor)),
        lambda factor, smallest: int(1 / smallest / factor) + 1,
    ],
    "ex-06-longest": [
        lambda d: torch.where(d >= 0, 1.0, -torch.inf),
        lambda d: (d > 0).float(),
        lambda d: torch.where(d > 0, d, -torch.inf),
        lambda d: torch.where(d > 0, 1.0, torch.inf),
    ],
    "ex-06-without": [
        lambda tables, y, layer: torch.mul(*halves(tables, y, layer)),  # the best path through each, not around it
        lambda tables, y, layer: halves(tables, y, layer)[0],
        lambda tables, y, layer: torch.mul(*halves(tables, y, layer)).amax().expand(len(tables[layer])),
        lambda tables, y, layer: without_each(tables, 0, layer),
    ],
}
