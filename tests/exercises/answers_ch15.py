"""Chapter 15: right and wrong answers, which its checkers must tell apart."""

import torch


def between(f, x, noisy, R, weigh=True, falling=True):
    order = R.argsort(descending=falling)
    curves = []
    for pixels in (order, order.flip(0)):
        images = x.repeat(len(x) + 1, 1)
        for m in range(len(x) + 1):
            images[m, pixels[:m]] = noisy[pixels[:m]]
        curves.append(f(images))
    gap = curves[1] - curves[0]
    return torch.trapezoid(gap) / len(x) if weigh else gap.mean()


def order(R, seed):
    shuffled = torch.randperm(len(R), generator=torch.Generator().manual_seed(seed))
    return shuffled[R[shuffled].argsort(descending=True, stable=True)]


def scored(logits, labels, kind):
    if kind == "accuracy":
        return (logits.argmax(1) == labels).double()
    logits = logits.softmax(1) if kind == "probability" else logits
    return logits.gather(1, labels[:, None])[:, 0]


RIGHT = {
    "ex-15-nothing": [0.9, 0],
    "ex-15-sign": [-0.3, 0.3, 0.3],
    "ex-15-hand": [1.33, -0.667],
    "ex-15-flip": between,
    "ex-15-ties": order,
    "ex-15-never": lambda images: (images == 0).all(0)[0].double(),
    "ex-15-probability": scored,
}

WRONG = {
    "ex-15-nothing": [[0.9, 0.9], [0.45, 0], [1, 0], 0.9],
    "ex-15-sign": [[0.3, 0.3, 0.3], [-0.3, 0.6, 0.3], [-0.3, 1.6, 0.3], [-0.3, -0.3, -0.3]],
    "ex-15-hand": [[4, -2], [-2 / 3, 4 / 3], [4 / 3, 4 / 3], [4 / 3, 2 / 3], 4 / 3],
    "ex-15-flip": [
        lambda *a: between(*a, weigh=False),
        lambda *a: between(*a, falling=False),
        lambda f, x, noisy, R: between(f, x, 0 * x, R),  # zero, whatever the noise
        lambda f, x, noisy, R: between(f, x, noisy, R.abs()),
    ],
    "ex-15-ties": [
        lambda R, seed: R.argsort(descending=True, stable=True),
        lambda R, seed: torch.randperm(len(R), generator=torch.Generator().manual_seed(seed)),
        lambda R, seed: order(-R, seed),
        lambda R, seed: (R + 1e-3 * torch.rand(len(R))).argsort(descending=True),  # another one at each call
        lambda R, seed: order(R, seed % 2),
        lambda R, seed: R,
    ],
    "ex-15-never": [
        lambda images: (images > 0).all(0)[0].double(),
        lambda images: (images > 0).any(0)[0].double(),
        lambda images: (images == 0).any(0)[0].double(),
        lambda images: -images.mean(0)[0],
        lambda images: (images == 0).all(0),
    ],
    "ex-15-probability": [
        lambda logits, labels, kind: scored(logits, labels, "logit"),
        lambda logits, labels, kind: scored(logits, logits.argmax(1), kind),
        lambda logits, labels, kind: scored(logits, labels, kind).mean(),
    ],
}
