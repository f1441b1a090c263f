"""A mask that is learned: the fewest pixels that keep a class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from klrp.perturbation.flips import _batches, _checked
from klrp.perturbation.noise import Noise


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
    network = _checked("learned_mask", model, images, labels, batch)
    size = tuple(-(-side // shrink) for side in images.shape[2:])
    blocks = -(-len(images) // batch)
    masks = []
    with tqdm(total=steps * blocks, desc="mask", leave=False, disable=not progress) as bar:
        for _, x, y, noisy in _batches(images, labels, noise, batch, seed):
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
