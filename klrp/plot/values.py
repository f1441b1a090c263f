"""What is drawn: maps and pictures as tensors that were checked, and where their scales end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from klrp.errors import KlrpError

_JOIN = {
    "sum": lambda m: m.sum(0),
    "or": lambda m: (m != 0).any(0),
    "and": lambda m: (m != 0).all(0),
    "max": lambda m: m.amax(0),
}


def join_channels(map: Tensor, how: str) -> Tensor:
    """One map ``[H, W]`` from the channels of ``[C, H, W]``.

    ``"sum"`` and ``"max"`` are taken over the numbers; ``"or"`` and ``"and"`` say, as torch.bool,
    whether any or every channel is relevant (not zero).

    Raises:
        KlrpError: for another word, or a map that has not three axes.

    Example:
        >>> join_channels(torch.tensor([[[0., 2.]], [[1., 3.]]]), "and")
        tensor([[False,  True]])
    """
    if how not in _JOIN:
        raise KlrpError.value(f"channels: got {how!r}; expected one of {', '.join(_JOIN)}.")
    if map.ndim != 3:
        raise KlrpError.value(f"map: got shape {tuple(map.shape)}; expected [C, H, W]. Choose one sample, map[0].")
    return _JOIN[how](map)


def check_index(relevance: Any, index: int) -> None:
    n = len(relevance.input)
    if not -n <= index < n:
        raise KlrpError.value(f"index: got {index}; expected a sample of this Relevance, which has {n}.")


def as_tensor(map: Any, index: int) -> Tensor:
    """The tensor of a map, which may be a Relevance, on the CPU and without NaN."""
    if hasattr(map, "semiring"):
        check_index(map, index)
        map, semiring = map.input[index], map.semiring
        scores = map if map.dtype == torch.bool else semiring.score(map)
        # The exponential of logarithms, the largest becoming 1.
        map = (scores - scores.max().nan_to_num(neginf=0.0)).exp() if semiring.logarithmic else scores
    map = torch.as_tensor(map).detach().cpu()
    if map.ndim not in (2, 3) or map.numel() == 0:
        raise KlrpError.value(
            f"map: got shape {tuple(map.shape)}; expected [H, W] or [C, H, W]. Choose one sample, "
            "map[0]; lay flat neurons on a grid, map.reshape(28, 28)."
        )
    if map.ndim == 3 and map.shape[2] in (1, 3, 4) and min(map.shape[:2]) >= 16:
        raise KlrpError.value(
            f"map: got shape {tuple(map.shape)}, which looks like [H, W, C]; expected [C, H, W]. Move the channels to "
            "the front: torch.as_tensor(map).permute(2, 0, 1)."
        )
    if map.isnan().any():
        raise KlrpError.value(
            f"map: got NaN at {int(map.isnan().sum())} of {map.numel()} values; expected numbers. "
            "An explanation has none: look at what was done to it since."
        )
    return map


def as_map(map: Any, channels: str | None, index: int = 0) -> Tensor:
    """The map [H, W]: of torch.bool or of numbers."""
    map = as_tensor(map, index)
    map = map if map.ndim == 3 else map[None]
    if channels is None and len(map) == 1:
        return map[0]
    return join_channels(map, channels or ("or" if map.dtype == torch.bool else "sum"))


def as_picture(x: Any, argument: str) -> Tensor:
    """A picture as matplotlib takes it: [H, W] or [H, W, 3], float64 in [0, 1]; x may be a data.Photo or of PIL."""
    x = x.image[0] if hasattr(x, "image") else x
    if isinstance(x, Image.Image):
        x = np.asarray(x.convert("RGB")).transpose(2, 0, 1) / 255
    x = torch.as_tensor(x).detach().cpu().to(torch.float64)
    shape = tuple(x.shape)
    if x.ndim == 3 and len(x) in (1, 3):
        x = x[0] if len(x) == 1 else x.permute(1, 2, 0)
    elif x.ndim != 2:
        raise KlrpError.value(
            f"{argument}: got shape {shape}; expected [H, W], [1, H, W] or [3, H, W]. Choose one "
            "sample, x[0]; bring the channels to the front, x.permute(2, 0, 1)."
        )
    if not ((x >= 0) & (x <= 1)).all():
        raise KlrpError.value(
            f"{argument}: got values from {x.min():.4g} to {x.max():.4g}; expected [0, 1]. Undo "
            "the normalisation, x * std + mean; divide bytes by 255."
        )
    return x


def limit_of(map: Tensor, limit: float | None = None) -> float:
    """Where the scale of a map ends: the limit asked for, or the 99.5th percentile of |map|."""
    if limit is not None and not 0 < limit < math.inf:
        raise KlrpError.value(f"limit: got {limit}; expected a number > 0. Leave it out for one that fits the map.")
    if limit is not None:
        return float(limit)
    size = map.to(torch.float64).abs()
    size = size[size.isfinite()].numpy()
    return float((size.size and (np.percentile(size, 99.5) or size.max())) or 1.0)
