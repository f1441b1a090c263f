"""Pictures of relevance: heat maps, panels, overlays on photographs, and their alternative text.

What draws on axes takes ``ax`` and returns it; without ``ax`` it opens a pyplot figure, as
matplotlib's own functions do. `panel` returns a figure that pyplot does not keep, `show` a rendered
picture, so either appears once where it is the last line of a cell. matplotlib's settings stay.

A *map* is a tensor ``[H, W]`` or ``[C, H, W]``, or a Relevance, of which the input's map of one
sample is drawn. Red speaks for the class, blue against it, and zero is white in every picture.
"""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from klrp.plot.lines import curves
from klrp.plot.maps import POSITIVE, SIGNED, TWO, boolean, count, heatmap, image, overlay
from klrp.plot.networks import network
from klrp.plot.paths import path
from klrp.plot.pictures import Picture, data_url, img_tag, panel, png, show
from klrp.plot.texts import Sentences, word_table, words
from klrp.plot.values import join_channels

__all__ = [
    "Axes", "Figure", "POSITIVE", "Picture", "SIGNED", "Sentences", "TWO", "boolean", "count", "curves", "data_url", "heatmap",
    "image", "img_tag", "join_channels", "network", "overlay", "panel", "path", "plt", "png", "show",
    "word_table", "words",
]  # fmt: skip
