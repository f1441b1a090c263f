"""Methods, functions from a network, images and classes to maps: LRP over any semiring, and what needs no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from klrp.errors import KlrpError
from klrp.explain import explain
from klrp.perturbation.flipping import amounts
from klrp.relevance import Relevance

Method = Callable[[nn.Module, Tensor, Tensor], Tensor]


def lrp(made: Callable[[nn.Module, Tensor], dict[str, Any]] | None = None, **settings: Any) -> Method:
    """The method that is klrp.explain with these settings, and one number for each pixel, as in `pixels`.

    Over the reals give ``start="logit"``: from ``"one"``, a class whose logit is negative has its map turned over.
    ``made`` is a function of (model, images) that gives further settings, such as a Θ for these images.

    Example:
        >>> methods = {
        ...     "z⁺": lrp(rule=klrp.rules.zplus(), start="logit"),
        ...     "counting": lrp(lambda model, x: dict(theta=klrp.thresholds.even(model, x)), semiring="counting"),
        ... }
    """

    def maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        more = made(model, images) if made else {}
        return pixels(explain(model, images, classes, keep="input", **settings, **more))

    return maps


def pixels(relevance: Relevance) -> Tensor:
    """One number for each pixel [n, h, w] float64: the ⊕ over the colours, and its score.

    Where scores are logarithms, it is the exponential relative to the image's largest. `klrp.perturbation.scores` adds
    the scores of the colours instead, as zennit and captum do.
    """
    semiring, values = relevance.semiring, relevance.input
    if values.ndim - len(semiring.shape) != 4:
        raise KlrpError.value(f"pixels: the input's map has shape {tuple(values.shape)}; expected images [n, c, h, w].")
    return amounts(semiring, semiring.sum(values, 1))


def raw(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The size of the pixels themselves, Σ_c |x|: the ink of a digit, or how far a normalised pixel is from grey."""
    return images.double().abs().sum(1)


def disc(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """How near a pixel is to the middle, from 1 down to 0 in the corners: objects of photographs often stand there."""
    rows, columns = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in images.shape[2:])
    near = 1 - (rows[:, None] ** 2 + columns**2).sqrt() / 2**0.5
    return near.to(images.device).expand(len(images), -1, -1)


def chance(seed: int = 0) -> Method:
    """Maps of uniform random numbers, others at each call."""
    generator = torch.Generator().manual_seed(seed)

    def maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        return torch.rand(len(images), *images.shape[2:], generator=generator, dtype=torch.float64).to(images.device)

    return maps


def mapped(method: Method, model: nn.Module, images: Tensor, classes: Tensor, batch: int) -> Iterator[Tensor]:
    """The maps of one batch after the other, checked and in double precision."""
    for start in range(0, len(images), batch):
        x, y = images[start : start + batch], classes[start : start + batch]
        maps = torch.as_tensor(method(model, x, y)).detach().double()
        expected = (len(x), *x.shape[2:])
        if tuple(maps.shape) != expected:
            raise KlrpError.value(
                f"method: it gave maps {tuple(maps.shape)}; expected {expected}, a number for a pixel."
            )
        if not maps.isfinite().all():
            raise KlrpError.value("method: it gave NaN or infinity; expected finite numbers.")
        yield maps


def all_maps(method: Method, model: nn.Module, images: Tensor, classes: Tensor, batch: int) -> Tensor:
    """The maps [n, h, w] of all images."""
    return torch.cat(list(mapped(method, model, images, classes, batch)))


@torch.no_grad()
def two_best(model: nn.Module, images: Tensor, batch: int) -> Tensor:
    """The predicted class of each image and the runner-up, [n, 2]."""
    logits = torch.cat([model(x) for x in images.split(batch)])
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise KlrpError.value(f"model: it gave {tuple(logits.shape)}; expected logits [n, classes] of two or more.")
    return logits.topk(2).indices
