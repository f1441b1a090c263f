"""What a network still knows when a mask is laid on its input or on hidden neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from klrp import models, plot
from klrp.errors import KlrpError
from klrp.experiments import Printed, mean_and_deviation
from klrp.tables import Table


def masked(model: nn.Module, mask: Tensor, step: str = "input", *, fill: float = 0.0) -> nn.Module:
    """A copy of ``model``, in eval mode, in which neurons outside the mask have the value ``fill``.

    The copy shares the weights; the model is not changed. ``mask`` is torch.bool [*shape], ``step``
    ``"input"`` or the path of a module whose outputs have that shape.

    Raises:
        KlrpError: a mask that is not torch.bool or (when the copy is used) of another shape, or no such module.

    Example:
        >>> klrp.models.accuracy(klrp.masks.masked(model, found.map("or")), x, y)
    """
    if mask.dtype != torch.bool:
        raise KlrpError.type(
            f"mask: got {mask.dtype}; expected torch.bool. Compare it with a threshold, or use masks.top."
        )
    network = models.eval_copy(model)
    keep = _Keep(mask, fill)
    if step == "input":
        return nn.Sequential(keep, network).eval()
    modules = dict(network.named_modules())
    if not step or step not in modules:
        names = ", ".join(name for name in modules if name)
        raise KlrpError.key(f"step: there is no module {step!r}; expected input or one of {names}.")
    parent, _, name = step.rpartition(".")
    setattr(modules[parent], name, nn.Sequential(modules[step], keep).eval())
    return network


class _Keep(nn.Module):
    """Passes on the neurons of a mask; the others become a constant."""

    def __init__(self, mask: Tensor, fill: float) -> None:
        super().__init__()
        self.mask, self.fill = mask.detach().clone(), fill

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.mask.shape:
            raise KlrpError.value(
                f"mask: got shape {tuple(self.mask.shape)}; expected that of the neurons, {tuple(x.shape[1:])}."
            )
        return x.masked_fill(~self.mask.to(x.device), self.fill)


def top(scores: Tensor, fraction: float, *, seed: int = 0) -> Tensor:
    """The mask [*shape] of the given fraction of neurons with the largest scores; ties are drawn by ``seed``.

    Raises:
        KlrpError: NaN among the scores, or a fraction outside [0, 1].

    Example:
        >>> top(torch.tensor([3.0, 1.0, 2.0, 0.0]), 0.5)
        tensor([ True, False,  True, False])
    """
    if scores.isnan().any():
        raise KlrpError.value("scores: got NaN; expected numbers, which can be ranked.")
    if not 0 <= fraction <= 1:
        raise KlrpError.value(f"fraction: got {fraction}; expected a number in [0, 1].")
    flat = scores.detach().flatten().double().cpu()
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))
    order = order[flat[order].argsort(descending=True, stable=True)]
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[order[: round(fraction * len(flat))]] = True
    return mask.reshape(scores.shape)


@dataclass(frozen=True, eq=False, repr=False)
class Curves(Printed):
    """Accuracies [networks, fractions] by name, over the fractions of neurons that were kept."""

    kept: tuple[float, ...]
    accuracy: Mapping[str, Tensor]

    @property
    def table(self) -> Table:
        """Mean ± standard deviation over the networks, in per cent."""
        columns = [[mean_and_deviation(v, 1) for v in (100 * runs).T] for runs in self.accuracy.values()]
        rows = zip(self.kept, *columns, strict=True)
        return Table(("kept", *self.accuracy), tuple(rows))

    def plot(self) -> Any:
        """A figure: the means over the networks, and bands from the worst network to the best."""
        labels = dict(xlabel="fraction kept", ylabel="accuracy")
        return plot.curves(self.kept, self.accuracy, **labels).figure


def curves(
    networks: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    rankings: Mapping[str, Sequence[Tensor]],
    kept: Sequence[float],
    *,
    step: str = "input",
    seed: int = 0,
    progress: bool = True,
) -> Curves:
    """The accuracy of masked networks, as a curve over the fraction of neurons that are kept.

    Args:
        networks: s of them, which differ in their seeds; one will do.
        images, labels: [n, ...] and [n] int64 in 0..c-1.
        rankings: by name, s tensors of scores [*shape], one for each network. ``top`` makes the masks.
        kept: fractions in [0, 1].
        step: where the masks are laid, as in ``masked``.
        seed: for ties.

    Raises:
        KlrpError: not one ranking for each network, and what ``top``, ``masked`` and
            ``klrp.models.accuracy`` refuse.

    Example:
        >>> ranked = {"relevance": [found.map("mean")], "random": torch.rand(1, 1, 28, 28)}
        >>> klrp.masks.curves([model], x, y, ranked, [0.1, 0.2, 0.5, 1.0])
    """
    from tqdm import tqdm

    for name, ranking in rankings.items():
        if len(ranking) != len(networks):
            raise KlrpError.value(
                f"rankings: {name!r} has {len(ranking)} rankings; expected one for each of the "
                f"{len(networks)} networks."
            )
    bar = tqdm(total=len(rankings) * len(networks), desc="curves", leave=False, disable=not progress)
    found = {}
    with bar:
        for name, ranking in rankings.items():
            rows = []
            for network, scores in zip(networks, ranking, strict=True):
                copies = (masked(network, top(scores, f, seed=seed), step) for f in kept)
                rows.append([models.accuracy(c, images, labels) for c in copies])
                bar.update()
            found[name] = torch.tensor(rows, dtype=torch.float64)
    return Curves(tuple(kept), found)
