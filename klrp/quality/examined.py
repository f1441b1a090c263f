"""Do maps of two classes differ, do those of one class agree, and do they depend on what the network has learnt?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from tqdm import tqdm

from klrp.errors import KlrpError
from klrp.experiments import Printed, alike, behind
from klrp.models import eval_copy
from klrp.quality.maps import concentration, correlation, entropy, rank_correlation
from klrp.quality.methods import Method, all_maps, two_best
from klrp.tables import Table


@dataclass(frozen=True, eq=False, repr=False)
class Examined(Printed):
    """What `examine` found, a number for each image [n]; ``seconds`` is for one map. It prints as a table.

    ``second`` is r of the maps of the predicted class and the runner-up, with its sign; ``again`` is r of two maps of
    the predicted class, before and after noise; ``head`` and ``all`` are Spearman's ρ with the map of the
    network whose last layer, or every layer, has random weights; ``rise`` is how much more complex
    the last of these is, (E_random − E) / E; ``concentration`` is the Gini coefficient.
    """

    second: Tensor
    again: Tensor
    head: Tensor
    all: Tensor
    rise: Tensor
    concentration: Tensor
    seconds: float

    def __add__(self, other: Examined) -> Examined:
        """What was found in two parts of a data set together; ``seconds`` is a mean over the images."""
        alike(self, other)
        n, m = len(self.second), len(other.second)
        each = {
            f.name: behind(getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.name != "seconds"
        }
        return Examined(**each, seconds=(n * self.seconds + m * other.seconds) / (n + m))

    @property
    def table(self) -> Table:
        """The mean of each and its standard error; of ``second`` the mean size too, since its signs may cancel."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "seconds"}
        found = {"second": found.pop("second"), "|second|": self.second.abs(), **found}
        rows = [(name, float(v.mean()), float(v.std()) / len(v) ** 0.5) for name, v in found.items()]
        return Table(("what", "mean", "±"), (*rows, ("seconds", self.seconds, float("nan"))))


def examine(
    model: nn.Module,
    method: Method,
    images: Tensor,
    *,
    sigma: float = 0.2,
    batch: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> Examined:
    """Explain each image five times, and compare: five questions to one method, for the class that the network predicts.

    1. The *second* class: are its maps others? Beside it stands how alike two maps of *one* class are, *again* after
       Gaussian noise of ``sigma`` standard deviations of the image; two classes are told apart only as far as the first
       lies below the second.
    2. Random weights in the *head*, or in *all* layers (Adebayo et al. 2018): does the map know? A high ρ for the head
       alone does not condemn a method, since the layers below, and what they see, are the same (Binder et al. 2023).
    3. The *rise* in complexity from the trained network to the random one, which depends neither on a similarity nor on
       the order of layers (Hedström et al. 2024, efficient MPRT): near 0 says that the map was no simpler before.

    Example:
        >>> examine(model, lrp(semiring="viterbi"), images)
    """
    network = eval_copy(model)
    best = two_best(network, images, batch)
    deviation = images.flatten(1).std(1).reshape(-1, 1, 1, 1)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=images.dtype)
    noisy = images + sigma * deviation * noise.to(images.device)
    asked = (
        (network, images, 0), (network, images, 1), (network, noisy, 0),
        (randomised(network, 1, seed=seed), images, 0), (randomised(network, seed=seed), images, 0),
    )  # fmt: skip
    maps, seconds = [], 0.0
    for number, (explained, x, which) in enumerate(tqdm(asked, desc="examine", leave=False, disable=not progress)):
        before = time.perf_counter()
        maps.append(all_maps(method, explained, x, best[:, which], batch))
        seconds = seconds if number else (time.perf_counter() - before) / len(images)
    first, second, again, head, random = maps
    complexity = entropy(first)
    rise = (entropy(random) - complexity) / complexity.clamp(min=1e-12)
    return Examined(
        correlation(first, second), correlation(first, again), rank_correlation(first, head),
        rank_correlation(first, random), rise.where(complexity > 0, torch.zeros(())), concentration(first), seconds,
    )  # fmt: skip


def randomised(model: nn.Module, layers: int | None = None, *, seed: int = 0) -> nn.Module:
    """A copy whose last ``layers`` layers with parameters, or all of them, have random ones.

    Each parameter is drawn anew from the normal distribution with its own mean and deviation, so that signals keep
    their size; a single number stays. Layers are taken in the order of ``model.modules()``. Buffers, such as the means
    of a BatchNorm, stay.
    """
    copy = deepcopy(model)
    owners = [m for m in copy.modules() if any(True for _ in m.parameters(recurse=False))]
    if layers is not None and not 0 <= layers <= len(owners):
        raise KlrpError.value(f"layers: got {layers}; the network has {len(owners)} layers with parameters.")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for owner in owners[len(owners) - (len(owners) if layers is None else layers) :]:
            for p in owner.parameters(recurse=False):
                if p.numel() > 1:
                    drawn = torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
                    p.copy_(p.mean() + p.std() * drawn)
    return copy


def cascade(
    model: nn.Module,
    method: Method,
    images: Tensor,
    stages: Sequence[int],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    batch: int = 16,
    progress: bool = True,
) -> Tensor:
    """Spearman's ρ [stages, n] with the map of the network whose last so many layers have random weights.

    Each is a mean over the ``seeds`` of the weights (Adebayo et al. 2018: cascading randomisation).

    Example:
        >>> cascade(model, lrp(semiring="viterbi"), images, [1, 2, 3, 8, 16]).mean(1)
    """
    network = eval_copy(model)
    predicted = two_best(network, images, batch)[:, 0]
    maps = all_maps(method, network, images, predicted, batch)
    rows = []
    for layers in tqdm(stages, desc="cascade", leave=False, disable=not progress):
        others = [all_maps(method, randomised(network, layers, seed=s), images, predicted, batch) for s in seeds]
        rows.append(torch.stack([rank_correlation(maps, other) for other in others]).mean(0))
    return torch.stack(rows)
