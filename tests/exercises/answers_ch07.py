"""Chapter 7: right and wrong answers, which its checkers must tell apart."""

from dataclasses import replace

import torch

import klrp

INF = float("inf")


def total(x, dim):
    return x.sum(dim)


def hamacher(x, y):
    below = x + y - x * y
    return torch.where(below > 0, x * y / below, 0)


# ------------------------------------------------------------------ for and against


def extremes(x, dim):
    low, high = x.unbind(-1)
    return torch.stack([low.amin(dim), high.amax(dim)], -1)


def by_sign(x, y):
    (l, h), (m, i) = x.unbind(-1), y.unbind(-1)  # noqa: E741
    return torch.stack([torch.minimum(l * i, h * m), torch.maximum(h * i, l * m)], -1)


def split(d):
    return torch.stack([d.clamp_max(0), d.clamp_min(0)], -1)


SIGNS = klrp.Semiring("for and against", [0.0, 0.0], [0.0, 1.0], extremes, by_sign, shape=(2,))


# ------------------------------------------------------------------ intervals


def rough(d, by=0.002):
    ends = [torch.where(d > 0, d + s * by, 0) for s in (-1, 1)]
    return torch.stack(ends, -1).clamp_min(0)


def rough_at_zero(d, by=0.002):
    return torch.stack([d - by, d + by], -1).clamp_min(0)


INTERVAL = klrp.Semiring("interval", [0.0, 0.0], [1.0, 1.0], total, torch.mul, (0, INF), (2,))


# ------------------------------------------------------------------ widest paths


def count_widest(d):
    width = torch.ones(1)
    for layer in reversed(d):
        width = torch.minimum(layer, width).amax(1)
    found = torch.zeros(len(width))
    for t in width[width > 0].unique():
        n = torch.ones(1)
        for layer in reversed(d):
            n = (layer >= t).to(n) @ n
        found = torch.where(width == t, n, found)
    return list(zip(width.tolist(), found.long().tolist(), strict=True))


def in_one_walk(d):
    width, n = torch.ones(1), torch.ones(1)
    for layer in reversed(d):
        each = torch.minimum(layer, width)
        best = each.amax(1)
        width, n = best, ((each == best[:, None]) * n).sum(1)
    return [(w, int(m) if w else 0) for w, m in zip(width.tolist(), n.tolist(), strict=True)]


def all_paths(d):
    n = torch.ones(1)
    for layer in reversed(d):
        n = (layer > 0).to(n) @ n
    return [(w, int(m)) for (w, _), m in zip(count_widest(d), n.tolist(), strict=True)]


# ------------------------------------------------------------------ scatter


def second_order(x, y):
    (p, r, s), (q, t, u) = x.unbind(-1), y.unbind(-1)
    return torch.stack([p * q, p * t + r * q, p * u + 2 * r * t + s * q], -1)


def without_the_two(x, y):
    (p, r, s), (q, t, u) = x.unbind(-1), y.unbind(-1)
    return torch.stack([p * q, p * t + r * q, p * u + r * t + s * q], -1)


def moments(d):
    v = -torch.where(d > 0, d, 1).log()
    return torch.stack([d, d * v, d * v**2], -1)


def variance(elements):
    Z, S, T = elements.unbind(-1)
    mean = S / Z
    return T / Z - mean**2


SECOND = klrp.Semiring("second moments", [0.0] * 3, [1.0, 0.0, 0.0], total, second_order, shape=(3,))

RIGHT = {
    "ex-07-letters": 4.71,
    "ex-07-hamacher": hamacher,
    "ex-07-first": "b",
    "ex-07-signs": (SIGNS, split),
    "ex-07-bottleneck": count_widest,
    "ex-07-intervals": (INTERVAL, rough),
    "ex-07-variance": (SECOND, moments, variance),
}

WRONG = {
    "ex-07-letters": [5, 4.33, 1.550, 4.455, 4.0],
    "ex-07-hamacher": [
        lambda x, y: x * y / (x + y - x * y),  # 0/0
        lambda x, y: x * y,
        torch.minimum,
        lambda x, y: torch.where(x * y > 0, x * y / (x + y), 0),
    ],
    "ex-07-first": ["a", "c", "d"],
    "ex-07-signs": [
        SIGNS,  # without Θ
        (SIGNS, lambda d: split(d).flip(-1)),
        (SIGNS, lambda d: torch.stack([-d.abs(), d.abs()], -1)),
        (replace(SIGNS, mul=torch.mul), split),  # a law fails
        (replace(SIGNS, add=lambda x, dim: x.sum(dim)), split),  # sums, not the strongest
    ],
    "ex-07-bottleneck": [in_one_walk, all_paths, lambda d: [w for w, _ in count_widest(d)]],
    "ex-07-intervals": [
        (INTERVAL, rough_at_zero),  # a share of 0 is known
        (INTERVAL, lambda d: rough(d, 0.001)),
        (INTERVAL, lambda d: rough(d).flip(-1)),
        (klrp.REAL, lambda d: d),
    ],
    "ex-07-variance": [
        (SECOND, moments),
        (replace(SECOND, mul=without_the_two), moments, variance),
        (SECOND, moments, lambda e: e[..., 2] / e[..., 0]),  # the second moment
        (SECOND, lambda d: moments(d)[..., [0, 1, 1]], variance),
        (SECOND, moments, lambda e: None),
    ],
}
