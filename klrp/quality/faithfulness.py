"""Does the prediction follow the map? Pixels are taken away from either end of a map, with several fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from klrp.errors import KlrpError
from klrp.experiments import Printed, alike, behind
from klrp.masks import top
from klrp.models import eval_copy
from klrp.perturbation import Noise, flip, replace
from klrp.quality.methods import Method, all_maps, chance, two_best
from klrp.relevance import Relevance
from klrp.tables import Table


@dataclass(frozen=True, eq=False, repr=False)
class Gains(Printed):
    """Symmetric relevance gains: ``values[fill][map]`` [n]. It prints as a table, maps by their mean over the fills."""

    values: Mapping[str, Mapping[str, Tensor]]

    def __add__(self, other: Gains) -> Gains:
        """The gains of two parts of a data set together: the images of the second behind those of the first."""
        alike(self, other)
        return Gains(behind(self.values, other.values))

    def mean(self, name: str) -> Tensor:
        """The gain [n] of one map, a mean over the fills."""
        return torch.stack([gains[name] for gains in self.values.values()]).mean(0)

    def agreement(self) -> dict[tuple[str, str], float]:
        """Kendall's τ between the rankings of the maps by their mean gain, for each two fills."""
        fills = list(self.values)
        means = {f: torch.stack([v.mean() for v in self.values[f].values()]) for f in fills}
        return {(f, g): kendall(means[f], means[g]) for i, f in enumerate(fills) for g in fills[i + 1 :]}

    @property
    def table(self) -> Table:
        """The mean gain of each map under each fill, their mean, and its standard error over the images."""
        names = next(iter(self.values.values()))
        rows = []
        for name in names:
            mean = self.mean(name)
            error = float(mean.std()) / len(mean) ** 0.5 if len(mean) > 1 else float("nan")
            rows.append((name, *(float(g[name].mean()) for g in self.values.values()), float(mean.mean()), error))
        rows.sort(key=lambda row: -row[-2])
        return Table(("map", *self.values, "mean", "±"), tuple(rows))


def kendall(a: Tensor, b: Tensor) -> float:
    """Kendall's τ_b of two lists of numbers: pairs in the same order less those in the opposite one; ties are neither."""
    signs = [(x[:, None] - x[None]).sign().triu(1) for x in (a.double(), b.double())]
    pairs = [float(s.abs().sum()) for s in signs]
    return float((signs[0] * signs[1]).sum()) / (pairs[0] * pairs[1]) ** 0.5 if all(pairs) else float("nan")


def relevance_gain(
    model: nn.Module,
    images: Tensor,
    maps: Mapping[str, Tensor | Relevance],
    *,
    fills: Sequence[Noise] = ("mean", "blur"),
    region: int = 1,
    steps: int = 8,
    score: str = "probability",
    batch: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> Gains:
    r"""The symmetric relevance gain of each map, for the class that the network predicts.

    .. math:: \text{SRG} = \int_0^1 \big(f_{least} - f_{most}\big)

    f is the ``score`` of the predicted class while pixels are taken away, the least or the most relevant first: the area
    between the curves of `klrp.perturbation.flip`, whose arguments it has (Blücher et al. 2024). Being the difference of
    the two, it depends less on the fill than either; so several ``fills`` are asked, and how far they agree.

    Raises:
        KlrpError: as `klrp.perturbation.flip`.

    Example:
        >>> y = model(x).argmax(1)
        >>> relevance_gain(model, x, {"z⁺": lrp(rule=klrp.rules.zplus())(model, x, y), "ink": x})
    """
    network = eval_copy(model)
    predicted = two_best(network, images, batch)[:, 0]
    settings = dict(region=region, steps=steps, score=score, batch=batch, seed=seed, progress=progress)
    values = {}
    for fill in fills:
        curves = flip(network, images, predicted, maps, noise=fill, **settings)  # type: ignore[arg-type]
        values[_named(fill)] = {name: curves.between(name).double() for name in maps}
    return Gains(values)


def survival(
    model: nn.Module, images: Tensor, *, fills: Sequence[Noise] = ("mean", "blur"), seed: int = 0, **settings: Any
) -> dict[str, Tensor]:
    """How much of the predicted class's probability survives a random order of pixels, [n] for each fill: its reliability.

    The mean over the curve, divided by the probability at its beginning. A fill that leaves pictures within the model's
    scope lets the prediction live longer: the reference-out-of-model-scope score of Blücher et al. (2024), up to that
    division. ``settings`` are those of `relevance_gain`.
    """
    network = eval_copy(model)
    predicted = two_best(network, images, settings.get("batch", 100))[:, 0]
    order = {"random": chance(seed)(network, images, predicted)}
    found = {}
    for fill in fills:
        curves = flip(network, images, predicted, order, noise=fill, score="probability", seed=seed, **settings)
        both = torch.stack([curves.most["random"], curves.least["random"]]).double().mean(0)
        found[_named(fill)] = curves.area(both) / both[:, 0].clamp(min=1e-12)
    return found


def _named(fill: Noise) -> str:
    return fill if isinstance(fill, str) else getattr(fill, "__name__", "function")


def wrong_class(
    model: nn.Module,
    method: Method,
    images: Tensor,
    *,
    part: float = 0.2,
    fill: Noise = "zero",
    batch: int = 100,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Whether the network still says its class with only the strongest ``part`` of that class's map left, and whether it
    says the *second* class with only that part of the second class's map: two torch.bool [n].

    A map that is good evidence keeps the first high. A map that picks pixels which suit whatever it is asked, rather
    than what the network saw, has the second high too.
    """
    if not 0 < part < 1:
        raise KlrpError.value(f"part: got {part}; expected a fraction between 0 and 1.")
    network = eval_copy(model)
    best = two_best(network, images, batch)
    said = []
    for number in range(2):
        maps = all_maps(method, network, images, best[:, number], batch)
        strongest = torch.stack([top(r, part, seed=seed) for r in maps]).to(images.device)
        kept = torch.where(strongest[:, None], images, replace(images, fill, seed=seed))
        said.append(two_best(network, kept, batch)[:, 0] == best[:, number])
    return said[0], said[1]
