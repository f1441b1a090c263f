"""Chapter 2: right and wrong answers, which its checkers must tell apart."""

import torch

import klrp
from klrp import rules


def plus(v):
    return v.clamp_min(0)


def minus(v):
    return v.clamp_max(0)


def zplus(pairs=((plus, plus), (minus, minus)), bias=plus, **settings):
    return rules.Rule("own", (rules.Part(pairs, bias=bias),), **settings)


def composite(first, middle, last):
    rows = [(klrp.FIRST, first, None), ("3", middle, None), (klrp.ANY, last, None)]
    return lambda: klrp.Composite(rows)


def contrast(model, x, signs=(1, -1), rule=None):
    top = model(x).topk(2).indices
    start = torch.zeros_like(model(x)).scatter_(1, top, torch.tensor([signs] * len(x)).to(x))
    return klrp.explain(model, x, rule=rule or rules.zplus(), start=start).input


def of_first_sample(model, x):
    start = torch.zeros_like(model(x))
    first, second = model(x)[0].topk(2).indices
    start[:, first], start[:, second] = 1, -1
    return klrp.explain(model, x, rule=rules.zplus(), start=start).input


def nearest_root(a, w, b):
    return a - (a @ w + b) / (w @ w) * w


def part_of_the_way(a, w, b, low, high):
    v = torch.where(w > 0, a - low, a - high)
    return (a @ w + b) / (w @ v)


def limit_map(layers, x, c, square=True):
    activations = [x]
    for w, b in layers[:-1]:
        activations.append((activations[-1] @ w + b).relu())
    R = torch.eye(len(layers[-1][1]), dtype=x.dtype)[c]
    for i, ((w, _), a) in enumerate(zip(reversed(layers), reversed(activations), strict=True), 1):
        R = (a if square or i == len(layers) else (a > 0).to(a)) * (w @ R)
    return R


box = rules.zbox(-1.0, 1.0)
RIGHT = {
    "ex-02-byhand": [0.593, 0.756],
    "ex-02-predict": "b",
    "ex-02-choose": composite(box, rules.gamma(0.1), rules.lrp0()),
    "ex-02-contrast": contrast,
    "ex-02-own": zplus(std=0.25),
    "ex-02-wsquare": nearest_root,
    "ex-02-zbox": part_of_the_way,
    "ex-02-limit": limit_map,
}

WRONG = {
    "ex-02-byhand": [[1.0, 1.0], [0.593, 0.593], [0.593, 0.351], 0.756],
    "ex-02-predict": ["a", "c", "d", True],
    "ex-02-choose": [
        composite(rules.zbox(0.0, 1.0), rules.gamma(0.1), rules.lrp0()),  # another box
        composite(rules.zbox(-2.0, 2.0), rules.gamma(0.1), rules.lrp0()),
        composite(rules.wsquare(), rules.gamma(0.1), rules.lrp0()),
        composite(rules.zplus(), rules.gamma(0.1), rules.lrp0()),
        composite(box, rules.gamma(0.1), rules.epsilon(1e-9, std=0.1)),  # the stabiliser keeps some
        composite(box, rules.zplus(), rules.zplus()),  # positive shares mix
        composite(box, rules.zplus(), rules.lrp0()),
        lambda: rules.gamma(0.1),
    ],
    "ex-02-contrast": [
        lambda model, x: contrast(model, x, (-1, 1)),
        lambda model, x: contrast(model, x, (1, 1)),
        lambda model, x: contrast(model, x, (1, 0)),
        lambda model, x: contrast(model, x, rule=rules.lrp0()),
        of_first_sample,
    ],
    "ex-02-own": [
        rules.zplus(),
        rules.epsilon(1e-9, std=0.25),
        zplus(eps=0.25),
        zplus(((plus, plus),), std=0.25),
        zplus(bias=lambda b: b, std=0.25),
        lambda: zplus(std=0.25),
    ],
    "ex-02-wsquare": [
        lambda a, w, b: a - (a @ w) / (w @ w) * w,  # without the bias
        lambda a, w, b: a - (a @ w + b) / w.norm() * w,
        lambda a, w, b: a - (a @ w + b) * w,
        lambda a, w, b: (a @ w + b) / (w @ w) * w,  # the way, and not the point
    ],
    "ex-02-zbox": [
        lambda a, w, b, low, high: part_of_the_way(a, w, 0.0, low, high),
        lambda a, w, b, low, high: part_of_the_way(a, w, b, high, low),
        lambda a, w, b, low, high: (a @ w + b) / (w @ (a - low)),
        lambda a, w, b, low, high: 1 - part_of_the_way(a, w, b, low, high),
    ],
    "ex-02-limit": [
        lambda layers, x, c: limit_map(layers, x, c, square=False),  # LRP-0
        lambda layers, x, c: limit_map(layers, x, 1 - c),
        lambda layers, x, c: limit_map(layers, x, c) / limit_map(layers, x, c).sum(),
        lambda layers, x, c: limit_map(layers, x, c).abs(),
    ],
}
