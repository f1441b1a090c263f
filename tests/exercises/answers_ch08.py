"""Chapter 8: right and wrong answers, which its checkers must tell apart."""

import torch
from torch.nn import functional

import klrp


def flipped(s, w, padding):
    turned = w.flip(0, 1)[None, None]
    return functional.conv2d(s[None, None], turned, padding=len(w) - 1 - padding)[0, 0]


def unflipped(s, w, padding):
    return functional.conv2d(s[None, None], w[None, None], padding=len(w) - 1 - padding)[0, 0]


def own_padding(s, w, padding):
    return functional.conv2d(s[None, None], w.flip(0, 1)[None, None], padding=padding or len(w) - 1)[0, 0]


def front(w, b, kappa, tau):
    return w * kappa[:, None, None], b + (w * tau[:, None, None]).sum((1, 2, 3))


def zplus(conv, a, R):
    w = conv.weight.clamp_min(0)
    b = None if conv.bias is None else conv.bias.clamp_min(0)
    a = a.requires_grad_()
    z = functional.conv2d(a, w, b, conv.stride, conv.padding)
    s = torch.where(z > 0, R / z, 0).detach()
    (c,) = torch.autograd.grad((z * s).sum(), a)
    return (a * c).detach()


def broken(conv, a, R):
    """The step of the exercise, with all of its mistakes."""
    conv.weight.data.clamp_(min=0)
    a = a.requires_grad_()
    z = conv(a)
    (c,) = torch.autograd.grad((z * (R / z)).sum(), a)
    return (a * c).detach()


def not_detached(conv, a, R):
    w, b = conv.weight.clamp_min(0), None if conv.bias is None else conv.bias.clamp_min(0)
    a = a.requires_grad_()
    z = functional.conv2d(a, w, b, conv.stride, conv.padding)
    (c,) = torch.autograd.grad((z * torch.where(z > 0, R / z, 0)).sum(), a)
    return (a * c).detach()


def signed_bias(conv, a, R):
    w = conv.weight.clamp_min(0)
    a = a.requires_grad_()
    z = functional.conv2d(a, w, conv.bias, conv.stride, conv.padding)
    s = torch.where(z != 0, R / z, 0).detach()
    (c,) = torch.autograd.grad((z * s).sum(), a)
    return (a * c).detach()


def silent_nan(conv, a, R):
    w, b = conv.weight.clamp_min(0), None if conv.bias is None else conv.bias.clamp_min(0)
    a = a.requires_grad_()
    z = functional.conv2d(a, w, b, conv.stride, conv.padding)
    (c,) = torch.autograd.grad((z * (R / z).detach()).sum(), a)
    return (a * c).detach()


def changing(conv, a, R):
    conv.weight.data.clamp_(min=0)
    if conv.bias is not None:
        conv.bias.data.clamp_(min=0)
    return zplus(conv, a, R)


def by_offsets(a, w, R, stride, padding):
    """One tap after another: the lower places of an offset, and the upper ones they feed."""
    upper = [stride * torch.arange(len(a)) + u - padding for u in range(len(w))]
    inside = [(k >= 0) & (k < len(R)) for k in upper]
    top = torch.zeros(len(R))
    for u, (k, there) in enumerate(zip(upper, inside, strict=True)):
        top[k[there]] = torch.maximum(top[k[there]], (a * w[u]).abs()[there])
    below = torch.zeros(len(a))
    for u, (k, there) in enumerate(zip(upper, inside, strict=True)):
        share = (a * w[u]).abs()[there] / torch.where(top > 0, top, 1)[k[there]]
        below[there] = torch.maximum(below[there], share * R[k[there]])
    return below


RIGHT = {
    "ex-08-edges": [121, 400],
    "ex-08-two": [3, 6, 9, 6, 3],
    "ex-08-linear": lambda W, size: W.reshape(len(W), *size),
    "ex-08-debug": zplus,
    "ex-08-before": front,
    "ex-08-flip": flipped,
    "ex-08-transposed": by_offsets,
}

WRONG = {
    "ex-08-edges": [[144, 576], [121, 484], [11, 20], [400, 121]],
    "ex-08-two": [[1, 2, 3, 2, 1], [9, 9, 9, 9, 9], [5, 5, 5, 5, 5], [1, 4, 9, 4, 1]],
    "ex-08-linear": [
        lambda W, size: W.reshape(len(W), size[1], size[2], size[0]).movedim(-1, 1),  # channels last
        lambda W, size: W.reshape(len(W), size[0], size[2], size[1]).mT,
        lambda W, size: W.reshape(len(W), *size).flip(2, 3),
        lambda W, size: W.T,
    ],
    "ex-08-debug": [broken, not_detached, signed_bias, silent_nan, changing, klrp.explain.__name__],
    "ex-08-before": [
        lambda w, b, kappa, tau: (w * kappa[:, None, None], b),
        lambda w, b, kappa, tau: (w * kappa[:, None, None], b + tau.sum()),
        lambda w, b, kappa, tau: (w * kappa[:, None, None], b + (w * (kappa * tau)[:, None, None]).sum((1, 2, 3))),
    ],
    "ex-08-flip": [unflipped, own_padding, lambda s, w, padding: flipped(s, w.T, padding)],
    "ex-08-transposed": [
        lambda a, w, R, stride, padding: by_offsets(a, w.flip(0), R, stride, padding),
        lambda a, w, R, stride, padding: by_offsets(a, w, torch.ones_like(R), stride, padding),
        lambda a, w, R, stride, padding: (a * w.sum() / R.sum()).abs(),
    ],
}
