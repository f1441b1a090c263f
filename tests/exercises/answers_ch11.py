"""Chapter 11: right and wrong answers, which its checkers must tell apart."""

from dataclasses import replace

import torch

import klrp

INF = float("inf")


def apart_and_folded(a, w, g, t):
    m, t = a * w, max(0.0, t)
    below, c = m.clamp_min(0), max(0.0, g * float(m.sum()))
    once = (g * m).clamp_min(0)
    ratio = lambda x, z: x / z if z > 0 else 0 * x  # noqa: E731
    return ratio(once, once.sum() + t), ratio(below, below.sum()) * (c / (c + t) if c + t > 0 else 0)


def lrp0(a, w, g, t):
    shares = a * w * g / (g * (a * w).sum() + t)
    return shares, shares


def without_bias(a, w, g, t):
    return apart_and_folded(a, w, g, 0.0)


def subsets(p, q):
    terms = [[p[..., A] * q[..., S - A] for A in range(16) if A & S == A] for S in range(16)]
    return torch.stack([sum(some) for some in terms], -1)


def unions(p, q):
    r = torch.zeros_like(p)
    for A in range(16):
        for B in range(16):
            r[..., A | B] += p[..., A] * q[..., B]
    return r


def truncated(p, q):
    """A product of polynomials in one variable, cut off at the sixteenth power."""
    return torch.stack([sum(p[..., A] * q[..., S - A] for A in range(S + 1)) for S in range(16)], -1)


def extremes(x, dim):
    low, high = x.unbind(-1)
    return torch.stack([low.amin(dim), high.amax(dim)], -1)


def one_step(d):
    there = d >= 1e-9
    return torch.stack([torch.where(there, 1.0, INF), torch.where(there, 1.0, -INF)], -1).to(d)


LENGTHS = klrp.Semiring("lengths", [INF, -INF], [0.0, 0.0], extremes, torch.add, shape=(2,))

RIGHT = {
    "ex-11-minus": [6.0, -5.0],
    "ex-11-branch": "b",
    "ex-11-dense": lambda n: 2 ** (n - 1),
    "ex-11-fold": apart_and_folded,
    "ex-11-sorted": subsets,
    "ex-11-lengths": (LENGTHS, one_step),
}

WRONG = {
    "ex-11-minus": [[0.25, 0.75], [4, 0.5], [2, -5.5], [2, 6], [1, 0]],
    "ex-11-branch": ["a", "c", "d"],
    "ex-11-dense": [lambda n: 2**n, lambda n: n, lambda n: n * (n + 1) // 2],
    "ex-11-fold": [lrp0, without_bias, lambda a, w, g, t: apart_and_folded(a, w, g, t)[::-1]],
    "ex-11-sorted": [torch.mul, unions, truncated],
    "ex-11-lengths": [
        LENGTHS,
        (LENGTHS, lambda d: torch.ones(*d.shape, 2).to(d)),  # of all paths, relevant or not
        (LENGTHS, lambda d: one_step(d.abs())),  # opposing ones, too
        (replace(LENGTHS, zero=[0.0, 0.0]), one_step),
        (replace(LENGTHS, add=lambda x, dim: x.amin(dim)), one_step),
        (replace(LENGTHS, one=[1.0, 1.0]), one_step),
    ],
}
