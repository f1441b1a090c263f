"""A slider over pictures that needs no kernel.

`frames` is plain HTML with the pictures inside: it works wherever a page's own scripts run, and is
the picture that it starts with where they do not.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from typing import Any

from klrp import plot
from klrp.errors import KlrpError

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
