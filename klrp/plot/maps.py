"""Maps and photographs, each on axes of its own."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize, SymLogNorm, to_rgb
from torch import Tensor

from klrp.errors import KlrpError
from klrp.plot.values import as_map, as_picture, as_tensor, limit_of

# ColorBrewer's RdBu with a pure white middle; 257 colours, so that zero falls on the middle one.
_BLUES = ["#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0"]
_REDS = ["#ffffff", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"]
_DIVERGING = _BLUES + _REDS
_BAD = "#d0d0d0"  # infinite values
SIGNED = LinearSegmentedColormap.from_list("klrp signed", _DIVERGING, 257).with_extremes(bad=_BAD)
POSITIVE = LinearSegmentedColormap.from_list("klrp positive", _REDS, 257).with_extremes(bad=_BAD)
TWO = ListedColormap(["#ffffff", "#b2182b"], "klrp boolean")


def heatmap(
    map: Any,
    ax: Axes | None = None,
    *,
    channels: str | None = None,
    limit: float | None = None,
    title: str | None = None,
    alt: str | None = None,
    colorbar: bool = False,
    index: int = 0,
) -> Axes:
    """A map on the symmetric scale from −limit (blue) over 0 (white) to limit (red).

    A map without negative values uses the red half of the same scale. Infinite values are grey.

    Args:
        map: ``[H, W]``, ``[1, H, W]`` or ``[C, H, W]``, or a Relevance. Where the scores of its
            semiring are logarithms, exp(score) relative to the largest is drawn.
        channels: how C channels become one, see `join_channels`; by default ``"sum"``, and ``"or"``
            for torch.bool.
        limit: where the scale ends, > 0. By default the 99.5th percentile of |map|, so that a few
            extreme pixels do not bleach the rest; the maximum where that percentile is 0.
        title, alt: above the map, and for those who cannot see it; ``alt`` is the title by default.
        colorbar: whether to draw the scale beside the map.
        index: which sample of a Relevance.

    Raises:
        KlrpError: NaN in the map, a wrong number of axes, an unknown word, a limit that is not > 0.

    Example:
        >>> ax = heatmap(torch.randn(28, 28), title="LRP-ε", colorbar=True)
    """
    map = as_map(map, channels, index).to(torch.float64)
    limit = limit_of(map, limit)
    return _draw(map, Normalize(-limit, limit), SIGNED, ax, title, alt, colorbar)


def count(
    map: Any,
    ax: Axes | None = None,
    *,
    log: bool = False,
    channels: str | None = None,
    limit: float | None = None,
    title: str | None = None,
    alt: str | None = None,
    colorbar: bool = False,
    index: int = 0,
) -> Axes:
    """A map of values >= 0, such as numbers of paths, from 0 (white) to limit (dark red).

    With ``log``, for counts over many orders of magnitude, the scale is logarithmic over the six
    below the limit, but not below 1, and linear from there to 0. The rest is as in `heatmap`.

    Raises:
        KlrpError: as `heatmap`, and for a negative value.

    Example:
        >>> ax = count(10 ** torch.arange(9.0).reshape(3, 3), log=True, colorbar=True)
    """
    map = as_map(map, channels, index).to(torch.float64)
    if (map < 0).any():
        raise KlrpError.value(f"map: got values down to {map.min():.4g}; expected none below 0. Draw it with heatmap.")
    limit = limit_of(map, limit)
    scale = Normalize(0.0, limit)
    if log and limit > 1:
        scale = SymLogNorm(max(1.0, limit / 1e6), vmin=0.0, vmax=limit)
    return _draw(map, scale, POSITIVE, ax, title, alt, colorbar)


def boolean(
    map: Any,
    ax: Axes | None = None,
    *,
    channels: str = "or",
    title: str | None = None,
    alt: str | None = None,
    index: int = 0,
) -> Axes:
    """A map of torch.bool in two colours: relevant is red, the rest white.

    ``map`` is ``[H, W]`` or ``[C, H, W]``, or a Relevance over the Boolean semiring; ``channels``
    is ``"or"`` or ``"and"``; the other arguments are those of `heatmap`.

    Raises:
        KlrpError: for a map that is not torch.bool, and as `heatmap`.

    Example:
        >>> ax = boolean(torch.rand(28, 28) > 0.9, title="relevant pixels")
    """
    map = as_tensor(map, index)
    if map.dtype != torch.bool:
        raise KlrpError.type(
            f"map: got {map.dtype}; expected torch.bool. Compare it with a threshold, map > t, or draw it with heatmap."
        )
    map = as_map(map, channels).to(torch.float64)
    return _draw(map, Normalize(0.0, 1.0), TWO, ax, title, alt, False)


def image(x: Any, ax: Axes | None = None, *, title: str | None = None, alt: str | None = None) -> Axes:
    """A picture in [0, 1]: grey from ``[H, W]`` or ``[1, H, W]``, colours from ``[3, H, W]``.

    Raises:
        KlrpError: for another shape, NaN, or values outside [0, 1].

    Example:
        >>> ax = image(torch.rand(3, 32, 32), title="noise")
    """
    pixels = as_picture(x, "x").numpy()
    return _frame(pixels, ax, title, alt, cmap="gray", norm=Normalize(0.0, 1.0))


def overlay(
    photo: Any,
    map: Any,
    ax: Axes | None = None,
    *,
    channels: str | None = None,
    limit: float | None = None,
    title: str | None = None,
    alt: str | None = None,
    index: int = 0,
) -> Axes:
    """A map over the greyed photograph: the larger |map|, the more opaque its red or blue.

    ``photo`` is as in `image`; the map, which may be torch.bool, and the rest as in `heatmap`.

    Raises:
        KlrpError: as `image` and `heatmap`, and for a map and a photograph of different size.

    Example:
        >>> ax = overlay(torch.rand(3, 32, 32), torch.randn(3, 32, 32), channels="sum")
    """
    photo = as_picture(photo, "photo")
    map = as_map(map, channels, index).to(torch.float64)
    if photo.shape[:2] != map.shape:
        raise KlrpError.value(
            f"map: got height and width {tuple(map.shape)}; expected those of the photograph, "
            f"{tuple(photo.shape[:2])}. Resize the photograph to what the network saw."
        )
    grey = photo if photo.ndim == 2 else photo @ photo.new_tensor([0.299, 0.587, 0.114])
    strength = (map / limit_of(map, limit)).clamp(-1, 1)[..., None]
    blue, red = (torch.tensor(to_rgb(c), dtype=torch.float64) for c in ("#2166ac", "#b2182b"))
    opacity = 0.85 * strength.abs()
    paper = 0.35 + 0.65 * grey[..., None]
    blend = opacity * torch.where(strength < 0, blue, red) + (1 - opacity) * paper
    return _frame(blend.clamp(0, 1).numpy(), ax, title, alt)


def _draw(
    map: Tensor,
    scale: Normalize,
    colours: Colormap,
    ax: Axes | None,
    title: str | None,
    alt: str | None,
    colorbar: bool,
) -> Axes:
    numbers = np.ma.masked_invalid(map.numpy())
    ax = _frame(numbers, ax, title, alt, cmap=colours, norm=scale)
    if colorbar:
        scale_beside(ax, ax)
    return ax


def scale_beside(drawn: Axes, beside: Any) -> None:
    """The scale of what was drawn, beside these axes."""
    colours, ticks = drawn.images[-1], None
    if isinstance(colours.norm, SymLogNorm):
        low, high = math.log10(colours.norm.linthresh), math.log10(colours.norm.vmax)
        ticks = [0.0, *10.0 ** np.arange(math.ceil(low), high, 2 if high - low > 3 else 1)]
    bar = drawn.figure.colorbar(colours, ax=beside, ticks=ticks, fraction=0.046, pad=0.04, aspect=25)
    bar.outline.set(color="#b0b0b0", linewidth=0.6)
    bar.ax.tick_params(labelsize=8, color="#b0b0b0")


def _frame(pixels: np.ndarray, ax: Axes | None, title: str | None, alt: str | None, **colouring: Any) -> Axes:
    """Pixels in a thin grey frame, without ticks."""
    if ax is None:
        _, ax = plt.subplots(figsize=(2.6, 2.8), layout="constrained")
    # Colours, not numbers, are averaged where pixels are smaller than those of the screen.
    ax.imshow(pixels, interpolation="antialiased", interpolation_stage="rgba", **colouring)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="#b0b0b0", linewidth=0.6)
    caption(ax, title, alt)
    return ax


def ink_on(red: float, green: float, blue: float) -> str:
    """Black or white, whichever has the larger contrast (WCAG 2.2) on a colour in [0, 1]; that is 4.58 at least."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#fff"


def caption(ax: Axes, title: str | None, alt: str | None) -> None:
    ax.set_title(title or "", fontsize=10, pad=4)
    ax.set_label(alt or title or "")
