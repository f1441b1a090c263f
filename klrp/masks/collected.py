"""Maps of a data set, joined batch by batch: numbers of samples, sums, extremes and quantiles of each neuron."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from klrp import plot
from klrp.errors import KlrpError
from klrp.experiments import Printed, alike
from klrp.explain import explain_many
from klrp.semirings import REAL, Semiring, find_semiring
from klrp.tables import Table

HOW = ("and", "or", "fraction", "mean", "min", "max")
# A batch: scores [n, *shape], which of them are not zero, and the explained classes [n].
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class Masks(Printed):
    """How relevant the neurons of one step were over a data set, for each explained class.

    ``samples`` [c] are the numbers of maps; ``relevant``, ``total``, ``low`` and ``high`` [c, *shape] say
    how many of them were not the semiring's zero, and the sum and extremes of their scores. ``counts``
    [c, levels + 2, *shape], if there are quantiles, holds for each class a histogram; its first and
    last cells are for −∞ and ∞. It prints as a table.
    """

    step: str
    semiring: Semiring
    samples: Tensor
    relevant: Tensor
    total: Tensor
    low: Tensor
    high: Tensor
    ends: Tensor  # [2, *shape], the extreme finite scores of all classes
    counts: Tensor | None = None

    def __add__(self, other: Masks) -> Masks:
        """The masks of two parts of a data set together. Histograms need the same ends, so parts have no levels."""
        alike(self, other, "step")
        if self.semiring.name != other.semiring.name or self.total.shape != other.total.shape:
            raise KlrpError.value(
                f"+: got maps {tuple(self.total.shape)} of {self.semiring.name} and {tuple(other.total.shape)} of "
                f"{other.semiring.name}; expected parts of one run."
            )
        if self.counts is not None or other.counts is not None:
            raise KlrpError.value(
                "+: quantiles are counted between ends that a part does not know; collect without levels."
            )
        low, high = torch.minimum(self.ends[0], other.ends[0]), torch.maximum(self.ends[1], other.ends[1])
        return replace(
            self,
            samples=self.samples + other.samples,
            relevant=self.relevant + other.relevant,
            total=self.total + other.total,
            low=torch.minimum(self.low, other.low),
            high=torch.maximum(self.high, other.high),
            ends=torch.stack([low, high]),
        )

    def map(self, how: str | float, of: int | None = None) -> Tensor:
        r"""One map [*shape] from those of class ``of``, or from all of them.

        Args:
            how: ``"and"`` or ``"or"``: whether every, or any, map was not zero (torch.bool);
                ``"fraction"``: in which part of the maps; ``"mean"``, ``"min"``, ``"max"`` of the
                scores (float64); or a number q in [0, 1], the q-quantile,
                :math:`\min \{v : |\{i : r_i ≤ v\}| ≥ q n\}`, rounded to the nearest of the levels.

        Raises:
            KlrpError: another word or number, a class without maps, a quantile without levels.

        Example:
            >>> found.map("and", 0), found.map("or"), found.map(0.9, 3)
        """
        if of is not None and not 0 <= of < len(self.samples):
            raise KlrpError.value(f"of: got {of!r}; expected a class in 0..{len(self.samples) - 1}.")
        chosen = slice(None) if of is None else slice(of, of + 1)
        n = int(self.samples[chosen].sum())
        if n == 0:
            raise KlrpError.value(f"of: class {of} has no maps; explain some samples for it.")
        if isinstance(how, int | float) and not isinstance(how, bool):
            return self._quantile(float(how), chosen, n)
        relevant = self.relevant[chosen].sum(0)
        match how:
            case "and":
                return relevant == n
            case "or":
                return relevant > 0
            case "fraction":
                return relevant.double() / n
            case "mean":
                return self.total[chosen].sum(0) / n
            case "min":
                return self.low[chosen].amin(0)
            case "max":
                return self.high[chosen].amax(0)
        raise KlrpError.value(f"how: got {how!r}; expected one of {', '.join(HOW)}, or a quantile.")

    def _quantile(self, q: float, chosen: slice, n: int) -> Tensor:
        if not 0 <= q <= 1:
            raise KlrpError.value(f"how: got the quantile {q}; expected a number in [0, 1].")
        if self.counts is None:
            raise KlrpError.value(f"how: got the quantile {q}, but there are no levels. Collect with levels=256.")
        # The rounding to levels is monotone, so it may come before the quantile.
        reached = self.counts[chosen].sum(0).cumsum(0)
        rank = max(1, math.ceil(q * n - 1e-9))  # 0.07 * 100 is a little more than 7
        index = (reached < rank).sum(0).double()
        levels = self.counts.shape[1] - 2
        low, high = self.ends
        value = low + (index - 1) / (levels - 1) * (high - low)
        return value.masked_fill(index == 0, -math.inf).masked_fill(index > levels, math.inf)

    @property
    def table(self) -> Table:
        """For each class with maps, and for all: their number, the parts of neurons in *and* and *or*, the mean."""
        present = [c for c, n in enumerate(self.samples.tolist()) if n]
        rows = [(str(c), int(self.samples[c]), *self._sizes(c)) for c in present]
        rows.append(("all", int(self.samples.sum()), *self._sizes(None)))
        return Table(("class", "maps", "part in and", "part in or", "mean score"), tuple(rows))

    def _sizes(self, of: int | None) -> list[float]:
        return [float(self.map(how, of).double().mean()) for how in ("and", "or", "mean")]

    def plot(self, how: str | float = "fraction", classes: Sequence[int] | None = None) -> Any:
        """A figure with the map of each class (those with maps, or ``classes``) and that of all.

        Flat neurons are laid on a grid. The arguments and errors are those of ``map``.
        """
        if classes is None:
            classes = [c for c, n in enumerate(self.samples.tolist()) if n]
        maps = [self.map(how, of) for of in (*classes, None)]
        titles = [*(f"class {c}" for c in classes), "all"]
        return plot.panel([_on_grid(m) for m in maps], titles, columns=6, width=7.0)


def collect(
    model: nn.Module,
    batches: Iterable[Any],
    target: int | str | None = "labels",
    *,
    step: str = "input",
    edges: bool = False,
    levels: int = 0,
    progress: bool = True,
    **settings: Any,
) -> Masks:
    """The masks of a network over a data set, joined batch by batch.

    Args:
        model, settings: as in ``klrp.explain``: semiring, composite, rule, theta, start, memory.
        batches: (inputs, labels), or inputs, as for ``klrp.explain_many``. A list or a DataLoader.
        target: the explained class: ``"labels"``, an int, or None for the top logit. Maps are kept
            apart by it.
        step: whose neurons: ``"input"`` or the name of a step.
        edges: whether the weights of that step are meant, by ``relevance.edges(step)``, in place of its neurons: their
            mean is what a weight is worth, for torch.nn.utils.prune for instance.
        levels: 0, or how many values >= 2 between a neuron's smallest and largest finite score
            quantiles are rounded to: they are off by at most half the distance of two levels, and
            exact where the scores are truth values. They need a second pass over ``batches``, which
            must bring the same samples, and 4 (levels + 2) bytes for each neuron and class.
        progress: whether a bar on stderr counts the batches.

    Raises:
        KlrpError: no samples, levels below 2, batches that differ in the second pass, and whatever
            ``klrp.explain`` refuses.

    Example:
        >>> batches = list(zip(x.split(500), y.split(500)))
        >>> found = klrp.masks.collect(model, batches, semiring="boolean", theta=threshold(0.03))
        >>> found.map("or", 0)  # [1, 28, 28]
    """
    _check_levels(levels)
    if levels and isinstance(batches, Iterator):
        raise KlrpError.value(
            "batches: got an iterator, which ends after one pass, and quantiles need two. Give a list or a DataLoader."
        )
    settings["keep"] = [step]

    def stream() -> Iterator[tuple[Batch, int]]:
        from tqdm import tqdm

        n = len(batches) if hasattr(batches, "__len__") else None
        found = explain_many(model, batches, target, **settings)
        for R in tqdm(found, desc="masks", total=n, leave=False, disable=not progress):
            r = R.edges(step) if edges else R[step]
            if len(r) != len(R.logits):  # a sample has several rows
                r = r.reshape(len(R.logits), -1, *r.shape[1:])
            relevant = ~R.semiring.is_zero(r)
            yield (R.semiring.score(r), relevant, R.target), R.logits.shape[1]

    semiring = find_semiring(settings.get("semiring", REAL))
    found = None
    for batch, classes in stream():
        found = _joined(found or _empty(step, semiring, classes, batch[0]), batch)
    if found is None or not found.samples.sum():
        raise KlrpError.value("batches: there are no samples; give at least one.")
    return _with_levels(found, (batch for batch, _ in stream()), levels) if levels else found


def from_maps(maps: Tensor, classes: Tensor, *, semiring: Semiring | str = REAL, levels: int = 0) -> Masks:
    """The masks of maps [n, *shape, *semiring.shape] that are at hand, of classes [n] int64.

    ``levels`` and errors are those of ``collect``.

    Example:
        >>> klrp.masks.from_maps(images, labels).map("mean", 0)  # the mean ink of the zeros
    """
    _check_levels(levels)
    if len(maps) != len(classes) or not len(maps) or classes.dtype != torch.int64:
        raise KlrpError.value(
            f"maps, classes: got {len(maps)} maps and classes {tuple(classes.shape)} of {classes.dtype}; "
            f"expected as many classes as maps, at least one, of torch.int64."
        )
    semiring = find_semiring(semiring)
    batch = semiring.score(maps), ~semiring.is_zero(maps), classes
    found = _joined(_empty("maps", semiring, int(classes.max()) + 1, batch[0]), batch)
    return _with_levels(found, [batch], levels) if levels else found


def _check_levels(levels: int) -> None:
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 0 or levels == 1:
        raise KlrpError.value(f"levels: got {levels!r}; expected 0, or an integer >= 2.")


def _empty(step: str, semiring: Semiring, classes: int, scores: Tensor) -> Masks:
    shape = (classes, *scores.shape[1:])
    zero = torch.zeros(shape, dtype=torch.float64)
    low, ends = zero + math.inf, zero[:1] + math.inf
    samples = torch.zeros(classes, dtype=torch.int64)
    return Masks(step, semiring, samples, zero.long(), zero, low, -low, torch.cat([ends, -ends]))


def _joined(found: Masks, batch: Batch) -> Masks:
    """What was found, and one batch more."""
    scores, relevant, target = (t.detach().cpu() for t in batch)
    scores = scores.double()
    samples, counted, total = found.samples.clone(), found.relevant.clone(), found.total.clone()
    low, high = found.low.clone(), found.high.clone()
    for c in target.unique().tolist():
        mine = target == c
        samples[c] += mine.sum()
        counted[c] += relevant[mine].sum(0)
        total[c] += scores[mine].sum(0)
        low[c] = torch.minimum(low[c], scores[mine].amin(0))
        high[c] = torch.maximum(high[c], scores[mine].amax(0))
    finite, lowest, highest = scores.isfinite(), *found.ends
    if len(scores):
        lowest = torch.minimum(lowest, scores.masked_fill(~finite, math.inf).amin(0))
        highest = torch.maximum(highest, scores.masked_fill(~finite, -math.inf).amax(0))
    ends = torch.stack([lowest, highest])
    return replace(found, samples=samples, relevant=counted, total=total, low=low, high=high, ends=ends)


def _with_levels(found: Masks, batches: Iterable[Batch], levels: int) -> Masks:
    """The second pass: in each class, how many scores of a neuron are nearest to each level."""
    shape = (len(found.samples), levels + 2, *found.total.shape[1:])
    counts = torch.zeros(shape, dtype=torch.int32)
    samples = torch.zeros_like(found.samples)
    # A neuron whose scores are all infinite has no finite ends.
    low, high = (end.masked_fill(end.isinf(), 0.0) for end in found.ends)
    step = ((high - low) / (levels - 1)).masked_fill(low == high, 1.0)
    slack = 1e-5 * (high - low + low.abs().maximum(high.abs()))  # another order rounds otherwise
    for scores, _, target in batches:
        scores, target = scores.detach().cpu().double(), target.cpu()
        samples += target.bincount(minlength=len(samples))
        finite = scores.isfinite()
        if (finite & ((scores < low - slack) | (scores > high + slack))).any():
            raise _changed(found, samples)
        nearest = ((scores.clamp(low, high) - low) / step).round().long()
        cells = torch.where(finite, nearest + 1, (scores > 0) * (levels + 1))
        for c in target.unique().tolist():
            mine = cells[target == c]
            counts[c].scatter_add_(0, mine, torch.ones_like(mine, dtype=torch.int32))
    if not torch.equal(samples, found.samples):
        raise _changed(found, samples)
    return replace(found, counts=counts)


def _changed(found: Masks, samples: Tensor) -> KlrpError:
    return KlrpError.value(
        f"batches: the second pass, which quantiles need, brought other samples than the first (maps by "
        f"class: {found.samples.tolist()}, then {samples.tolist()}). Give a list, or a DataLoader that "
        f"draws nothing at random but the order."
    )


def _on_grid(map: Tensor) -> Tensor:
    """Flat neurons as the rectangle that is nearest to a square."""
    if map.ndim != 1:
        return map
    height = next(h for h in range(math.isqrt(len(map)), 0, -1) if len(map) % h == 0)
    return map.reshape(height, -1)
