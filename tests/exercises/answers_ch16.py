"""Chapter 16: right and wrong answers, which its checkers must tell apart."""

import torch
from torch import nn


def centre(x, R, gamma):
    w = (torch.eye(len(x)) - 1 / len(x)).to(x) * gamma / x.std(correction=0)
    return x * (w @ (R / (x @ w)))


def frozen(vit, x, ratio=True, attention=True, deviation=True):
    A, x = vit.attention(x) if attention else None, vit.tokens(x)
    for b, block in enumerate(vit.blocks):
        part, y = block.attention, frozen_norm(block.norm1, x, deviation)
        a = part.weights(y) if A is None else A[b]
        x = x + part.join((a @ part.by_head(part.value(y))).transpose(1, 2).flatten(2))
        u = block.mlp[0](frozen_norm(block.norm2, x, deviation))
        x = x + block.mlp[2](u * (block.mlp[1](u) / u).detach() if ratio else block.mlp[1](u))
    return vit.head(frozen_norm(vit.norm, x, deviation)[:, 0])


def frozen_norm(norm, x, deviation):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    return centred * (scale.detach() if deviation else scale) * norm.weight + norm.bias


def best_ways(A, skip=True):
    edges, T = (A + torch.eye(A.shape[1])) / 2 if skip else A, A.shape[1]
    best = torch.eye(T)
    for layer in edges:
        best = (layer[:, :, None] * best).amax(1)
    return best


def upside_down(A):
    return best_ways(A.flip(0))


def rolled_out(A):
    edges, rolled = (A + torch.eye(A.shape[1])) / 2, torch.eye(A.shape[1])
    for layer in edges:
        rolled = layer @ rolled
    return rolled


OTHER = {"hold the signal": [0, 1], "real": [0.5, 0.5], "boolean": [True, True], "counting": [1, 1], "viterbi": [1, 1]}

RIGHT = {
    "ex-16-ratio": {"leaky", "hardtanh", "silu", "elu"},
    "ex-16-other": OTHER,
    "ex-16-centre": centre,
    "ex-16-frozen": frozen,
    "ex-16-max": best_ways,
    "ex-16-ways": lambda heads, tokens: 2 * heads * (heads + 1) + (tokens - 2) * heads**2,
}

WRONG = {
    "ex-16-ratio": [
        {"leaky", "hardtanh", "elu"},
        {"leaky", "hardtanh", "silu", "elu", "softplus"},
        {"leaky", "hardtanh"},
        ["leaky", "hardtanh", "silu", "relu"],
    ],
    "ex-16-other": [
        OTHER | {"viterbi": [0.5, 0.5]},
        OTHER | {"counting": [2, 2]},
        OTHER | {"hold the signal": [1, 0]},
        {"real": [0.5, 0.5]},
    ],
    "ex-16-centre": [
        lambda x, R, gamma: R,  # identity
        lambda x, R, gamma: x * R / (x - x.mean()),  # the mean is held, too
        lambda x, R, gamma: centre(x - x.mean(), R, gamma),
    ],
    "ex-16-frozen": [
        lambda vit, x: vit(x),
        lambda vit, x: frozen(vit, x, ratio=False),
        lambda vit, x: frozen(vit, x, attention=False),
        lambda vit, x: frozen(vit, x, deviation=False),
        lambda vit, x: frozen(vit, x).detach(),
        lambda vit, x: nn.functional.softmax(frozen(vit, x), 1),
    ],
    "ex-16-max": [rolled_out, lambda A: best_ways(A, skip=False), upside_down],
    "ex-16-ways": [
        lambda heads, tokens: (heads + 1) ** 2 + (tokens - 2) * heads**2,  # two skips stay at the patch
        lambda heads, tokens: tokens * heads**2,
        lambda heads, tokens: 2 * heads * (heads + 1) + tokens * heads**2,
    ],
}
