"""Small networks, drawn as neurons and edges, with what stands at them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch, FancyBboxPatch
from matplotlib.transforms import ScaledTranslation
from torch import Tensor

from klrp.errors import KlrpError
from klrp.plot.maps import SIGNED, caption, ink_on
from klrp.plot.values import check_index

LARGEST = 40  # neurons whose values can still be read
LABELLED = 16  # edges between two layers whose labels can still be read
_RED, _BLUE, _GREY, _INK = "#b2182b", "#2166ac", "#b8b8b8", "#606060"
_PAD, _LEAST = 0.06, 0.2  # inches between a text and its box; of the text at least


class _Mark(NamedTuple):
    """What is written at a neuron or an edge, and how much it is: red above 0, blue below, grey at 0."""

    text: str
    size: float


def network(
    neurons: Any, edges: Any = None, ax: Axes | None = None, *,
    texts: Any = None, labels: Any = True, paths: Sequence[Sequence[int]] | None = None,
    names: Sequence[str | Sequence[str]] | None = None, form: Callable[[Any], str] | None = None,
    title: str | None = None, alt: str | None = None, index: int = 0,
) -> Axes:  # fmt: skip
    """A network of fully connected layers, inputs left: its neurons are boxes, its edges lines.

    Red is positive or true, blue negative, and grey is nothing: 0, ⊥, the zero of a semiring, an empty text. The larger a
    number is beside the others, the deeper is its box, or the wider its line.

    Args:
        neurons: a Relevance: each neuron gets its relevance, each edge what flows on it, ``relevance.edges``. Where the
            scores of its semiring are logarithms, colours and widths tell exp(score). Or the layers, inputs first: each
            a list or tensor of numbers, truth values, texts, or None; or the number of its neurons.
        edges: ``w[j][k]`` for each layer but the last, from its neuron j to neuron k of the next: of nn.Linear it is
            ``weight.T``. None is no edge. With a Relevance, they stand in place of what flows.
        texts, labels: what is written in the boxes, and at the edges, in place of their values and in the same form. Edges
            of nothing are not labelled, nor are layers with more than 16 edges, unless ``labels`` are given; False
            writes none.
        paths: each one neuron for each layer, inputs first. What lies on none of them becomes grey.
        names: a letter for each layer, or the names of its neurons; by default x, h and y.
        form: the text of a value; of a Relevance it is given elements of the semiring.
        title, alt: above the network, and for those who cannot see it; ``alt`` is by default all that is written.
        index: which sample of a Relevance.

    Raises:
        KlrpError: more than 40 neurons, lists that do not fit to each other, NaN, or the Relevance of a network with
            other layers.

    Example:
        >>> ax = network([[1, 0.05], 3, 2], [w1, w2], title="weights")
        >>> ax = network(klrp.explain(model, x, semiring="viterbi"), paths=[(0, 1, 0)])
    """
    if hasattr(neurons, "semiring"):
        layers, flows = _explained(neurons, form, index)
    else:
        layers, flows = _given(neurons, form), None
    sizes = _checked([len(layer) for layer in layers])
    pairs = [[[None] * k] * j for j, k in pairwise(sizes)]
    if edges is not None or flows is None:
        given = _each(lambda _: "", pairs) if edges is None else _fitting("edges", edges, pairs)
        flows = _each(lambda v: v if v is None else _mark(v, form), given)
    flows = _labelled(flows, labels, form)
    if texts is not None:
        layers = _each(lambda m, v: _Mark(_text(v, form), m.size), layers, _fitting("texts", texts, layers))
    layers, flows = _on_paths(layers, flows, paths)
    called = _names(names, layers)
    if ax is None:
        wide, high = 1.2 + 2.0 * (len(sizes) - 1), 0.4 + 0.8 * max(sizes)
        _, ax = plt.subplots(figsize=(min(wide, 7.0), min(high, 7.0)), layout="constrained")
    _draw(ax, called, layers, flows)
    caption(ax, title, alt or _described(title, called, layers, flows, paths))
    return ax


# ------------------------------------------------------------------ what stands at neurons and edges


def _given(neurons: Any, form: Callable[[Any], str] | None) -> list:
    """The marks of the layers."""
    layers = [_listed([None] * n if isinstance(n, int) else n) for n in neurons]
    if not all(isinstance(layer, list) for layer in layers):
        raise KlrpError.type(f"neurons: got {neurons!r}; expected a Relevance, or a list of layers, inputs first.")
    return _each(lambda v: _mark(v, form), layers)


def _explained(relevance: Any, form: Callable[[Any], str] | None, index: int) -> tuple[list, list]:
    """The marks of the layers, and of what flows between them."""
    semiring, layers, flows = relevance.semiring, [], []
    check_index(relevance, index)
    for name, r in relevance.items():
        _checked([r[index].numel() // math.prod(semiring.shape)])
        try:
            flows = [relevance.edges(name)[index], *flows]
        except KlrpError as error:  # a step without weights
            refused = error
        else:
            layers = [r[index], *layers]
    layers = [r.reshape(-1, *semiring.shape) for r in (relevance.input[index], *layers)]
    if not flows or not all(map(partial(_joins, semiring), layers, flows, layers[1:])):
        raise KlrpError.value(
            "neurons: got a Relevance without the edges of fully connected layers, one after the other; expected those of "
            'all its layers. Explain such a network with keep="all", and draw it before its Relevance is stored; or give '
            "layers and edges as lists."
        ) from refused
    return _marks(semiring, layers, form), _marks(semiring, [flow.transpose(0, 1) for flow in flows], form)


def _joins(semiring: Any, low: Tensor, flow: Tensor, high: Tensor) -> bool:
    """Whether these are all the edges between two layers: then the ⊕ of what flows is the relevance below."""
    if flow.shape[:2] != high.shape[:1] + low.shape[:1] or flow.shape[2:] != semiring.shape:
        return False
    found, given = semiring.sum(flow, 0).double(), low.double()
    size = given[given.isfinite()].abs().sum()
    return torch.allclose(found, given, rtol=1e-3, atol=1e-4 * float(size))


def _marks(semiring: Any, tensors: list[Tensor], form: Callable[[Any], str] | None) -> list:
    """The marks of elements of a semiring, as lists in lists."""
    tensors = [t.detach().cpu() for t in tensors]
    amounts = scores = [semiring.score(t).double() for t in tensors]
    if semiring.logarithmic:
        top = max(float(s.max()) for s in scores)
        amounts = [(s - top).exp() for s in scores]
    # What is not zero has a colour, however little it is.
    amounts = [torch.where(a == 0, 1e-300, a) for a in amounts]
    amounts = [torch.where(semiring.is_zero(t), 0.0, a) for t, a in zip(tensors, amounts, strict=True)]
    written = scores if semiring.shape and form is None else tensors
    if semiring.logarithmic and not semiring.shape:
        written = [t.round(decimals=6) for t in written]  # what follows is rounding: log 1 is seldom just 0
    elements = [_elements(t, s.ndim) for t, s in zip(written, scores, strict=True)]
    return _each(lambda e, a: _Mark(_text(e, form), a), elements, _listed(amounts))


def _elements(t: Tensor, depth: int) -> Any:
    """The elements in lists of this depth, as Python numbers where they have no axes."""
    return [_elements(row, depth - 1) for row in t] if depth else t if t.ndim else t.item()


def _mark(value: Any, form: Callable[[Any], str] | None) -> _Mark:
    if isinstance(value, float) and math.isnan(value):
        raise KlrpError.value("neurons, edges: got NaN; expected numbers, truth values, texts or None.")
    nothing = value is None or isinstance(value, str) and value in ("", "0", "⊥")
    return _Mark(_text(value, form), 0.0 if nothing else float(value) if isinstance(value, Real) else 1.0)


def _text(value: Any, form: Callable[[Any], str] | None) -> str:
    """Of a number three digits, two where it is below 0.1; whole numbers as they are."""
    if value is None or isinstance(value, str):
        return value or ""
    if form is not None:
        return form(value)
    if isinstance(value, bool):
        return "⊤" if value else "⊥"
    if not isinstance(value, int | float):
        return str(value)
    whole = abs(value) < 1e5 and value == round(value)
    text = f"{value + 0:.0f}" if whole else f"{value:.3g}" if abs(value) >= 0.1 else f"{value:.2g}"
    return text.replace("-", "\N{MINUS SIGN}").replace("inf", "∞")


def _labelled(flows: list, labels: Any, form: Callable[[Any], str] | None) -> list:
    """The edges with what is written at them."""
    if not isinstance(labels, bool):
        given = _fitting("labels", labels, flows)
        return _each(lambda m, v: m and _Mark(_text(v, form), m.size), flows, given)
    few = [labels and len(rows) * len(rows[0]) <= LABELLED for rows in flows]
    return [
        _each(lambda m, keep=keep: m and _Mark(m.text if keep and m.size else "", m.size), rows)
        for rows, keep in zip(flows, few, strict=True)
    ]


def _on_paths(layers: list, flows: list, paths: Sequence[Sequence[int]] | None) -> tuple[list, list]:
    """What lies on a path keeps its colour, or is red where nothing is written at it; the rest is grey."""
    if paths is None:
        return layers, flows
    sizes = [len(layer) for layer in layers]
    for path in paths:
        if len(path) != len(sizes) or not all(0 <= i < n for i, n in zip(path, sizes, strict=True)):
            raise KlrpError.value(f"paths: got {path}; expected one neuron of each layer, of {sizes}, counted from 0.")

    def kept(mark: _Mark | None, on: bool) -> _Mark | None:
        return mark and _Mark(mark.text, (mark.size or float(not mark.text)) if on else 0.0)

    met = [{path[level] for path in paths} for level in range(len(sizes))]
    used = [{(path[level], path[level + 1]) for path in paths} for level in range(len(flows))]
    layers = [[kept(m, i in on) for i, m in enumerate(layer)] for layer, on in zip(layers, met, strict=True)]
    flows = [
        [[kept(m, (j, k) in on) for k, m in enumerate(row)] for j, row in enumerate(rows)]
        for rows, on in zip(flows, used, strict=True)
    ]
    return layers, flows


# ------------------------------------------------------------------ lists in lists


def _listed(x: Any) -> Any:
    """Tensors, arrays and tuples as lists."""
    x = x.tolist() if hasattr(x, "tolist") else x
    return [_listed(y) for y in x] if isinstance(x, list | tuple) else x


def _each(change: Callable[..., Any], *trees: Any) -> Any:
    """A function of what lists hold at the same place."""
    if not isinstance(trees[0], list):
        return change(*trees)
    return [_each(change, *branches) for branches in zip(*trees, strict=True)]


def _lengths(tree: Any) -> Any:
    """How long lists in lists are."""
    if not isinstance(tree, list):
        return "no list"
    return [_lengths(branch) for branch in tree] if any(isinstance(b, list) for b in tree) else len(tree)


def _fitting(argument: str, given: Any, like: list) -> list:
    """What was given, as lists of the same lengths as ``like``."""
    found = _listed(given)
    if _lengths(found) != _lengths(like):
        raise KlrpError.value(
            f"{argument}: got lists of lengths {_lengths(found)}; expected {_lengths(like)}, inputs first."
        )
    return found


def _checked(sizes: list[int]) -> list[int]:
    if not sizes or 0 in sizes or sum(sizes) > LARGEST:
        raise KlrpError.value(
            f"neurons: got layers of {sizes}; expected at least one in each, and at most {LARGEST} in all, whose values "
            "can still be read."
        )
    return sizes


def _names(names: Any, layers: list) -> list[list[str]]:
    """The name of each neuron."""
    if names is None:
        hidden = ["h" + "'" * i for i in range(len(layers) - 2)]
        names = ["x", *hidden, "y"][: len(layers)]
    if len(names) != len(layers):
        raise KlrpError.value(f"names: got {len(names)}; expected {len(layers)}, one for each layer.")
    pairs = zip(names, layers, strict=True)
    written = [[f"${n}_{{{i + 1}}}$" for i in range(len(l))] if isinstance(n, str) else n for n, l in pairs]
    return _fitting("names", written, layers)


# ------------------------------------------------------------------ boxes and lines


def _draw(ax: Axes, names: list, layers: list, flows: list) -> None:
    """On axes where a layer is 1 wide and a neuron 1 high."""
    tall = max(map(len, layers))
    ax.set(xlim=(-0.14, len(layers) - 0.86), ylim=(0.1 - tall / 2, tall / 2 - 0.1))
    ax.set_axis_off()
    most = _most(layers)
    halves = [_boxes(ax, x, *both, most) for x, both in enumerate(zip(names, layers, strict=True))]
    most = _most(flows)
    for x, rows in enumerate(flows):
        n, m = len(rows), len(rows[0])
        t = 1 / (min(n, m) + 0.8)  # there, near the layer with more neurons, the labels are about equally far apart
        t = 1 - t if n < m else t
        for j, row in enumerate(rows):
            for k, mark in enumerate(row):
                if mark is not None:
                    heights = _height(j, len(rows)), _height(k, len(row))
                    _line(ax, x, heights, halves[x : x + 2], mark, most, t)


def _height(i: int, n: int) -> float:
    return (n - 1) / 2 - i


def _most(tree: Any) -> float:
    """The largest size that is finite, by which the others are measured."""
    if isinstance(tree, list):
        return max(map(_most, tree), default=1.0)
    return abs(tree.size) if tree and math.isfinite(tree.size) and tree.size else 1e-300


def _colour(size: float) -> str:
    return _RED if size > 0 else _BLUE if size < 0 else _GREY


def _boxes(ax: Axes, x: int, names: list[str], layer: list[_Mark], most: float) -> float:
    """The neurons of a layer in boxes of one size; half their width in inches."""
    texts = []
    for i, (name, mark) in enumerate(zip(names, layer, strict=True)):
        text = f"{name}\n{mark.text}" if mark.text else name
        texts.append(ax.text(x, _height(i, len(layer)), text, fontsize=10, ha="center", va="center", zorder=6))
    inch = ax.figure.dpi_scale_trans
    found = [t.get_window_extent().transformed(inch.inverted()) for t in texts]
    wide, high = (max(_LEAST, *sides) / 2 + _PAD for sides in ([f.width for f in found], [f.height for f in found]))
    for text, mark in zip(texts, layer, strict=True):
        share = max(-1.0, min(1.0, mark.size / most))
        # Where the scale of maps is as dark as the lines are, not where it ends.
        face = SIGNED(0.5 + 0.4 * share)
        text.set_color(ink_on(*face[:3]))
        place = inch + ScaledTranslation(*text.get_position(), ax.transData)
        style = dict(boxstyle="round,pad=0,rounding_size=0.06", transform=place, clip_on=False, zorder=5)
        box = FancyBboxPatch((-wide, -high), 2 * wide, 2 * high, facecolor=face, edgecolor=_colour(mark.size), **style)
        ax.add_artist(box)
    return wide


def _line(
    ax: Axes, x: int, heights: tuple[float, float], halves: list[float], mark: _Mark, most: float, t: float
) -> None:
    """From the right side of a box to the left side of the next, with the label at t of the way."""
    inch, (low, high), share = ax.figure.dpi_scale_trans, heights, min(1.0, abs(mark.size) / most)
    start, end = (ax.transData + ScaledTranslation(by, 0, inch) for by in (halves[0], -halves[1]))
    style = dict(color=_colour(mark.size), linewidth=0.8 + 2.4 * share, zorder=1 + share)
    line = ConnectionPatch((x, low), (x + 1, high), start, end, arrowstyle="-", shrinkA=0, shrinkB=0, **style)
    line.set_in_layout(False)
    ax.add_artist(line)
    if mark.text:
        place = ax.transData + ScaledTranslation((1 - t) * halves[0] - t * halves[1], 0, inch)
        at, ink = (x + t, (1 - t) * low + t * high), _colour(mark.size) if mark.size else _INK
        card = dict(boxstyle="square,pad=0.1", facecolor="white", edgecolor="none")
        ax.text(*at, mark.text, transform=place, color=ink, fontsize=9, ha="center", va="center", bbox=card, zorder=4)


# ------------------------------------------------------------------ in words


def _described(title: str | None, names: list, layers: list, flows: list, paths: Any) -> str:
    """What is written at neurons, at edges, and which edges are coloured."""
    called = [[_plain(n) for n in layer] for layer in names]
    *first, last = (str(len(layer)) for layer in layers)
    neurons = "; ".join(
        ", ".join(f"{n} {_plain(m.text)}".strip() for n, m in zip(*both, strict=True))
        for both in zip(called, layers, strict=True)
    )
    edges = [
        f"{called[x][j]} to {called[x + 1][k]} {_plain(m.text)}".strip() + ("" if m.size else " (grey)")
        for x, rows in enumerate(flows) for j, row in enumerate(rows) for k, m in enumerate(row)
        if m and (m.text or m.size)
    ]  # fmt: skip
    said = [_plain(title)] if title else []
    said += [f"A network of {', '.join(first)} and {last} neurons: {neurons}"]
    said += [f"Edges: {', '.join(edges)}"] if edges and len(edges) <= 2 * LABELLED else []
    said += ["Paths: " + "; ".join("–".join(map(list.__getitem__, called, p)) for p in paths)] if paths else []
    return ". ".join(said)


def _plain(text: str) -> str:
    """Without what only TeX reads."""
    return re.sub(r"[$_{}]|\\[a-z]+", "", text).replace("\n", " ")
