"""Chapter 5: right and wrong answers, which its checkers must tell apart."""

import torch

import klrp
from klrp.conversions import positive, threshold


def coin(a):
    return (0.5 + (a / a.norm()).asin() / torch.pi)[a > 0].mean()


def carried(model, x, c, up=None):
    below = (x > 0).flatten(1).double()
    for i in (1, 3):
        below = (model[: i + 2](x) > 0) * (below @ (model[i].weight > 0).double().T)
    above = klrp.explain(model, x, c, semiring="counting", theta=positive())["4"]
    return (below * (above if up is None else up))[0]


def chances(d, R, theta):
    ways = (d >= theta) * R
    return ways / ways.sum(1, keepdim=True).clamp_min(1)


def most_and_fewest(model, x, theta, among=lambda logits: logits > 0):
    n, k = model(x).shape
    classes = torch.arange(k).repeat(n)
    R = klrp.explain(model, x.repeat_interleave(k, 0), classes, semiring="counting", theta=threshold(theta))
    total, logits = R.input.sum(1).reshape(n, k), model(x)
    own, allowed = total.gather(1, logits.argmax(1, keepdim=True)), among(logits)
    most = ((own >= total) | ~allowed).all(1)
    fewest = ((own <= total) | ~allowed).all(1)
    return most.double().mean(), fewest.double().mean()


def modulo(m, add=True, mul=True, dtype=torch.int64):
    def plus(x, dim):
        return x.sum(dim) % m if add else x.sum(dim)

    def times(x, y):
        return x * y % m if mul else x * y

    return klrp.Semiring(f"modulo {m}", 0, 1, plus, times, domain=(0, m - 1), dtype=dtype)


RIGHT = {
    "ex-05-signs": "b",
    "ex-05-toy": [[2, 1], [1, 1]],
    "ex-05-half": coin,
    "ex-05-between": carried,
    "ex-05-draw": chances,
    "ex-05-class": most_and_fewest,
    "ex-05-modulo": modulo,
}

WRONG = {
    "ex-05-signs": ["a", "c", "d"],
    "ex-05-toy": [[[2, 1], [2, 1]], [[4, 2], [4, 2]], [[3, 2], [1, 1]], [2, 1]],
    "ex-05-half": [
        lambda a: 0.5,
        lambda a: (0.5 + (a / a.norm()).asin() / torch.pi).mean(),  # over all neurons, also those that are off
        lambda a: (0.5 + (a / a.sum()).asin() / torch.pi)[a > 0].mean(),
        lambda a: ((a / a.norm()).asin() / torch.pi)[a > 0].mean(),
    ],
    "ex-05-between": [
        lambda model, x, c: carried(model, x, c, up=1.0),  # from below alone
        lambda model, x, c: klrp.explain(model, x, c, semiring="counting", theta=positive())["4"][0],
        lambda model, x, c: carried(model, x, 0),
        lambda model, x, c: carried(model, x, c)[None],
        7,
    ],
    "ex-05-draw": [
        lambda d, R, theta: chances(d, (R > 0).float(), theta),  # every neuron above alike
        lambda d, R, theta: chances((d > theta) * d, R, theta),
        lambda d, R, theta: (d >= theta) * R,
        lambda d, R, theta: chances(d, R, 1e-9),
        lambda d, R, theta: chances(d, R, theta) / chances(d, R, theta).sum(0),
    ],
    "ex-05-class": [
        lambda model, x, theta: most_and_fewest(model, x, theta)[::-1],
        lambda model, x, theta: most_and_fewest(model, x, theta, among=lambda logits: logits == logits),
        lambda model, x, theta: most_and_fewest(model, x, 1e-9),
        0.5,
    ],
    "ex-05-modulo": [
        lambda m: modulo(m, add=False),
        lambda m: modulo(m, mul=False),
        lambda m: modulo(7),
        lambda m: klrp.COUNTING,
        lambda m: modulo(m, dtype=torch.float32),
    ],
}
