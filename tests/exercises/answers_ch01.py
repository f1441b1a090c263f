"""Chapter 1: right and wrong answers, which its checkers must tell apart."""

import torch


def shares(a, w, b):
    m, z = a[:, None] * w, a @ w + b
    return torch.where(z == 0, 0, m / z)


def sum_below(z, b, R):
    return torch.where(z == 0, 0, R * (1 - b / z)).sum()


def walk(layers, x, c, z_of, divide):
    """Right or wrong by what stands in the denominators and by how they divide."""
    a = [x]
    for w, b in layers[:-1]:
        a.append((a[-1] @ w + b).relu())
    R = torch.eye(len(layers[-1][1]), dtype=x.dtype)[c]
    for (w, b), below in zip(reversed(layers), reversed(a), strict=True):
        R = below * (w @ divide(R, z_of(below, w, b)))
    return R


def safe(R, z):
    return torch.where(z == 0, 0, R / z)


def whole(a, w, b):
    return a @ w + b


def start_of(logits, answer, right):
    start = torch.zeros(1, len(logits), dtype=logits.dtype)
    start[0, answer], start[0, right] = logits[answer], -logits[right]
    return start


def by_gradient(net, x):
    pixels = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(pixels).amax(1).sum(), pixels)
    return x * gradient


def gradient(net, x):
    pixels = x.clone().requires_grad_()
    return torch.autograd.grad(net(pixels).amax(1).sum(), pixels)[0]


def of_class_0(net, x):
    pixels = x.clone().requires_grad_()
    return x * torch.autograd.grad(net(pixels)[:, 0].sum(), pixels)[0]


def of_first_sample(net, x):
    pixels = x.clone().requires_grad_()
    return x * torch.autograd.grad(net(pixels)[0].max(), pixels)[0]


RIGHT = {
    "ex-1-other": [1.03, -0.03],
    "ex-1-predict": "d",
    "ex-1-shares": shares,
    "ex-1-sum": sum_below,
    "ex-1-debug": lambda layers, x, c: walk(layers, x, c, whole, safe),
    "ex-1-mistake": start_of,
    "ex-1-own": by_gradient,
    "ex-1-negative": lambda w, b: (-w, b + w.sum(0)),
}

WRONG = {
    "ex-1-other": [[1.134, -0.134], [-1.44, 0.042], [-1.03, 0.03], [1.03], 1.0],
    "ex-1-predict": ["a", "b", "c", 3.2],
    "ex-1-shares": [
        lambda a, w, b: a[:, None] * w / (a @ w),  # without the bias
        lambda a, w, b: a[:, None] * w / (a @ w + b),  # NaN where z is 0
        lambda a, w, b: shares(a, w, b).T,
        lambda a, w, b: a[:, None] * w / (a[:, None] * w).sum(1, keepdim=True),  # the sum over the wrong axis
    ],
    "ex-1-sum": [
        lambda z, b, R: R.sum(),  # as if there were no bias
        lambda z, b, R: (R * (1 - b / z)).sum(),
        lambda z, b, R: safe(R * (z + b), z).sum(),
        lambda z, b, R: R.sum() - b.sum(),
    ],
    "ex-1-debug": [
        lambda layers, x, c: walk(layers, x, c, lambda a, w, b: a @ w, lambda R, z: R / (z + 1e-9)),  # as it was given
        lambda layers, x, c: walk(layers, x, c, lambda a, w, b: a @ w, safe),
        lambda layers, x, c: walk(layers, x, c, whole, lambda R, z: R / z),
        lambda layers, x, c: walk(layers, x, c, whole, lambda R, z: R / (z + 1e-9)),
        lambda layers, x, c: walk(layers, x, c, lambda a, w, b: whole(a, w, b).relu(), safe),
    ],
    "ex-1-mistake": [
        lambda logits, answer, right: -start_of(logits, answer, right),
        lambda logits, answer, right: start_of(logits.sign(), answer, right),
        lambda logits, answer, right: start_of(logits, answer, right)[0],
        lambda logits, answer, right: start_of(logits, answer, right).clamp_min(0),
    ],
    "ex-1-own": [gradient, of_class_0, of_first_sample, [0.5]],
    "ex-1-negative": [
        lambda w, b: (-w, b),
        lambda w, b: (w, b - w.sum(0)),
        lambda w, b: (-w, b - w.sum(0)),
        lambda w, b: (-w, b.sum() + w.sum()),
    ],
}
