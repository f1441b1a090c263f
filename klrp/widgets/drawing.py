"""A digit to draw: the shipped network and its walk in the page itself, by draw.js, for Jupyter and for the built book."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from klrp.errors import KlrpError
from klrp.models import digit_mlp
from klrp.numbers import as_number

if TYPE_CHECKING:
    import ipywidgets

SCRIPT = Path(__file__).with_name("draw.js")  # defines klrpLive(element, weights, settings)
STYLE = SCRIPT.with_suffix(".css")
WALKS = ("real", "boolean", "counting", "viterbi", "fuzzy", "dial")
# anywidget asks for a module; in the book the same text is a plain script.
_RENDER = "export default { render({ model, el }) { klrpLive(el, model.get('weights'), model.get('settings')); } };\n"


@cache
def weights() -> str:
    """The 266 610 parameters of `klrp.models.digit_mlp` (seed 0) in the order of its layers, weights [K, J] before biases
    [K], as little-endian float16 in base64: the numbers that are shipped, exactly."""
    numbers = torch.cat([p.flatten() for p in digit_mlp(seed=0, progress=False).parameters()])
    return base64.b64encode(numbers.half().numpy().astype("<f2").tobytes()).decode()


def draw(semiring: str = "real", *, theta: float | None = None, example: int | None = 3) -> ipywidgets.DOMWidget:
    """A digit to draw: the network of the first chapters runs in the browser, and each pixel shows what led there.

    Class, semiring, rule and θ are controls of the figure; pointing at a pixel shows its best path. It computes without
    the kernel, in doubles, what `klrp.explain` does for ``klrp.models.digit_mlp(seed=0).double()``.

    Args:
        semiring: which one it starts with: real, boolean, counting, viterbi, fuzzy, or dial.
        theta: the threshold on shares that it starts with, above 0 and at most 1; by default the semiring's own.
        example: the digit, 0 to 9, whose drawing it starts with; None is an empty sheet.

    Raises:
        KlrpError: for any other semiring, theta or example.

    Example:
        >>> draw("boolean", theta=0.02)
    """
    import anywidget
    import traitlets

    class Drawing(anywidget.AnyWidget):
        _css = STYLE.read_text("utf-8")
        _esm = f"{SCRIPT.read_text('utf-8')}\n{_RENDER}"
        weights = traitlets.Unicode().tag(sync=True)
        settings = traitlets.Dict().tag(sync=True)

        def __repr__(self) -> str:
            return f"<a digit to draw, {self.settings['semiring']}>"

    return Drawing(weights=weights(), settings=_settings(semiring, theta, example))


def _settings(semiring: Any, theta: Any, example: Any) -> dict[str, Any]:
    """What draw.js reads, as the data attributes of a page."""
    if semiring not in WALKS:
        raise KlrpError.value(f"semiring: got {semiring!r}; expected one of {', '.join(WALKS)}.")
    if theta is not None and not 0 < as_number(theta) <= 1:
        raise KlrpError.value(f"theta: got {theta!r}; expected a number above 0 and at most 1, or None.")
    if example is not None and (isinstance(example, bool) or example not in range(10)):
        raise KlrpError.value(f"example: got {example!r}; expected a digit from 0 to 9, or None for an empty sheet.")
    settings = {"semiring": semiring, "example": "" if example is None else str(example)}
    return settings if theta is None else settings | {"theta": str(as_number(theta))}
