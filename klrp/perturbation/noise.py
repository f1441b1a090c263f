"""Noise, which takes the place of pixels, and what every experiment that perturbs them begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from klrp import models
from klrp.errors import KlrpError

Noise = str | Callable[[Tensor], Tensor]
NOISES = ("zero", "invert", "mean", "uniform", "blur")


def replace(images: Tensor, noise: Noise, *, seed: int = 0) -> Tensor:
    """What takes the place of every pixel, shaped as ``images``; see the module for ``noise``.

    Example:
        >>> replace(torch.rand(5, 1, 28, 28), "blur").shape
        torch.Size([5, 1, 28, 28])
    """
    return _replaced(images, noise, torch.Generator().manual_seed(seed))


def blur(images: Tensor, sigma: float | None = None) -> Tensor:
    """Images after a Gaussian blur of ``sigma`` pixels, the border repeated.

    By default sigma is the width / 22.4, which is 10 for a photograph of 224 pixels (Fong and Vedaldi 2017).
    """
    sigma = images.shape[-1] / 22.4 if sigma is None else sigma
    if not sigma > 0:
        raise KlrpError.value(f"blur: sigma is {sigma}; expected a number > 0.")
    reach = min(int(3 * sigma + 0.5), *(side - 1 for side in images.shape[-2:]))
    at = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-(at**2) / (2 * sigma**2), 0)
    flat = images.reshape(-1, 1, *images.shape[-2:])
    flat = functional.pad(flat, (reach,) * 4, mode="replicate")
    flat = functional.conv2d(functional.conv2d(flat, kernel[None, None, None]), kernel[None, None, :, None])
    return flat.reshape(images.shape)


def checked(caller: str, model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> nn.Module:
    """A frozen copy of the model in eval mode, once the arguments are checked."""
    if images.ndim != 4:
        raise KlrpError.value(
            f"{caller}: images have shape {tuple(images.shape)}; expected [n, c, h, w]. Add the axes that "
            "are missing, x[:, None]."
        )
    if batch < 1:
        raise KlrpError.value(f"{caller}: batch={batch}; expected an integer >= 1.")
    models.check_labelled(caller, model, images, labels)
    return models.eval_copy(model)


def batches(
    images: Tensor, labels: Tensor, noise: Noise, batch: int, seed: int
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Rows, images, labels and noise of each batch; the noise does not depend on the size of the batches."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        x = images[rows].detach()
        yield rows, x, labels[rows], _replaced(x, noise, generator)


def _replaced(x: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    if not callable(noise) and noise not in NOISES:
        raise KlrpError.value(
            f"noise: got {noise!r}; expected one of {', '.join(NOISES)}, or a function from images to images."
        )
    if noise in ("invert", "uniform") and not bool(((x >= 0) & (x <= 1)).all()):
        raise KlrpError.value(
            f"noise: {noise!r} is meant for pixels in [0, 1], and images run from {x.min():.4g} to {x.max():.4g}. "
            "Let the model normalise, nn.Sequential(normalise, model), or give a function."
        )
    if noise == "uniform":
        return torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    kinds = {
        "zero": torch.zeros_like,
        "invert": lambda x: 1 - x,
        "mean": lambda x: x.mean((2, 3), keepdim=True).expand_as(x),
        "blur": blur,
    }
    noisy = noise(x) if callable(noise) else kinds[noise](x)
    if not isinstance(noisy, Tensor) or noisy.shape != x.shape:
        came = tuple(noisy.shape) if isinstance(noisy, Tensor) else type(noisy).__name__
        raise KlrpError.value(f"noise: the function gave {came} for images {tuple(x.shape)}; expected the same shape.")
    return noisy.to(x)
