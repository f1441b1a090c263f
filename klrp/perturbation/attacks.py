"""Attacks: random ones that a map of relevance guides, windows everywhere, and learned masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from klrp import plot
from klrp.errors import KlrpError
from klrp.experiments import Printed
from klrp.perturbation.noise import Noise, batches, checked
from klrp.tables import Table


@torch.no_grad()
def attack_maps(relevance: Tensor, n: int, *, eta: float = 1.0, seed: int = 0) -> Tensor:
    r"""Maps [n, h, w] whose order is n random attacks, guided by one map of relevance [h, w].

    Pixel after pixel is drawn from

    .. math:: P(X = i) ∝ \exp(-η R_i) ,

    so that a relevant pixel is unlikely to be attacked; one that has been drawn before is redrawn uniformly
    among those left, as in the report (Groudiev and Maniu 2024). With η = 0 the attack is uniform. Give the maps to
    `flip`: the first pixel has the largest value.

    Example:
        >>> flip(model, x, y, {"guided": attack_maps(mean_relevance, len(x), eta=200.0)}, noise="invert")
    """
    if relevance.ndim != 2 or not relevance.isfinite().all():
        raise KlrpError.value(
            f"attack_maps: relevance has shape {tuple(relevance.shape)}; expected finite numbers [h, w]. Average "
            "the maps of several images, maps.mean(0)."
        )
    generator, size = torch.Generator().manual_seed(seed), relevance.numel()
    chances = torch.softmax(-eta * relevance.cpu().double().flatten(), 0)
    drawn = torch.multinomial(chances, n * size, replacement=True, generator=generator)
    maps, every = torch.zeros(n, size, dtype=torch.float64), torch.arange(n)
    # The smallest of these keys among the pixels left is a uniform draw from them.
    keys = torch.rand(n, size, generator=generator, dtype=torch.float64)
    for step, pixel in enumerate(drawn.reshape(size, n)):
        pixel = torch.where(maps[every, pixel] == 0, pixel, keys.argmin(1))
        maps[every, pixel], keys[every, pixel] = float(size - step), 2.0
    return maps.reshape(n, *relevance.shape).to(relevance.device)


@dataclass(frozen=True, eq=False, repr=False)
class Zones(Printed):
    """The accuracy on each class when a window is perturbed: ``accuracy`` [classes, h', w'] by its centre.

    ``clean`` [classes] is the accuracy without a window, ``labels`` [classes] are the classes, ``counts``
    [classes] the numbers of their images; centres are ``stride`` pixels apart.
    """

    accuracy: Tensor
    clean: Tensor
    labels: Tensor
    counts: Tensor
    stride: int

    @property
    def overall(self) -> Tensor:
        """The accuracy [h', w'] on all images."""
        weights = self.counts.double() / self.counts.sum()
        return (weights[:, None, None] * self.accuracy).sum(0)

    @property
    def drop(self) -> Tensor:
        """How much accuracy each window costs, [classes, h', w']."""
        return self.clean[:, None, None] - self.accuracy

    def table(self) -> Table:
        """For each class: accuracy untouched, at the worst window, and the centre of that window."""
        rows = []
        for label, clean, map in zip(self.labels.tolist(), self.clean, self.accuracy, strict=True):
            row, column = divmod(int(map.argmin()), map.shape[1])
            at = (row * self.stride, column * self.stride)
            rows.append((label, float(clean), float(map.min()), *at))
        return Table(("class", "clean", "worst", "row", "column"), tuple(rows))

    def plot(self) -> plot.Figure:
        """How much accuracy each window costs, by class: red where it costs, blue where it helps."""
        titles = [f"class {label}" for label in self.labels.tolist()]
        settings = dict(share_scale=True, colorbar=True, width=7)
        return plot.panel(list(self.drop), titles, **settings)


@torch.no_grad()
def zones(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    window: int = 4,
    stride: int = 1,
    noise: Noise = "invert",
    batch: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> Zones:
    """Perturb a square window at every position, and measure the accuracy on each class.

    The window centred at (r, c) covers rows r − ⌊window/2⌋ to r − ⌊window/2⌋ + window − 1 and the same
    columns; what lies outside the image is cut off. Arguments and errors are those of `flip`; centres are
    ``stride`` pixels apart.

    Example:
        >>> zones(model, d.test_images[:1000], d.test_labels[:1000]).plot()
    """
    network = checked("zones", model, images, labels, batch)
    if window < 1 or stride < 1:
        raise KlrpError.value(f"zones: window={window}, stride={stride}; expected two integers >= 1.")
    height, width = images.shape[2:]
    classes, members = labels.unique(return_inverse=True)
    grid = [(r, c) for r in range(0, height, stride) for c in range(0, width, stride)]
    hits = torch.zeros(len(classes), len(grid) + 1, dtype=torch.float64)
    blocks = list(batches(images, labels, noise, batch, seed))
    for at in tqdm(range(len(grid) + 1), desc="zones", leave=False, disable=not progress):
        for rows, x, y, noisy in blocks:
            if at:  # the first is without a window
                r, c = (max(centre - window // 2, 0) for centre in grid[at - 1])
                bottom, right = (centre - window // 2 + window for centre in grid[at - 1])
                x = x.clone()
                x[..., r:bottom, c:right] = noisy[..., r:bottom, c:right]
            right_ones = (network(x).argmax(1) == y).double().cpu()
            hits[:, at].index_add_(0, members[rows].cpu(), right_ones)
    counts = members.bincount().cpu()
    accuracy = hits / counts[:, None]
    shape = (len(classes), -(-height // stride), -(-width // stride))
    return Zones(accuracy[:, 1:].reshape(shape), accuracy[:, 0], classes.cpu(), counts, stride)


@torch.enable_grad()
def learned_mask(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    noise: Noise = "blur",
    shrink: int = 2,
    steps: int = 200,
    lr: float = 0.1,
    sparsity: float = 1e-3,
    smoothness: float = 1e-2,
    batch: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    r"""Maps [n, h, w] in [0, 1] of what has to be perturbed to lose the label, learned by descent.

    .. math:: \min_m \; p_y\big((1 - m) ∘ x + m ∘ \tilde{x}\big) + λ_1 \sum m + λ_2 \sum |∇m|^3

    The mask m has sides ``shrink`` times shorter than the image and is enlarged (bilinear); λ₁ is
    ``sparsity``, λ₂ ``smoothness``. Adam starts with m = 1/2 and takes ``steps`` steps (Fong and Vedaldi 2017, whose m is our
    1 − m, and who also jitter the image). Errors are those of `flip`.

    Example:
        >>> flip(model, x, y, {"learned": learned_mask(model, x, y)}, noise="blur").plot()
    """
    network = checked("learned_mask", model, images, labels, batch)
    size = tuple(-(-side // shrink) for side in images.shape[2:])
    blocks = -(-len(images) // batch)
    masks = []
    with tqdm(total=steps * blocks, desc="mask", leave=False, disable=not progress) as bar:
        for _, x, y, noisy in batches(images, labels, noise, batch, seed):
            small = x.new_full((len(x), 1, *size), 0.5).requires_grad_()
            optimiser = torch.optim.Adam([small], lr=lr)
            for _ in range(steps):
                m = _enlarged(small, x)
                chance = network(x + m * (noisy - x)).softmax(1).gather(1, y[:, None])
                edges = sum(small.diff(dim=d).abs().pow(3).sum() for d in (2, 3))
                loss = chance.sum() + sparsity * small.abs().sum() + smoothness * edges
                (small.grad,) = torch.autograd.grad(loss, small)
                optimiser.step()
                with torch.no_grad():
                    small.clamp_(0, 1)
                bar.update()
            masks.append(_enlarged(small.detach(), x)[:, 0])
    return torch.cat(masks)


def _enlarged(mask: Tensor, x: Tensor) -> Tensor:
    return functional.interpolate(mask, size=tuple(x.shape[2:]), mode="bilinear", align_corners=False)
