"""Paths through a network of images, drawn over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.pyplot import get_cmap

from klrp.errors import KlrpError
from klrp.plot.maps import caption
from klrp.plot.maps import image as draw_image
from klrp.plot.values import as_picture


def path(
    paths: Any, relevance: Any, image: Any, ax: Axes | None = None, *, title: str | None = None, alt: str | None = None
) -> Axes:
    """The places that paths go through, on the picture: the cell of each layer's neuron, and a line through the cells.

    A neuron [channel, y, x] of a map with h rows and w columns has the cell that is the picture's share of it, one h-th of
    its height and one w-th of its width. What the neuron sees is larger. Cells of upper layers are yellow, those of lower
    ones violet; the cross is the pixel at which the path arrives.

    Args:
        paths: one of klrp.paths.best or klrp.paths.sample, or several; neurons without a place are left out.
        relevance: what they were found in, which knows the sizes of the maps.
        image: [3, H, W] or [1, H, W], as in `image`.
        alt: by default the layers with their places.

    Raises:
        KlrpError: where no neuron of a path has a place.

    Example:
        >>> ax = path(klrp.paths.best(relevance), relevance, photo.image)
    """
    several = list(paths) if isinstance(paths, Sequence) else [paths]
    height, width = as_picture(image, "image").shape[:2]
    ax = draw_image(image, ax)
    told = []
    for number, one in enumerate(several):
        places = [(name, index[1:], relevance[name].shape[2:4]) for name, index in one.layers if len(index) == 3]
        if not places:
            raise KlrpError.value("paths: none of the neurons has a place [channel, y, x]; draw klrp.plot.network.")
        cells = [
            (x * width / columns, y * height / rows, width / columns, height / rows)
            for _, (y, x), (rows, columns) in places
        ]
        colours = [to_hex(get_cmap("plasma")(1 - i / max(1, len(cells) - 1))) for i in range(len(cells))]
        middles = [(x + w / 2 - 0.5, y + h / 2 - 0.5) for x, y, w, h in cells]
        ax.plot(*zip(*middles, strict=True), color="white", linewidth=0.8, alpha=0.8)
        for (x, y, w, h), colour in zip(cells, colours, strict=True):
            box = dict(fill=False, edgecolor=colour, linewidth=1.4)
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, **box))
        ax.plot(*middles[-1], "+", color="white", markersize=9, markeredgewidth=1.6)
        if number == 0:
            told = [f"{name} at row {y} of {rows}, column {x} of {columns}" for name, (y, x), (rows, columns) in places]
    more = f"; {len(several)} paths in all" if len(several) > 1 else ""
    caption(ax, title, alt or f"{title or 'A path'} over the picture, from above: {'; '.join(told)}{more}.")
    return ax
