"""Checkers of chapter 14, pruning: small perceptrons in double precision, of which one hidden layer is scored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from klrp.exercises.checking import Check, NotYet, function, shown, unanswered, value


def places(values: list[float]) -> list[int]:
    """The place of each value when they are sorted, from 0; there are no equal ones."""
    return [sorted(values).index(v) for v in values]


def agreement(R: Tensor, m: int) -> float:
    """Spearman's correlation of the mean sizes over the first m images with those over all."""
    few, every = ([sum(abs(r) for r in c) / len(c) for c in rows.T.tolist()] for rows in (R[:m], R))
    J = len(few)
    off = sum((a - b) ** 2 for a, b in zip(places(few), places(every), strict=True))
    return 1 - 6 * off / (J * (J**2 - 1))


def relevances() -> Iterator[tuple[Tensor, int]]:
    yield torch.tensor([[1.0, -3.0, 2.0], [1.0, 0.5, 4.0]]), 1
    draw = torch.Generator().manual_seed(0)
    for m in (2, 3, 5, 7, 11):
        yield torch.randn(11, 7, generator=draw), m


def apart(R: Tensor, f: float) -> tuple[set[int], set[int]]:
    """The neurons that go by their sign alone, and those that go by their size alone."""
    gone = []
    for of in (lambda r: r, abs):
        means = [sum(of(r) for r in c) / len(c) for c in R.T.tolist()]
        gone.append({j for j, place in enumerate(places(means)) if place < round(f * len(means))})
    return gone[0] - gone[1], gone[1] - gone[0]


def relevances_and_parts() -> Iterator[tuple[Tensor, float]]:
    yield torch.tensor([[5.0, 1.0, 2.0, -3.0], [-5.0, 1.5, 2.5, -3.5]]), 0.5
    draw = torch.Generator().manual_seed(0)
    for n in range(6):
        yield torch.randn(5, 11, generator=draw) + 0.3, (0.2, 0.5, 0.7)[n % 3]


def balanced(into: Tensor, bias: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Neuron by neuron: the factor that makes the norm of what enters that of what leaves."""
    into, bias, out = into.clone(), bias.clone(), out.clone()
    for j in range(len(into)):
        before, behind = (sum(w * w for w in v.tolist()) ** 0.5 for v in (into[j], out[:, j]))
        c = (behind / before) ** 0.5
        into[j], bias[j], out[:, j] = c * into[j], c * bias[j], out[:, j] / c
    return into, bias, out


def weights() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    yield torch.tensor([[3.0, 4.0]]).double(), torch.tensor([1.0]).double(), torch.tensor([[20.0], [0.0]]).double()
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        yield tuple(torch.randn(*n, generator=draw, dtype=torch.float64) for n in ((5, 7), (5,), (3, 5)))


class Small(nn.Sequential):
    """A network that prints as the call that makes it."""

    call = ""

    def __repr__(self) -> str:
        return self.call or super().__repr__()


def small(seed: int, *, silent: int, unread: int) -> Small:
    """Seven inputs, five neurons, two more layers; one neuron is never active, and one is read by nobody."""
    from klrp.models import mlp

    model = Small(*mlp((7, 5, 11, 3), seed=seed).double().requires_grad_(False))
    model[1].bias[silent], model[3].weight[:, unread] = -100.0, 0.0
    return model


def rescaled(model: nn.Sequential, seed: int) -> Small:
    """The same function with other weights, by the rescaling of the chapter."""
    c = torch.empty(5, dtype=torch.float64).uniform_(-2, 2, generator=torch.Generator().manual_seed(seed)).exp()
    twin = copy.deepcopy(model)
    twin[1].weight.mul_(c[:, None])
    twin[1].bias.mul_(c)
    twin[3].weight.div_(c)
    return twin


def no_fool(answer: Callable) -> str | None:
    """A score that stays under rescaling, and is lowest for a neuron that never fires and one that nobody reads."""
    if not callable(answer):
        raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
    for seed in range(6):
        silent, unread = seed % 5, (seed + 2) % 5
        model = small(seed, silent=silent, unread=unread)
        x = torch.rand(13, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        y, text = model(x).argmax(1), f"Network {seed}, 13 images:"
        first = answer(copy.deepcopy(model), x.clone(), y.clone())
        if unanswered(first):
            return None
        s, t = (scored(v, text) for v in (first, answer(rescaled(model, seed), x.clone(), y.clone())))
        if not torch.allclose(s, t, rtol=1e-4, atol=1e-9):
            raise NotYet(
                f"{text} the scores are {shown(s)}, and {shown(t)} after it is rescaled; they must not change."
            )
        for j, what in ((silent, "is active in no image"), (unread, "has no weights that leave it")):
            if s[j] > s.min() + 1e-9:
                raise NotYet(f"{text} the scores are {shown(s)}. Neuron {j} {what}, and yet another one is lower.")
        if float(s.max() - s.min()) < 1e-9:
            raise NotYet(f"{text} all scores are {shown(s.min())}; they rank nothing.")
    return "on 6 networks"


def scored(values: object, text: str) -> Tensor:
    """The five scores float64 [5]."""
    if not isinstance(values, Tensor) or values.shape != (5,) or not values.isfinite().all():
        raise NotYet(f"{text} five finite scores, a tensor [5], are asked for; yours are {shown(values)}.")
    return values.detach().double()


CHECKS: dict[str, Check] = {
    "ex-14-bias": value(
        [17.0, 18.0],
        within=1e-6,
        hints=[
            ([15.0, 18.0], "The first neuron keeps its bias: what does it send without its weights?"),
            ([17.0, 8.0], "The second neuron keeps the bias −2; but there is a ReLU behind it."),
            ([18.0, 17.0], "The first number is for the network without the first neuron."),
            ([33.0, 33.0], "That is the whole network."),
        ],
    ),
    "ex-14-fooled": value(
        {"l2", "activation"},
        hints=[
            ({"l2"}, "What becomes of the activation of a neuron whose incoming weights and bias are doubled?"),
            ({"activation"}, "What becomes of the norm of its incoming weights?"),
            ({"l2", "activation", "in × out"}, "In × out: one norm is multiplied by c, and the other one?"),
            ({"l2", "activation", "Taylor"}, "Taylor: a is multiplied by c, and the derivative with respect to a?"),
        ],
    ),
    "ex-14-images": function(agreement, relevances),
    "ex-14-signed": function(apart, relevances_and_parts),
    "ex-14-balance": function(balanced, weights),
    "ex-14-own": no_fool,
}
