"""Rendered pictures with their alternative text, and maps side by side."""

from __future__ import annotations

import base64
import html
import io
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from klrp.errors import KlrpError
from klrp.plot.maps import boolean, caption, count, heatmap, image, scale_beside
from klrp.plot.values import as_map, limit_of

LEVELS = 8  # of 255: as far as a colour may move in a picture with a palette


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
    items = [m if callable(m) else as_map(m, channels, index) for m in items]
    tensors = [m for m in items if torch.is_tensor(m)]
    shared = max((limit_of(m) for m in tensors if m.dtype != torch.bool), default=None)
    each = dict(limit=shared if share_scale else None, colorbar=colorbar and not share_scale)
    figure, axes = _empty(len(items), columns, tensors, width, 0.5 if each["colorbar"] else 0.0)
    drawn = zip(axes, items, titles, alts, strict=False)
    scaled = [ax for ax, *item in drawn if _fill(ax, *item, log, each)]
    if colorbar and share_scale and scaled:
        scale_beside(scaled[0], axes)
    if suptitle:
        figure.suptitle(suptitle, fontsize=11)
    figure.set_label("; ".join(filter(None, [suptitle, *alts])))
    return figure


def _empty(
    n: int, columns: int | None, maps: list[Tensor], width: float | None, beside: float
) -> tuple[Figure, np.ndarray]:
    """A figure with axes for n maps, ``beside`` inches between them; without ``width`` a map has 2.1 inches."""
    columns = min(n, max(columns or 5, 1))
    rows = math.ceil(n / columns)
    tall = max((m.shape[0] / m.shape[1] for m in maps), default=1.0)
    side = 2.1 if width is None else max(width / columns - beside, 0.3)
    size = (columns * (side + beside), rows * (side * min(tall, 3.0) + 0.2))
    figure = _SelfShowing(size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[n:]:
        ax.set_axis_off()
    return figure, axes


def _fill(ax: Axes, item: Any, title: str, alt: str, log: bool, each: dict) -> bool:
    """Draw one map; whether it has a scale."""
    if callable(item):
        item(ax)
        caption(ax, title, alt)
    elif item.dtype == torch.bool:
        boolean(item, ax, title=title, alt=alt)
    else:
        draw = partial(count, log=True) if log and (item >= 0).all() else heatmap
        draw(item, ax, title=title, alt=alt, **each)
        return True
    return False


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

    It has at most 256 colours where none has to move by more than 8 of 255 for that, and white stays white.

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
    drawn, out = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    plt.close(figure)
    _few_colours(Image.open(drawn)).save(out, "PNG", optimize=True)  # nothing but pixels: no date, no version
    return out.getvalue()


def _few_colours(picture: Image.Image) -> Image.Image:
    """With a palette, which halves a PNG, where no colour moves visibly by it and white stays white."""
    if picture.getextrema()[-1] != (255, 255):  # a transparent one keeps its alpha
        return picture
    full = picture.convert("RGB")
    few = full.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    before, after = (np.asarray(p.convert("RGB"), dtype=np.int16) for p in (full, few))
    white = (before == 255).all(-1)
    kept = abs(before - after).max() <= LEVELS and (after[white] == 255).all()
    return few if kept else full


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
