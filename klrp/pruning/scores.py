"""Scores: how important each unit is, by relevance in any semiring, gradients, activations or weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from klrp import models, plot, rules
from klrp.errors import KlrpError
from klrp.experiments import Printed, alike
from klrp.explain import explain
from klrp.network.tracing import trace
from klrp.pruning.layers import units_of, weights_of
from klrp.semirings import REAL, find_semiring
from klrp.tables import Table


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Printed):
    """How important each unit is: ``scores["fc1"]`` is float64 [units], larger is more important.

    It prints as a table; a KlrpError names a layer that has no scores.
    """

    name: str
    values: Mapping[str, Tensor]
    samples: int = 0  # of which they are means; 0 where they come from weights alone

    def __add__(self, other: Scores) -> Scores:
        """The scores of two parts of a data set together, means over all samples."""
        alike(self, other, "name")
        n, m = self.samples, other.samples
        if not n or not m or self.values.keys() != other.values.keys():
            raise KlrpError.value(
                f"+: got means over {n} and {m} samples, of {', '.join(self.values)} and {', '.join(other.values)}; expected "
                f"parts of one run over a data set."
            )
        values = {layer: (n * v + m * other.values[layer]) / (n + m) for layer, v in self.values.items()}
        return Scores(self.name, values, n + m)

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self.values:
            known = ", ".join(self.values)
            raise KlrpError.key(f"layer: {layer!r} has no scores; expected one of {known}.")
        return self.values[layer]

    def ranks(self, layer: str) -> Tensor:
        """int64 [units]: 1 for the least important unit; of equal ones the first is the lower."""
        return self[layer].argsort(stable=True).argsort() + 1

    def lowest(self, amount: float) -> dict[str, Tensor]:
        """The indices of the least important units, a fraction ``amount`` in [0, 1) of each layer.

        Their number is rounded as torch.nn.utils.prune does; one unit always stays. A KlrpError says
        that ``amount`` is out of range.
        """
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < 1:
            raise KlrpError.value(f"amount: got {amount!r}; expected a fraction in [0, 1).")
        counts = {k: min(round(amount * len(v)), len(v) - 1) for k, v in self.values.items()}
        return {k: (self.ranks(k) <= n).nonzero()[:, 0] for k, n in counts.items()}

    def importance(self, layer: str, weight: Tensor) -> Tensor:
        """The ranks in the shape of the weight, as ``importance_scores`` of torch.nn.utils.prune.

        Ranks, since torch takes a norm of what it is given, and a score may be negative or infinite.
        A KlrpError says that the weight has another number of units.

        Example:
            >>> given = scores.importance("1", model[1].weight)
            >>> prune.ln_structured(model[1], "weight", 0.5, n=1, dim=0, importance_scores=given)
        """
        ranks = self.ranks(layer)
        if weight.shape[:1] != ranks.shape:
            raise KlrpError.value(
                f"weight: got shape {tuple(weight.shape)}; expected [{len(ranks)}, ...], the units of "
                f"{layer}. Give the weight of that layer."
            )
        return ranks.to(weight).reshape(-1, *(1,) * (weight.ndim - 1)).expand_as(weight)

    def plot(self) -> Any:
        """A figure of the sorted finite scores of each layer, relative to the layer's largest."""
        ys = {}
        for layer, v in self.values.items():
            v = v[v.isfinite()].sort(descending=True).values.cpu()
            at = torch.linspace(0, max(len(v) - 1, 0), 101).round().long()  # layers differ in size
            ys[layer] = (v / v.abs().max().clamp_min(1e-300))[at] if len(v) else torch.zeros(101)
        ends = dict(xlabel="units, the most important first, %", ylabel="score / largest score")
        return plot.curves(range(101), ys, title=self.name, **ends).figure

    def _table(self) -> Table:
        rows = ((k, len(v), *map(float, (v.min(), v.mean(), v.max()))) for k, v in self.values.items())
        return Table((self.name, "units", "lowest", "mean", "highest"), tuple(rows))


def relevance_scores(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    layers: Sequence[str],
    *,
    signed: bool = False,
    batch: int = 100,
    progress: bool = True,
    **settings: Any,
) -> Scores:
    r"""The mean relevance of each unit, in any semiring and under any rule.

    .. math:: s_j = \frac{1}{N} \sum_n \sum_p \mathrm{score}(R_{jp}(x_n))

    over the images n and, for a channel j, its positions p. ``score`` is that of the semiring. Over the
    reals :math:`|\sum_p R_{jp}|` is averaged, unless ``signed`` (Groudiev and Maniu 2024; signed as in Yeom
    et al. 2021).

    Args:
        images, labels: [N, ...] and the explained classes [N]; labels None explains the top logits.
        layers: names of linear layers or convolutions; relevance is that of their outputs.
        batch: images at a time, which bounds the memory and changes nothing else.
        settings: those of klrp.explain, such as ``semiring="boolean"``.

    Raises:
        KlrpError: as klrp.explain, and for no images, or a layer that is no such module.

    Example:
        >>> relevance_scores(model, images, labels, ["1", "3"], semiring="viterbi").lowest(0.5)
    """
    semiring = find_semiring(settings.get("semiring", REAL))
    size = semiring.linear and not signed

    def measure(x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        relevance = explain(model, x, y, keep=layers, **settings)
        sums = {k: _over_positions(semiring.score(relevance[k]), model.get_submodule(k)) for k in layers}
        return {k: v.abs() if size else v for k, v in sums.items()}

    return _mean(semiring.name, measure, model, layers, images, labels, batch, progress)


def taylor_scores(
    model: nn.Module, images: Tensor, labels: Tensor, layers: Sequence[str], *, batch: int = 100, progress: bool = True
) -> Scores:
    r"""First-order Taylor: by how much the loss would change, to first order, were the unit zero.

    .. math:: s_j = \frac{1}{N} \sum_n \Bigl| \sum_p a_{jp} \frac{∂L}{∂a_{jp}} \Bigr|

    with the cross entropy L of image n (Molchanov et al. 2017). On ReLU networks this is LRP-0 that starts
    with :math:`z_c \, ∂L/∂z_c` at the logits z, and so it is computed; other activation functions make it
    another score. Arguments and errors are those of relevance_scores.
    """
    network = models.eval_copy(model)

    def measure(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            z = network(x)
        start = z * (z.softmax(1) - functional.one_hot(y, z.shape[1]))
        relevance = explain(model, x, y, rule=rules.lrp0(), start=start, keep=layers)
        return {k: _over_positions(relevance[k], model.get_submodule(k)).abs() for k in layers}

    return _mean("taylor", measure, model, layers, images, labels, batch, progress)


def activation_scores(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, batch: int = 100, progress: bool = True
) -> Scores:
    r"""The mean activation :math:`\frac{1}{N} \sum_n \sum_p |a_{jp}|`, behind the activation function.

    Arguments and errors are those of relevance_scores.
    """

    def measure(x: Tensor, _: None) -> dict[str, Tensor]:
        network = trace(model, x)
        ends = {k: units_of(network, k).active for k in layers}
        return {k: _over_positions(network.value(end).abs(), model.get_submodule(k)) for k, end in ends.items()}

    return _mean("activation", measure, model, layers, images, None, batch, progress)


def norm_scores(model: nn.Module, layers: Sequence[str], *, p: float = 2) -> Scores:
    """The l_p norm of each unit's row of weights, without its bias; a KlrpError unless p > 0."""
    if not p > 0:
        raise KlrpError.value(f"p: got {p!r}; expected a number > 0, such as 1 or 2.")
    rows = {k: w.flatten(1).double() for k, w in weights_of(model, layers).items()}
    return Scores(f"l{p:g}", {k: w.norm(p, dim=1) for k, w in rows.items()})


def random_scores(model: nn.Module, layers: Sequence[str], *, seed: int = 0) -> Scores:
    """A random order of the units: scores drawn uniformly from [0, 1)."""
    g = torch.Generator().manual_seed(seed)
    sizes = {k: len(w) for k, w in weights_of(model, layers).items()}
    return Scores("random", {k: torch.rand(n, generator=g).double() for k, n in sizes.items()})


def _mean(
    name: str,
    measure: Callable[[Tensor, Any], dict[str, Tensor]],
    model: nn.Module,
    layers: Sequence[str],
    images: Tensor,
    labels: Tensor | None,
    batch: int,
    progress: bool,
) -> Scores:
    """The mean over the images of what ``measure`` gives for a batch, {layer: [n, units]}."""
    from tqdm import tqdm

    weights_of(model, layers)
    if not len(images) or batch < 1 or (labels is not None and len(labels) != len(images)):
        raise KlrpError.value(
            f"images: got {len(images)} of them, {'no' if labels is None else len(labels)} labels and "
            f"batch={batch}; expected one image or more, as many labels, and batch >= 1."
        )
    totals: dict[str, Any] = dict.fromkeys(layers, 0)
    starts = range(0, len(images), batch)
    for i in tqdm(starts, desc="score", leave=False, mininterval=0.5, disable=not progress):
        y = None if labels is None else labels[i : i + batch]
        for layer, found in measure(images[i : i + batch], y).items():
            totals[layer] = totals[layer] + found.sum(0).cpu()
    return Scores(name, {layer: total / len(images) for layer, total in totals.items()}, len(images))


def _over_positions(x: Tensor, layer: nn.Module) -> Tensor:
    """A map of a layer's output summed over the positions, as float64 [N, units].

    The units of a convolution are on axis 1, those of a linear layer on the last one, behind tokens for instance.
    """
    x = x.double().movedim(-1, 1) if isinstance(layer, nn.Linear) else x.double()
    return x.reshape(*x.shape[:2], -1).sum(2)
