"""Chapter 12: right and wrong answers, which its checkers must tell apart."""

import torch


def count(a, w, z, R, theta, top=None, more=0):
    order = R.nonzero()[:, 0]
    order = order[z[order].abs().argsort()]
    top = w.abs().max() if top is None else top(w)
    goal, inverse = (theta / a)[:, None], 1 / z[order]
    sums = ((w[:, order] * inverse >= goal) * R[order]).sum(1)
    visited = (inverse.abs() * top >= goal).sum(1)
    return sums, (visited + more * (a > 0)).clamp(max=len(order))


def no_end(a, w, z, R, theta):
    sums, _ = count(a, w, z, R, theta)
    return sums, (a > 0) * (R != 0).sum()


def only_lists_differ(a, w, z, R, theta):
    sums, visited = count(a, w, z, R, theta)
    return sums * a, visited


def walked(a, w, s, order, bound):
    rows, s, total = w[:, order].tolist(), s[order].tolist(), 0
    found = torch.zeros_like(a)
    for j in a.nonzero()[:, 0].tolist():
        M, n = 0.0, 0
        while n < len(s) and bound[n] > M:
            M, n = max(M, rows[j][n] * s[n]), n + 1
        found[j], total = M, total + n
    return found, total


def shuffled(a, w, s, order):
    rest = s[order].flip(0).cummax(0).values.flip(0)
    return walked(a, w, s, order, (rest * w.max()).tolist())


def key_alone(a, w, s, order):
    return walked(a, w, s, order, (s[order] * w.max()).tolist())


def sorted_first(a, w, s, order=None):
    order = s.argsort(descending=True)
    return walked(a, w, s, order, (s[order] * w.max()).tolist())


def all_edges(a, w, s, order=None):
    return (w * s).amax(1) * (a > 0), int((a > 0).sum()) * len(s)


def rough(a, w, s, end=1, halves=2):
    octave = (halves * s.clamp_min(1e-300).log2()).floor()
    order = octave.argsort(descending=True, stable=True)
    bound = 2 ** ((octave[order] + end) / halves) * w.max()
    return walked(a, w, s, order, torch.where(s[order] > 0, bound, 0).tolist())


def far(a, w, z, theta):
    odd = (a * w / z >= theta) != (w / z >= theta / a)
    return (a.double() * w.double() / z.double() / theta - 1).abs()[odd]


RIGHT = {
    "ex-12-walk": (0.45, 2),
    "ex-12-fuzzy": (0.5, [0.8, 0.4], [0.3, 0.9]),
    "ex-12-count": count,
    "ex-12-order": shuffled,
    "ex-12-octaves": rough,
    "ex-12-ties": far,
}

WRONG = {
    "ex-12-walk": [(0.45, 3), (0.36, 1), (0.4, 3)],
    "ex-12-fuzzy": [
        (1.0, [0.8, 0.4], [0.3, 0.9]),  # a = 1 changes nothing
        (0.5, [0.8], [0.9]),
        (0.5, [8.0, 4.0], [0.3, 0.9]),
        (0.5, [0.8, 0.4], [0.3]),
        0.5,
    ],
    "ex-12-count": [
        no_end,
        only_lists_differ,
        lambda *args: count(*args, top=lambda w: w.max()),  # a negative weight may be the largest in size
        lambda *args: count(*args, more=1),  # the edge at which it stops is not visited
    ],
    "ex-12-order": [key_alone, sorted_first, all_edges],
    "ex-12-octaves": [
        sorted_first,
        all_edges,
        lambda a, w, s: rough(a, w, s, end=0),  # the lower end is no bound
        lambda a, w, s: rough(a, w, s, halves=1),  # whole octaves
    ],
    "ex-12-ties": [
        lambda a, w, z, theta: (a.double() * w.double() / z.double() / theta - 1).abs(),  # of all triples
        lambda a, w, z, theta: (a * w / z / theta - 1).abs(),
        lambda a, w, z, theta: (a.double() * w.double() / z.double() - theta).abs()[far(a, w, z, theta).long()],
        lambda a, w, z, theta: int(((a * w / z >= theta) != (w / z >= theta / a)).sum()),  # how many, not how far
    ],
}
