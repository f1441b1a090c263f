"""Flipping curves: pixels are perturbed in the order of a map, and the network is asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from klrp import plot
from klrp.errors import KlrpError
from klrp.experiments import Printed, alike, behind, bootstrap, mean_curves
from klrp.perturbation.noise import Noise, batches, checked
from klrp.relevance import Relevance
from klrp.semirings import Semiring
from klrp.tables import Table

SCORES = ("accuracy", "probability", "logit")


@dataclass(frozen=True, eq=False, repr=False)
class Curves(Printed):
    """The score of each image while its pixels are perturbed, step by step.

    ``fractions`` [s + 1] of the pixels are perturbed, the ``most`` relevant first or the ``least``; both hold
    for each map the scores [n, s + 1]. With accuracy, the score of an image is 1 or 0.
    """

    fractions: Tensor
    most: Mapping[str, Tensor]
    least: Mapping[str, Tensor]
    score: str

    def __add__(self, other: Curves) -> Curves:
        """The curves of two parts of a data set together: the images of the second behind those of the first."""
        alike(self, other, "fractions", "score")
        return replace(self, most=behind(self.most, other.most), least=behind(self.least, other.least))

    def area(self, values: Tensor) -> Tensor:
        """The area [...] under curves [..., s + 1], divided by its width: a mean score."""
        width = self.fractions[-1] - self.fractions[0]
        return torch.trapezoid(values, self.fractions.to(values), dim=-1) / width

    def between(self, name: str) -> Tensor:
        """The area [n] between the two curves of each image: positive where the map knows what matters."""
        return self.area(self.least[name] - self.most[name])

    @property
    def insertion(self) -> dict[str, Tensor]:
        """Scores [n, s + 1] while pixels are inserted into noise, the most relevant first.

        That is ``least`` read backwards, over ``1 - fractions.flip(0)`` of inserted pixels, since the least
        relevant are those not yet inserted.
        """
        return {name: values.flip(1) for name, values in self.least.items()}

    def table(self) -> Table:
        """Mean areas and the standard error of the one between, the largest on top."""
        rows = []
        for name in self.most:
            areas = self.between(name)
            error = float(areas.std()) / len(areas) ** 0.5 if len(areas) > 1 else float("nan")
            under = (float(self.area(v[name]).mean()) for v in (self.most, self.least))
            rows.append((name, *under, float(areas.mean()), error))
        rows.sort(key=lambda row: -row[3])
        return Table(("map", "most first", "least first", "between", "±"), tuple(rows))

    def plot(self) -> plot.Figure:
        """Mean curves, most relevant first beside least relevant first, with 95 % bootstrap bands."""

        def draw(side: Mapping[str, Tensor], ax: plot.Axes) -> plot.Axes:
            labels = dict(xlabel="fraction of pixels perturbed", ylabel=self.score)
            return mean_curves(self.fractions, side, bootstrap, ax, **labels)

        sides = [partial(draw, self.most), partial(draw, self.least)]
        return plot.panel(sides, ["most relevant first", "least relevant first"], width=7)


@torch.no_grad()
def flip(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    maps: Mapping[str, Tensor | Relevance],
    *,
    noise: Noise = "zero",
    region: int = 1,
    steps: int | Sequence[int] = 28,
    score: str = "accuracy",
    batch: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> Curves:
    r"""Perturb pixels in the order of each map, from either end, and record the score of the label.

    .. math:: f_k(x) = f\big(x ∘ [r ≥ k] + \tilde{x} ∘ [r < k]\big), \qquad
        \text{between} = \int_0^1 (f_{least} - f_{most})

    where r is the rank of a pixel by relevance and x̃ is noise (Bach et al. 2015; Samek et al. 2017 for
    regions). The least-first order is the reverse of the most-first one. Pixels of equal relevance are put
    in a random order, seeded and the same for all maps: a constant map gives a random order.

    Args:
        images, labels: [n, c, h, w] floats and [n] int64.
        maps: of relevance, [n, h, w], [n, c, h, w] (summed over c), [h, w] for all images, or a Relevance.
        noise: what takes the place of pixels; see the module.
        region: the side of the squares that are perturbed at once, by the mean of their relevance: a square that the
            border cuts off is as good as another.
        steps: a number of equal steps (at most one for each pixel), or how many pixels (regions) are perturbed at each point.
        score: ``"accuracy"``, the ``"probability"`` of the label, or its ``"logit"``.
        batch: how many images are perturbed at a time; the result does not depend on it.
        seed: of ties and of uniform noise.

    Raises:
        KlrpError: for whatever of these does not fit; the message says what to do.

    Example:
        >>> maps = {"LRP-ε": klrp.explain(model, x, y), "ink": x}
        >>> flip(model, x, y, maps, noise="invert").plot()
    """
    network = checked("flip", model, images, labels, batch)
    _check(score, maps, region)
    grids = {name: _regions(name, map, images, region) for name, map in maps.items()}
    units = -(-images.shape[2] // region) * -(-images.shape[3] // region)
    counts = _counts(steps, units)
    shape = (len(images), len(counts))
    most, least = ({name: images.new_zeros(shape) for name in maps} for _ in range(2))
    ties = {name: torch.Generator().manual_seed(seed) for name in maps}
    total = 2 * len(maps) * -(-len(images) // batch)
    with tqdm(total=total, desc="flip", leave=False, disable=not progress) as bar:
        for rows, x, y, noisy in batches(images, labels, noise, batch, seed):
            # With nothing or everything perturbed, all maps agree.
            ends = {0: _scored(network(x), y, score), units: _scored(network(noisy), y, score)}
            for name in maps:
                ranks = _ranks(grids[name][rows], ties[name])
                for values, order in ((most, ranks), (least, units - 1 - ranks)):
                    values[name][rows] = _curve(network, x, y, noisy, _spread(order, region, x), score, counts, ends)
                    bar.update()
    fractions = torch.tensor(counts, dtype=torch.float64) / units
    return Curves(fractions, most, least, score)


def scores(relevance: Relevance) -> Tensor:
    """The relevance of each pixel as a number, [n, h, w] float64: the score, summed over the channels.

    Where scores are logarithms, the exponentials relative to the image's largest are summed.

    Example:
        >>> scores(klrp.explain(model, x, y, semiring="tropical"))
    """
    semiring, values = relevance.semiring, relevance.input
    if values.ndim - len(semiring.shape) != 4:
        raise KlrpError.value(
            f"maps: got a Relevance whose input has shape {tuple(values.shape)}; expected images [n, c, h, w]."
        )
    return amounts(semiring, values).sum(1)


def amounts(semiring: Semiring, elements: Tensor) -> Tensor:
    """Numbers float64 that can be added, for the elements of a map [n, ..., *semiring.shape]: their scores, or the
    exponentials of scores that are logarithms, relative to the image's largest."""
    values = semiring.score(elements).double()
    if not semiring.logarithmic:
        return values
    largest = values.flatten(1).amax(1).nan_to_num(neginf=0.0)
    return (values - largest.reshape(-1, *(1,) * (values.ndim - 1))).exp()


def _check(score: str, maps: Mapping[str, Tensor | Relevance], region: int) -> None:
    if score not in SCORES:
        raise KlrpError.value(f"flip: score is {score!r}; expected one of {', '.join(SCORES)}.")
    if not maps or not isinstance(region, int) or region < 1:
        raise KlrpError.value(
            f"flip: got {len(maps)} maps and region={region!r}; expected one map or more and an integer >= 1."
        )


def _curve(
    network: nn.Module, x: Tensor, y: Tensor, noisy: Tensor, order: Tensor, score: str, counts: list[int], ends: dict
) -> Tensor:
    """The scores [n, s + 1] with so many pixels perturbed, the first ones of the order; ``ends`` are known."""

    def at(count: int) -> Tensor:
        return _scored(network(torch.where(order < count, noisy, x)), y, score)

    return torch.stack([ends[k] if k in ends else at(k) for k in counts], 1)


def _regions(name: str, map: Tensor | Relevance, images: Tensor, region: int) -> Tensor:
    """The mean relevance [n, h', w'] of each square of ``region`` pixels."""
    values = scores(map) if isinstance(map, Relevance) else torch.as_tensor(map).detach().double()
    values = values.sum(1) if values.ndim == 4 else values
    values = values.expand(len(images), *values.shape) if values.ndim == 2 else values
    expected = (len(images), *images.shape[2:])
    if tuple(values.shape) != expected:
        raise KlrpError.value(
            f"maps: {name!r} has shape {tuple(values.shape)}; expected {expected}, [n, c, h, w] or [h, w]."
        )
    if values.isnan().any():
        raise KlrpError.value(f"maps: {name!r} has NaN; expected numbers that can be ordered.")
    if region == 1:
        return values
    return functional.avg_pool2d(values[:, None], region, stride=region, ceil_mode=True)[:, 0]


def _counts(steps: int | Sequence[int], units: int) -> list[int]:
    """How many of the units are perturbed at each point of a curve."""
    if isinstance(steps, int) and steps >= 1:
        steps = min(steps, units)
        return [round(i * units / steps) for i in range(steps + 1)]
    counts = [] if isinstance(steps, int) else list(steps)
    rising = all(a < b for a, b in zip(counts, counts[1:], strict=False))
    if len(counts) < 2 or not rising or counts[0] < 0 or counts[-1] > units:
        raise KlrpError.value(
            f"flip: steps is {steps!r}; expected an integer >= 1, or two or more rising counts from 0 to {units}, "
            "the number of pixels or regions."
        )
    return counts


def _ranks(values: Tensor, generator: torch.Generator) -> Tensor:
    """The place [n, h, w] of each unit when the largest come first; ties stand in random order."""
    flat = values.flatten(1)
    shuffled = torch.rand(flat.shape, generator=generator).argsort(1).to(flat.device)
    sorted_ = flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    return shuffled.gather(1, sorted_).argsort(1).reshape(values.shape)


def _spread(ranks: Tensor, region: int, x: Tensor) -> Tensor:
    """Each pixel [n, 1, h, w] gets the rank of its region."""
    ranks = ranks.repeat_interleave(region, 1).repeat_interleave(region, 2).to(x.device)
    return ranks[:, None, : x.shape[2], : x.shape[3]]


def _scored(logits: Tensor, labels: Tensor, score: str) -> Tensor:
    if score == "accuracy":
        return (logits.argmax(1) == labels).to(logits)
    logits = logits.softmax(1) if score == "probability" else logits
    return logits.gather(1, labels[:, None])[:, 0]
