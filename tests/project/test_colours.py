"""The colours of the book's pictures can be told apart, by readers who see fewer of them as well, and texts on them be read.

How colours look without one kind of cones is computed after Machado, Oliveira and Fernandes, "A physiologically-based
model for simulation of color vision deficiency", IEEE Transactions on Visualization and Computer Graphics 15(6), 2009,
at full severity; their matrices act on linear RGB. Distances are those of CIE L*a*b* (1976): about 2 can just be seen
side by side. Contrasts are those of WCAG 2.2.
"""

import re
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch

from klrp import plot
from klrp.plot import networks

SIGHT = {
    "all colours": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
each_sight = pytest.mark.parametrize("sight", SIGHT.values(), ids=SIGHT)
SCALE = np.linspace(0, 1, 257)
LEVELS = SCALE[::32]  # nine levels of a scale, as far apart as a legend could name them


def linear(rgb):
    rgb = np.asarray(rgb, float)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb, sight):
    """Colours [n, 3] in [0, 1], as seen: L*, a*, b*."""
    xyz = np.clip(linear(rgb) @ np.transpose(sight), 0, 1) @ XYZ.T / XYZ.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def distances(first, second):
    return np.linalg.norm(first - second, axis=1)


def contrast(one, other):
    dark, bright = sorted(linear(to_rgb(colour)) @ XYZ[1] for colour in (one, other))
    return (bright + 0.05) / (dark + 0.05)


# -------------------------------------------------------------------- maps


def signed(sight):
    """The blue and the red half of the signed scale, each from white outwards."""
    colours = lab(plot.SIGNED(SCALE)[:, :3], sight)
    return colours[128::-1], colours[128:]


@each_sight
def test_the_larger_the_darker(sight):
    for half in (*signed(sight), lab(plot.POSITIVE(SCALE)[:, :3], sight)):
        assert (np.diff(half[:, 0]) < 0).all()
        assert half[0, 0] > 99 and half[-1, 0] < 30


@each_sight
def test_neighbouring_levels_differ(sight):
    """By 10 at least on the scale of counts, and by 7 on each half of the signed one."""
    count = lab(plot.POSITIVE(LEVELS)[:, :3], sight)
    assert distances(count[1:], count[:-1]).min() >= 10
    for half in signed(sight):
        assert distances(half[16::16], half[:-1:16]).min() >= 7


@each_sight
def test_for_and_against_differ(sight):
    """From an eighth of the scale on: red differs from the blue of the same size by more than neighbouring levels do."""
    blue, red = signed(sight)
    assert distances(blue[16::16], red[16::16]).min() >= 11
    assert distances(blue[32::16], red[32::16]).min() >= 24


@each_sight
def test_both_values_of_a_boolean_map_differ(sight):
    assert distances(*(lab([colour[:3]], sight) for colour in plot.TWO([0, 1]))).min() >= 50


@each_sight
def test_what_is_infinite_differs_from_what_is_large(sight):
    grey = lab([plot.SIGNED.get_bad()[:3]], sight)
    for half in signed(sight):
        assert distances(half[64:], grey).min() >= 15


# -------------------------------------------------------------------- lines


def test_lines_differ():
    """Lines of one kind, each from each other, by 15 at least, and from the paper by a contrast of 3."""
    ax = plot.curves(range(3), {f"{i}": torch.rand(3) for i in range(8)})
    colours = [to_rgb(line.get_color()) for line in ax.get_lines()]
    plt.close(ax.figure)
    assert min(contrast(colour, "white") for colour in colours) >= 3
    for sight in SIGHT.values():
        assert min(distances(lab([a], sight), lab([b], sight))[0] for a, b in combinations(colours, 2)) >= 15


# -------------------------------------------------------------------- texts


def test_coloured_words_can_be_read():
    drawn = plot.words(torch.linspace(-1, 1, 257), [f"w{i}" for i in range(257)], limit=1.0)
    styles = re.findall(r"background:rgb\((\d+),(\d+),(\d+)\);color:(#\w+)", drawn.html)
    assert len(styles) == 257
    assert min(contrast(np.array(ground, float) / 255, ink) for *ground, ink in styles) >= 4.5


def test_values_in_the_boxes_of_a_network_can_be_read():
    grounds = []
    for values in np.array_split(np.linspace(-1, 1, 129), 5):
        ax = plot.network([values.tolist(), [1.0]])
        boxes = [box.get_facecolor()[:3] for box in ax.findobj(FancyBboxPatch)]
        inks = [text.get_color() for text in ax.texts if text.get_zorder() == 6]
        grounds += zip(boxes, inks, strict=False)
        plt.close(ax.figure)
    assert len(grounds) >= 129 and min(contrast(*pair) for pair in grounds) >= 4.5


def test_labels_on_paper_can_be_read():
    for ink in (networks._RED, networks._BLUE, networks._INK):
        assert contrast(ink, "white") >= 4.5


def test_the_distances_are_those_of_the_standard():
    """L*, a*, b* of pure sRGB colours, and black on white."""
    known = {"red": (53.24, 80.09, 67.20), "lime": (87.73, -86.18, 83.18), "blue": (32.30, 79.19, -107.86)}
    for name, value in known.items():
        np.testing.assert_allclose(lab([to_rgb(name)], np.eye(3))[0], value, atol=0.05)
    assert abs(contrast("black", "white") - 21) < 1e-4
    for matrix in SIGHT.values():  # white stays white
        np.testing.assert_allclose(np.sum(matrix, 1), 1, atol=2e-6)
