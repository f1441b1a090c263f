"""What pruning costs in accuracy, and what it saves in memory and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from klrp import models
from klrp.errors import KlrpError
from klrp.experiments import Printed, deviation, mean_and_deviation, mean_curves, resampled
from klrp.pruning.copies import prune
from klrp.pruning.scores import Scores
from klrp.tables import Table


@dataclass(frozen=True, eq=False, repr=False)
class Curves(Printed):
    """Accuracy and mean cross entropy over the pruned fraction: [runs, criteria, fractions].

    A run is a network, or one resampling of the test images. It prints as a table of accuracies.
    """

    labels: tuple[str, ...]
    fractions: tuple[float, ...]
    accuracy: Tensor
    loss: Tensor

    def curve(self, label: str, what: str = "accuracy") -> Tensor:
        """One curve: [runs, fractions]. A KlrpError names a label or a quantity that is none."""
        if label not in self.labels or what not in ("accuracy", "loss"):
            raise KlrpError.value(
                f"curve: got {label!r}, {what!r}; expected one of {', '.join(self.labels)}, and accuracy or loss."
            )
        return getattr(self, what)[:, self.labels.index(label)]

    def table(self, what: str = "accuracy", at: Sequence[float] | None = None) -> Table:
        """Reduce ± standard deviation over the runs, at some of the fractions; accuracies in per cent."""
        at = self.fractions if at is None else at
        if not set(at) <= set(self.fractions):
            raise KlrpError.value(f"at: got {list(at)}; expected some of {list(self.fractions)}.")
        scale, digits = (100, 1) if what == "accuracy" else (1, 2)
        rows = []
        for label in self.labels:
            runs = [scale * self.curve(label, what)[:, self.fractions.index(f)] for f in at]
            rows.append((label, *(mean_and_deviation(v, digits) for v in runs)))
        return Table((what, *(f"{100 * f:.3g} %" for f in at)), tuple(rows))

    def plot(self, what: str = "accuracy", labels: Sequence[str] | None = None, ax: Any = None) -> Any:
        """A figure of the means, with bands of one standard deviation over the runs to each side."""
        runs = {label: self.curve(label, what) for label in labels or self.labels}
        xs = [100 * f for f in self.fractions]
        return mean_curves(xs, runs, deviation, ax, xlabel="pruned, %", ylabel=what).figure


def curves(
    model: nn.Module,
    scores: Mapping[str, Scores],
    fractions: Sequence[float],
    images: Tensor,
    labels: Tensor,
    *,
    bias: str = "pruned",
    finetune: Callable[[nn.Module], nn.Module] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
    batch: int = 1000,
    progress: bool = True,
) -> Curves:
    """Accuracy and mean cross entropy of pruned copies, for each criterion and fraction.

    Args:
        scores: the criteria by label; each prunes the layers that it has scores of.
        fractions: of the units of each layer, in [0, 1).
        images, labels: [N, ...] and [N]; best not those of the scores.
        finetune: a function from a pruned copy to a trained one, with klrp.models.train for instance.
        bootstrap: 0 gives one run; B > 0 gives B runs, each on N images drawn with replacement, the
            same ones for all criteria. ``seed`` is that of the draws.

    Raises:
        KlrpError: no scores, fractions or images, and as ``Scores.lowest`` and ``prune``.

    Example:
        >>> curves(model, {"l2": norm_scores(model, ["1"])}, [0, 0.5], x, y).plot()
    """
    from tqdm import tqdm

    if not scores or not len(fractions) or not len(images) == len(labels) > 0:
        raise KlrpError.value(
            f"curves: got {len(scores)} scores, {len(fractions)} fractions, {len(images)} images and "
            f"{len(labels)} labels; expected some of each, and a label for every image."
        )
    n = len(images)
    weights = resampled(n, bootstrap, seed) if bootstrap else torch.ones(1, n, dtype=torch.float64)
    known: dict[Any, Tensor] = {}

    def result(removed: dict[str, Tensor]) -> Tensor:
        gone = tuple((layer, *rows.tolist()) for layer, rows in removed.items())
        key = gone if any(len(rows) > 1 for rows in gone) else None  # nothing pruned: all the same
        if key not in known:
            small = prune(model, images, removed, bias=bias)
            known[key] = _evaluate(small if finetune is None else finetune(small), images, labels, weights, batch)
        return known[key]

    jobs = [s.lowest(fraction) for s in scores.values() for fraction in fractions]
    bar = tqdm(jobs, desc="prune", leave=False, mininterval=0.5, disable=not progress)
    found = torch.stack([result(removed) for removed in bar])  # [jobs, 2, runs]
    accuracy, loss = found.unflatten(0, (len(scores), len(fractions))).permute(2, 3, 0, 1)
    return Curves(tuple(scores), tuple(map(float, fractions)), accuracy, loss)


def join(several: Sequence[Curves]) -> Curves:
    """The curves of several networks as the runs of one; a KlrpError unless labels and fractions agree."""
    if len({(c.labels, c.fractions) for c in several}) != 1:
        raise KlrpError.value("several: expected Curves, all with the same labels and fractions.")
    accuracy, loss = (torch.cat([getattr(c, what) for c in several]) for what in ("accuracy", "loss"))
    return Curves(several[0].labels, several[0].fractions, accuracy, loss)


@torch.no_grad()
def costs(networks: Mapping[str, nn.Module], inputs: Tensor, *, repeats: int = 7) -> Table:
    """The size and speed of networks: parameters, kB of weights and buffers, ms for ``inputs``.

    The time is the shortest of ``repeats`` forward passes in eval mode, the networks taking turns.
    """
    shadows = {name: models.eval_copy(network) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in shadows}
    for name, network in list(shadows.items()) * max(repeats, 1):
        before = time.perf_counter()
        network(inputs)
        times[name].append(1000 * (time.perf_counter() - before))
    rows = []
    for name, network in shadows.items():
        parameters = sum(p.numel() for p in network.parameters())
        tensors = (*network.parameters(), *network.buffers())
        size = sum(t.numel() * t.element_size() for t in tensors) / 1000
        rows.append((name, parameters, size, min(times[name])))
    return Table(("network", "parameters", "kB", "ms"), tuple(rows))


@torch.no_grad()
def _evaluate(model: nn.Module, images: Tensor, labels: Tensor, weights: Tensor, batch: int) -> Tensor:
    """[2, runs]: accuracy and mean cross entropy, each image counted as often as ``weights`` says."""
    network, total = models.eval_copy(model), torch.zeros(2, len(weights), dtype=torch.float64)
    parts = (t.split(batch, t.ndim - 1 if t is weights else 0) for t in (images, labels, weights))
    for x, y, w in zip(*parts, strict=True):
        z = network(x)
        right, loss = z.argmax(1) == y, functional.cross_entropy(z, y, reduction="none")
        total += torch.stack([right.double(), loss.double()]).cpu() @ w.T
    return total / weights.sum(1)
