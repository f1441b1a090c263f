"""Lines with shaded bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from klrp.errors import KlrpError
from klrp.plot.maps import caption

# Told apart without one kind of cones too (by 15 in CIE Lab), and from white paper: see tests/project/test_colours.py.
COLOURS = ("#0072b2", "#d55e00", "#4b1e1e", "#9600ff", "#b47869", "#1e0087", "#872d0f", "#5a5a69")


def curves(
    xs: Any,
    ys: Mapping[str, Any],
    ax: Axes | None = None,
    *,
    bands: Mapping[str, tuple[Any, Any]] | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str | None = None,
    alt: str | None = None,
    legend: bool = True,
) -> Axes:
    """Lines over ``xs`` [s], one for each label of ``ys``, with a shaded band where there is one.

    ``ys[label]`` is [s], or [r, s] for r repetitions: their mean is drawn, and the band reaches from the
    smallest to the largest. ``bands[label]`` is a pair (low, high) of [s], used instead.

    Raises:
        KlrpError: no lines, or one that is not as long as ``xs``.

    Example:
        >>> ax = curves(range(5), {"three seeds": torch.rand(3, 5)}, xlabel="step")
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    xs, bands = torch.as_tensor(xs).double(), dict(bands or {})
    if not ys:
        raise KlrpError.value("ys: got no lines; expected {label: numbers}, at least one.")
    for number, (label, values) in enumerate(ys.items()):
        values = _numbers(values)
        if values.ndim not in (1, 2) or values.shape[-1:] != xs.shape or not len(values):
            raise KlrpError.value(
                f"ys: {label!r} has shape {tuple(values.shape)}; expected [s] or [r, s] with s = {len(xs)}, "
                "the number of xs."
            )
        _draw(ax, xs, values, number, label, bands.get(label))
    ax.set(xlabel=xlabel or "", ylabel=ylabel or "")
    ax.tick_params(labelsize=8)
    ax.grid(color="#e0e0e0", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    if legend and len(ys) > 1:
        ax.legend(fontsize=8, frameon=False)
    caption(ax, title, alt)
    return ax


def _draw(ax: Axes, xs: Tensor, values: Tensor, number: int, label: str, band: tuple[Any, Any] | None) -> None:
    """A line, or the mean of several, with its band."""
    if values.ndim == 2:
        band = (values.amin(0), values.amax(0)) if band is None else band
        values = values.mean(0)
    n = len(COLOURS)  # then again with dashes
    style = dict(color=COLOURS[number % n], linestyle="-" if number < n else "--", linewidth=1.4)
    ax.plot(xs.numpy(), values.numpy(), label=label, **style)
    if band is not None:
        low, high = map(_numbers, band)
        ax.fill_between(xs.numpy(), low, high, color=style["color"], alpha=0.18, linewidth=0)


def _numbers(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().cpu().double()
