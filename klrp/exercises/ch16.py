"""Checkers of chapter 16, gates, norms and attention. Transformers here are small and untrained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, called, function, same, shown, unanswered, value

UNDER = {  # the relevances of s and g, for ex-16-other
    "hold the signal": [0, 1],
    "real": [0.5, 0.5],
    "boolean": [1, 1],
    "counting": [1, 1],
    "viterbi": [1, 1],
}


def told_apart(answer: Any) -> str:
    """The checker of ex-16-other: a dictionary of pairs of numbers, or of truth values."""
    if not isinstance(answer, dict) or answer.keys() != UNDER.keys():
        raise NotYet(f"A dictionary with the keys {', '.join(UNDER)} is asked for; your answer is {shown(answer)}.")
    for name, right in UNDER.items():
        given = [float(v) for v in answer[name]] if isinstance(answer[name], list | tuple) else answer[name]
        if not same(given, right, 1e-6):
            where = name if name.startswith("hold") else f"half, {name}"
            more = " Which share does max share give to contributions of equal size?" if name == "viterbi" else ""
            raise NotYet(f"{where}: your answer is {shown(answer[name])}. It is another one.{more}")
    return ""


def centred(x: Tensor, R: Tensor, gamma: Tensor) -> list[float]:
    """Edge by edge: y_k = Σ_j w_jk x_j with w_jk = γ_k (δ_jk − 1/n) / σ, and R_j = Σ_k x_j w_jk R_k / y_k."""
    n, mean = len(x), float(x.mean())
    deviation = (sum((float(v) - mean) ** 2 for v in x) / n) ** 0.5
    w = [[float(gamma[k]) * ((j == k) - 1 / n) / deviation for k in range(n)] for j in range(n)]
    y = [sum(w[j][k] * float(x[j]) for j in range(n)) for k in range(n)]
    return [sum(float(x[j]) * w[j][k] * float(R[k]) / y[k] for k in range(n)) for j in range(n)]


def tokens_in() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    yield torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0.0, 0.0, 1.0]), torch.ones(3)
    draw = torch.Generator().manual_seed(0)
    for n in (2, 5, 7, 11):
        yield tuple(torch.randn(n, generator=draw, dtype=torch.float64) + at for at in (0.5, 0, 1))


def constant_for_the_gradient(answer: Any) -> str | None:
    """The checker of ex-16-frozen: a frozen forward pass has the logits of the network, and its gradient is LRP-0."""
    import klrp

    norms = (klrp.NORM, klrp.rules.centre(by=klrp.rules.lrp0()), None)
    composite = klrp.Composite([norms, (klrp.ANY, klrp.rules.lrp0(), None)])
    for seed, (dim, heads, blocks) in enumerate(((8, 2, 1), (12, 3, 2))):
        vit, x = small_vit(dim, heads, blocks, seed), small_digits(seed)
        leaf, where = x.clone().requires_grad_(), f"On an untrained transformer with vit({dim}, {heads}, {blocks})"
        logits = called(answer, lambda vit, x: None, (vit, leaf))
        if seed == 0 and unanswered(logits):
            return None
        if not isinstance(logits, Tensor) or not same(logits, vit(x), 1e-8):
            raise NotYet(f"{where}: expected the network's own logits {shown(vit(x)[0])}, got {shown(logits)}.")
        R = klrp.explain(vit, x, 3, composite=composite, start="logit").input
        if not logits.requires_grad:
            raise NotYet(f"{where}: the logits do not depend on x. Detach the factors, not the whole product.")
        got = torch.autograd.grad(logits[:, 3].sum(), leaf)[0] * x
        if not same(got, R, 1e-7):
            far = float((got - R).abs().max() / R.abs().max())
            raise NotYet(f"{where}: gradient times input differs from LRP-0 by {far:.2g} times its largest relevance.")
    return "in 2 transformers"


def small_vit(dim: int, heads: int, blocks: int, seed: int) -> nn.Module:
    """A transformer with random weights, norms and class token, in double precision."""
    from klrp.models import vit

    network, draw = vit(dim, heads, blocks, seed=seed).double().eval(), torch.Generator().manual_seed(seed)
    for weights in network.parameters():
        weights.data += 0.3 * torch.randn(weights.shape, generator=draw, dtype=torch.float64)
    return network.requires_grad_(False)


def small_digits(seed: int) -> Tensor:
    return torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def best_ways(A: Tensor) -> list[list[float]]:
    """From attention [blocks, T, T] to [T, T]: over all paths of tokens the largest product of the entries of (A + I) / 2."""
    blocks, T = len(A), A.shape[1]
    edge = [[[(float(A[b, i, j]) + (i == j)) / 2 for j in range(T)] for i in range(T)] for b in range(blocks)]
    best = [[0.0] * T for _ in range(T)]
    for path in itertools.product(range(T), repeat=blocks + 1):  # from below to above
        weight = 1.0
        for b in range(blocks):
            weight *= edge[b][path[b + 1]][path[b]]
        best[path[-1]][path[0]] = max(best[path[-1]][path[0]], weight)
    return best


def attentions() -> Iterator[tuple[Tensor]]:
    yield (torch.tensor([[[0.6, 0.4], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]]),)
    draw = torch.Generator().manual_seed(0)
    for blocks, T in ((1, 3), (2, 5), (2, 7), (3, 5)):
        yield ((2 * torch.randn(blocks, T, T, generator=draw)).softmax(-1),)


def ways_of(heads: int, tokens: int) -> int:
    """Every way from patch 1 to the class token 0: in each of two blocks one of the heads, or the skip."""
    n = 0
    for middle in range(tokens):
        n += (heads + (middle == 1)) * (heads + (middle == 0))
    return n


CHECKS: dict[str, Check] = {
    "ex-16-ratio": value(
        {"leaky", "hardtanh", "silu", "elu"},
        hints=[
            ({"leaky", "hardtanh", "elu"}, "For SiLU, x · σ(x), the ratio is σ(x)."),
            ({"leaky", "hardtanh", "silu"}, "ELU is x above 0, and exp(x) − 1 below. What is it near 0?"),
            ({"leaky", "hardtanh", "silu", "elu", "softplus"}, "Softplus of 0 is log 2."),
            ({"leaky", "silu", "elu"}, "Hardtanh is x between −1 and 1, and further out it is smaller than x in size."),
        ],
    ),
    "ex-16-other": told_apart,
    "ex-16-centre": function(centred, tokens_in, within=1e-5),
    "ex-16-frozen": constant_for_the_gradient,
    "ex-16-max": function(best_ways, attentions, within=1e-5),
    "ex-16-ways": function(ways_of, [(1, 2), (1, 3), (4, 17), (2, 5), (3, 7), (12, 197)]),
}
