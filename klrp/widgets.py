"""Pictures that move: a slider that needs no kernel, and a live explorer for Jupyter.

`frames` is plain HTML with the pictures inside: it works wherever a page's own scripts run, and is
the picture that it starts with where they do not. `explorer` computes on every change of a control.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from klrp import plot
from klrp.errors import KlrpError

if TYPE_CHECKING:
    import ipywidgets

_WITH_THETA = ("boolean", "counting", "counting_int")
LARGEST = 2_000_000  # bytes of one slider; a page with a few of them still loads quickly

# The other pictures wait in an attribute: what strips scripts drops it and leaves the first one.
_MOVE = (
    "const card=this.closest('figure'),img=card.querySelector('img');"
    "if(!this.frames){this.frames=JSON.parse(this.dataset.frames);"
    "this.frames[+this.defaultValue].src=img.src}"
    "const f=this.frames[+this.value];img.src=f.src;img.alt=f.alt;"
    "this.setAttribute('aria-valuetext',f.label);card.querySelector('output').value=f.label"
)
_CARD = (
    "margin:0;padding:.5rem;box-sizing:border-box;max-width:100%;width:fit-content;"
    "background:#fff;color:#222;color-scheme:light;font:14px/1.4 sans-serif"
)
_ROW = "display:flex;gap:.6em;align-items:center;margin:0"


def frames(
    pictures: Sequence[Any],
    labels: Sequence[str],
    alts: Sequence[str],
    *,
    name: str = "θ",
    start: int = 0,
    dpi: int = 80,
) -> plot.Picture:
    """A slider over pictures that moves without a kernel, in the built book as in Jupyter.

    Args:
        pictures: n figures, which are rendered with ``dpi`` and closed, pictures of `plot.show`, or
            PNGs as bytes; best of equal size. Together at most 2 MB as text.
        labels: n short texts, the values of what the slider changes.
        alts: n alternative texts, one for each picture.
        name: what the slider changes; the label in front of it.
        start: the index of the picture shown first, and alone where scripts do not run.

    Raises:
        KlrpError: no pictures, unequal numbers, an empty alternative text, a start that is no
            index, a picture that is no PNG, more than 2 MB.

    Example:
        >>> thetas = [0.01, 0.02, 0.05]
        >>> figures = [plot.panel([torch.rand(9, 9) > t], ["relevant"]) for t in thetas]
        >>> frames(figures, thetas, [f"Pixels above {t}." for t in thetas])
        Picture(text='A slider over θ: 0.01, 0.02, 0.05. It starts with: Pixels above 0.01.')
    """
    labels, alts = [str(x) for x in labels], [str(x).strip() for x in alts]
    _check(len(pictures), labels, alts, start)
    pngs = [_as_png(p, i, dpi) for i, p in enumerate(pictures)]
    shown = [
        {"src": None if i == start else plot.data_url(png), "alt": alt, "label": label}
        for i, (png, alt, label) in enumerate(zip(pngs, alts, labels, strict=True))
    ]
    body = _slider(shown, start, name) + plot.img_tag(pngs[start], alts[start])
    digest = hashlib.sha256(body.encode()).hexdigest()[:12]
    card = f'<figure id="klrp-{digest}" style="{_CARD}">{body}</figure>'
    size = len(card.encode())
    if size > LARGEST:
        raise KlrpError.value(
            f"pictures: got {len(pngs)} that make {size / 1e6:.1f} MB; expected at most "
            f"{LARGEST / 1e6:.0f} MB. Give fewer or smaller ones, or lower dpi, now {dpi}."
        )
    text = f"A slider over {name}: {', '.join(labels)}. It starts with: {alts[start]}"
    return plot.Picture(text, alts[start], pngs[start], card)


def _check(n: int, labels: list[str], alts: list[str], start: int) -> None:
    if not n == len(labels) == len(alts) > 0:
        raise KlrpError.value(
            f"pictures, labels, alts: got {n}, {len(labels)} and {len(alts)} of them; expected the "
            "same number of each, at least one. Give every picture a label and an alternative text."
        )
    if "" in alts:
        raise KlrpError.value(
            f"alts: got no text for picture {alts.index('')}; expected a sentence for each. Say "
            "what it shows to those who cannot see it."
        )
    if not 0 <= start < n:
        raise KlrpError.value(f"start: got {start}; expected an index from 0 to {n - 1}.")


def _as_png(picture: Any, i: int, dpi: int) -> bytes:
    if hasattr(picture, "savefig"):
        return plot.png(picture, dpi=dpi)
    png = getattr(picture, "png", picture)
    if not (isinstance(png, bytes) and png.startswith(b"\x89PNG\r\n\x1a\n")):
        raise KlrpError.type(
            f"pictures: got {type(picture).__name__} at index {i}; expected a matplotlib figure, a "
            "picture of plot.show, or the bytes of a PNG."
        )
    return png


def _slider(shown: list[dict], start: int, name: str) -> str:
    """The labelled range input; it holds every picture but the first shown."""
    data = html.escape(json.dumps(shown, ensure_ascii=False, separators=(",", ":")))
    name, label = html.escape(name), html.escape(shown[start]["label"])
    # onkeydown: the arrow keys belong to the slider, not to the shortcuts of Jupyter or the book.
    return (
        f'<div style="{_ROW};padding-bottom:.4rem"><label style="{_ROW};flex:1">{name}'
        f'<input class="noprint" type="range" min="0" max="{len(shown) - 1}" value="{start}" '
        f'autocomplete="off" style="flex:1;min-width:6rem;max-width:20rem" '
        f'aria-label="{name}" aria-valuetext="{label}" onkeydown="event.stopPropagation()" '
        f'oninput="{_MOVE}" data-frames="{data}"></label>'
        f'<output aria-live="off">{label}</output></div>'
    )


def explorer(
    model: nn.Module,
    inputs: Tensor,
    *,
    classes: Sequence[str] | None = None,
    semirings: Sequence[Any] = ("real", "boolean", "counting", "viterbi"),
) -> ipywidgets.VBox:
    """A live explorer: choose sample, class, semiring and θ, and see the input's relevance.

    θ is the threshold on the shares of every layer, for the Boolean and the counting semirings; the
    others take their defaults. Without a kernel the output shows the first picture.

    Args:
        model: a network that `klrp.explain` takes.
        inputs: floats [N, H, W] or [N, C, H, W], N >= 1.
        classes: names of the logits, in their order; by default their numbers.
        semirings: names or klrp.Semirings that need no rule, at least one.

    Raises:
        KlrpError: no inputs, no semirings, not one name for each logit, and what `klrp.explain`
            refuses.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        >>> box = explorer(model, torch.rand(20, 1, 28, 28), semirings=["boolean", "viterbi"])
    """
    import ipywidgets as w

    from klrp.explain import explain
    from klrp.semirings import find_semiring

    for argument, value in {"inputs": inputs, "semirings": semirings}.items():
        if len(value) == 0:
            raise KlrpError.value(f"{argument}: got none; expected at least one to explore.")
    found = [find_semiring(s) for s in semirings]
    logits = explain(model, inputs[:1], semiring=found[0], keep="input").logits.shape[1]
    names = [str(c) for c in (range(logits) if classes is None else classes)]
    if len(names) != logits:
        raise KlrpError.value(f"classes: got {len(names)} names; expected {logits}, one for each of the logits.")
    controls, output = _controls(len(inputs), names, found), w.HTML()

    def draw(_change: Any) -> None:
        try:
            output.value = _explained(model, inputs, names, *controls)._repr_html_()
        except KlrpError as error:
            output.value = f'<p role="alert">{html.escape(str(error))}</p>'

    still = _explained(model, inputs, names, *controls)
    output.value = still._repr_html_()
    for c in controls:
        c.observe(draw, "value")

    class Explorer(w.VBox):
        def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> tuple[dict, dict]:
            data, metadata = still._repr_mimebundle_()
            return super()._repr_mimebundle_(*args, **kwargs) | data, metadata

    return Explorer([*controls, output])


def _controls(samples: int, names: list[str], semirings: list[Any]) -> list[Any]:
    """Those of sample, class, semiring and θ."""
    import ipywidgets as w

    classes = [("top logit", -1), *((name, i) for i, name in enumerate(names))]
    kinds = [(s.name, s) for s in semirings]
    late, each = dict(continuous_update=False), dict(style={"description_width": "5em"})
    sample = w.IntSlider(description="sample", max=samples - 1, **late, **each)
    target = w.Dropdown(description="class", options=classes, **each)
    semiring = w.Dropdown(description="semiring", options=kinds, **each)
    theta = w.FloatLogSlider(description="θ", value=0.01, min=-6, max=0, readout_format=".2g", **late, **each)
    return [sample, target, semiring, theta]


def _explained(
    model: nn.Module, inputs: Tensor, names: list[str], sample: Any, target: Any, semiring: Any, theta: Any
) -> plot.Picture:
    """What the controls ask for."""
    from klrp.conversions import threshold
    from klrp.explain import explain

    kind, i = semiring.value, sample.value
    theta.disabled = kind.name not in _WITH_THETA
    t = None if theta.disabled else threshold(theta.value)
    x, y = inputs[i : i + 1], None if target.value < 0 else target.value
    relevance = explain(model, x, y, semiring=kind, theta=t, keep="input")
    title = f"class {names[int(relevance.target)]}, {kind.name}"
    title += "" if theta.disabled else f", θ = {theta.value:.2g}"
    return _beside(x[0], f"sample {i}", relevance, title)


def _beside(x: Tensor, name: str, relevance: Any, title: str) -> plot.Picture:
    """A sample, where it is a picture, beside its relevance."""
    maps, titles = [relevance], [title]
    if x.ndim == 2 or x.ndim == 3 and len(x) in (1, 3):
        x = x.detach().cpu().to(torch.float64)
        grey = (x - x.min()) / (x.max() - x.min()).clamp(min=1e-12)
        maps, titles = [lambda ax: plot.image(grey, ax), relevance], [name, title]
    figure = plot.panel(maps, titles, log=relevance.semiring.name.startswith("counting"))
    return plot.show(figure, f"The relevance of the input, {name}, for {title}.")
