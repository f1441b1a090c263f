"""A live explorer for Jupyter, which computes on every change of a control."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from klrp import plot
from klrp.errors import KlrpError

if TYPE_CHECKING:
    import ipywidgets

_WITH_THETA = ("boolean", "counting", "counting_int")


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
