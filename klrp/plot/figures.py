"""Figures of several axes, lines, and pictures that carry their alternative text."""

from __future__ import annotations

import base64
import html
import io
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from klrp.errors import KlrpError
from klrp.plot.maps import _as_map, _bar, _caption, _limit, boolean, count, heatmap, image


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
        values = torch.as_tensor(values).detach().cpu().double()
        if values.ndim not in (1, 2) or values.shape[-1:] != xs.shape or not len(values):
            raise KlrpError.value(
                f"ys: {label!r} has shape {tuple(values.shape)}; expected [s] or [r, s] with s = {len(xs)}, "
                "the number of xs."
            )
        if values.ndim == 2:
            bands.setdefault(label, (values.amin(0), values.amax(0)))
            values = values.mean(0)
        # Ten colours, then again with dashes.
        style = dict(color=f"C{number % 10}", linestyle="-" if number < 10 else "--", linewidth=1.4)
        ax.plot(xs.numpy(), values.numpy(), label=label, **style)
        if label in bands:
            low, high = (torch.as_tensor(end).detach().cpu().double() for end in bands[label])
            ax.fill_between(xs.numpy(), low, high, color=style["color"], alpha=0.18, linewidth=0)
    ax.set(xlabel=xlabel or "", ylabel=ylabel or "")
    ax.tick_params(labelsize=8)
    ax.grid(color="#e0e0e0", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    if legend and len(ys) > 1:
        ax.legend(fontsize=8, frameon=False)
    _caption(ax, title, alt)
    return ax


def panel(
    maps: Sequence[Any],
    titles: Sequence[str],
    *,
    columns: int | None = None,
    suptitle: str | None = None,
    share_scale: bool = False,
    alts: Sequence[str] | None = None,
    channels: str | None = None,
    log: bool = False,
    colorbar: bool = False,
    index: int = 0,
    width: float | None = None,
) -> Figure:
    """Maps side by side: torch.bool in two colours, the others as heat maps.

    Args:
        maps: n maps, as in `heatmap`; photographs of klrp.data.photo; or functions that draw on axes:
            ``lambda ax: plot.image(x, ax)``.
        titles, alts: n of them; the alternative texts are the titles by default.
        columns: how many maps stand in a row, by default at most five.
        share_scale: one limit, the largest, for all heat maps; by default each map has its own.
        log: maps without negative values on the logarithmic scale of `count`.
        colorbar: a scale beside each heat map, or a single one with ``share_scale``.
        width: of the figure in inches; a page of the book has 7. By default it grows with the columns.

    Raises:
        KlrpError: no maps, unequal numbers of maps, titles or alts, and as `heatmap`.

    Example:
        >>> figure = panel([torch.randn(8, 8), torch.rand(8, 8) > 0.5], ["signed", "Boolean"])
    """
    alts = titles if alts is None else alts
    if not len(maps) == len(titles) == len(alts) > 0:
        raise KlrpError.value(
            f"maps, titles, alts: got {len(maps)}, {len(titles)} and {len(alts)} of them; expected "
            "the same number of each, at least one. Give every map one title."
        )
    items = [partial(image, m) if hasattr(m, "image") else m for m in maps]
    items = [m if callable(m) else _as_map(m, channels, index) for m in items]
    tensors = [m for m in items if torch.is_tensor(m)]
    shared = max((_limit(m) for m in tensors if m.dtype != torch.bool), default=None)
    each = dict(limit=shared if share_scale else None, colorbar=colorbar and not share_scale)

    columns = min(len(items), max(columns or 5, 1))
    rows = math.ceil(len(items) / columns)
    tall = max((m.shape[0] / m.shape[1] for m in tensors), default=1.0)
    side = 2.1  # inches of one map
    beside = 0.5 if each["colorbar"] else 0.0
    if width is not None:
        side = max(width / columns - beside, 0.3)
    size = (columns * (side + beside), rows * (side * min(tall, 3.0) + 0.2))
    figure = _SelfShowing(size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    scaled = []
    for ax, item, title, alt in zip(axes, items, titles, alts, strict=False):
        if callable(item):
            item(ax)
            _caption(ax, title, alt)
        elif item.dtype == torch.bool:
            boolean(item, ax, title=title, alt=alt)
        else:
            draw = partial(count, log=True) if log and (item >= 0).all() else heatmap
            scaled.append(draw(item, ax, title=title, alt=alt, **each))
    for ax in axes[len(items) :]:
        ax.set_axis_off()
    if colorbar and share_scale and scaled:
        _bar(scaled[0], axes)
    if suptitle:
        figure.suptitle(suptitle, fontsize=11)
    figure.set_label("; ".join(filter(None, [suptitle, *alts])))
    return figure


@dataclass(frozen=True)
class Picture:
    """What notebooks and the built book display, as `show` and `klrp.widgets.frames` make it.

    ``html`` is shown by the built book and by Jupyter, and carries the alternative text ``alt``;
    ``png`` is for viewers without HTML, and ``text`` stands for both in plain text.
    """

    text: str
    alt: str = field(repr=False)
    png: bytes = field(repr=False)
    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html

    def _repr_png_(self) -> bytes:
        return self.png

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        data = {"text/html": self.html, "text/plain": self.text}
        data["image/png"] = base64.b64encode(self.png).decode()
        return data, {"image/png": {"alt": self.alt}}


class _SelfShowing(Figure):
    """A figure outside pyplot that a notebook displays as `show` does."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        return show(self)._repr_mimebundle_()


def show(figure: Figure | Axes, alt: str | None = None, *, dpi: int = 100) -> Picture:
    """The figure, rendered and closed, as a picture with alternative text for notebooks.

    ``alt`` is what somebody who cannot see the figure should know; by default the label that
    `panel` gave the figure, or the alternative texts of its axes.

    Raises:
        KlrpError: where there is no alternative text, or ``figure`` is neither a figure nor axes.

    Example:
        >>> show(heatmap(torch.eye(8)), "A red diagonal on white.")
        Picture(text='A red diagonal on white.')
    """
    figure = figure.figure if isinstance(figure, Axes) else figure
    pixels = png(figure, dpi=dpi)
    labels = [label for ax in figure.axes if not (label := ax.get_label()).startswith("<")]
    alt = (alt or figure.get_label() or "; ".join(filter(None, labels))).strip()
    if not alt:
        raise KlrpError.value(
            "alt: got no text; expected a sentence for those who cannot see the figure. Say what "
            "it shows: show(figure, 'The relevant pixels trace the digit.')."
        )
    return Picture(alt, alt, pixels, img_tag(pixels, alt))


def png(figure: Figure, *, dpi: int = 100) -> bytes:
    """The figure as a small PNG: equal pixels give equal bytes. pyplot's copy of it is closed.

    Raises:
        KlrpError: where ``figure`` is not a matplotlib figure.

    Example:
        >>> png(panel([torch.eye(8)], ["identity"]))[:4]
        b'\\x89PNG'
    """
    if not isinstance(figure, Figure):
        raise KlrpError.type(
            f"figure: got {type(figure).__name__}; expected a matplotlib Figure. Pass what panel "
            "returned, or ax.figure."
        )
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)
    return out.getvalue()


def img_tag(png: bytes, alt: str) -> str:
    """An HTML image with the PNG inside, on white, never wider than the page.

    Example:
        >>> img_tag(png(panel([torch.eye(8)], ["identity"])), "A diagonal")[:65]
        '<img class="dark-light" width="210" height="230" alt="A diagonal"'
    """
    width, height = struct.unpack(">II", png[16:24])
    # dark-light: the book's theme leaves the colours of such images alone on dark pages.
    return (
        f'<img class="dark-light" width="{width}" height="{height}" alt="{html.escape(alt)}" '
        f'src="{data_url(png)}" '
        'style="display:block;max-width:100%;height:auto;background:#fff;padding:0">'
    )


def data_url(png: bytes) -> str:
    """The PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
