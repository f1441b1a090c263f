"""Chapter 13: right and wrong answers, which its checkers must tell apart."""

import torch


def rolled(images, by):
    return torch.stack([image.roll(b, (1, 2)) for image, b in zip(images, by.tolist(), strict=True)])


def cut_off(images, by):
    """Shifted, with paper in place of what would come in at the other side."""
    full = rolled(torch.nn.functional.pad(images, (9, 9, 9, 9)), by)
    return full[..., 9:-9, 9:-9]


def ranking(images, weight, size=torch.abs, spread=torch.std, dim=0):
    return spread(images, 0) * size(weight).mean(0).reshape(images.shape[1:])


def both(says, truth, weigh=True):
    classes = torch.arange(len(says))[:, None]
    is_c, right = truth == classes, says == classes
    h = (right & is_c).sum(1) / is_c.sum(1)
    e = (right & ~is_c).sum(1) / (~is_c).sum(1)
    plain = (right == is_c).double().mean(1)
    return h.mean(), ((h + 1 - e) / 2 if weigh else plain).mean()


THREE = [[True, False, True], [True, False, False], [False, True, True], [True, False, True]]

RIGHT = {
    "ex-13-always": [1, 0.5],
    "ex-13-more": THREE,
    "ex-13-quantile": lambda R, q: R.double().mean(0) > 1 - q,
    "ex-13-baseline": ranking,
    "ex-13-second": both,
    "ex-13-shift": rolled,
}

WRONG = {
    "ex-13-always": [[0.1, 0.5], [1.0, 0.1], [1.0, 1.0], [1.0, 0.55], 1.0],
    "ex-13-more": [
        [[True] * 3] * 4,
        [row[::-1] for row in THREE],
        THREE[:3],
        [[*row[:2], i == 0] for i, row in enumerate(THREE)],  # the fraction of neuron 2 falls
        3,
    ],
    "ex-13-quantile": [
        lambda R, q: R.double().mean(0) >= 1 - q,
        lambda R, q: R.double().mean(0) >= q,
        lambda R, q: R.double().mean(0) > q,
        lambda R, q: R.any(0),
    ],
    "ex-13-baseline": [
        lambda images, weight: ranking(images, weight, size=lambda w: w),
        lambda images, weight: ranking(images, weight, spread=torch.mean),
        lambda images, weight: ranking(images, weight, spread=torch.var),
        lambda images, weight: images.std(0),
    ],
    "ex-13-second": [
        lambda says, truth: both(says, truth, weigh=False),  # the plain accuracy of c against the rest
        lambda says, truth: both(says, truth)[0],
        lambda says, truth: both(says, truth)[::-1],
        lambda says, truth: [(says == truth).double().mean()] * 2,
    ],
    "ex-13-shift": [
        cut_off,
        lambda images, by: rolled(images, -by),
        lambda images, by: rolled(images, by.flip(1)),
        lambda images, by: images.roll(by[0].tolist(), (2, 3)),
    ],
}
