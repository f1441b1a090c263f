"""A live explorer for Jupyter, which computes on every change of a control."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from klrp import plot, rules
from klrp.conversions import as_conversion, threshold
from klrp.errors import KlrpError
from klrp.explain import explain
from klrp.semirings import SEMIRINGS, Semiring, find_semiring

if TYPE_CHECKING:
    import ipywidgets

RULES = {
    "the semiring's own": None,
    "LRP-0": rules.lrp0(),
    "LRP-ε, ε = 0.1": rules.epsilon(0.1),
    "LRP-γ, γ = 0.25": rules.gamma(0.25),
    "z⁺": rules.zplus(),
    "α = 2, β = 1": rules.alpha_beta(2, 1),
    "flat": rules.flat(),
    "w²": rules.wsquare(),
    "max share": rules.max_share(),
}


def explorer(
    model: nn.Module,
    inputs: Tensor,
    *,
    classes: Sequence[str] | None = None,
    semirings: Sequence[Any] = tuple(SEMIRINGS),
    prepare: Callable[[Any], Tensor] | None = None,
) -> ipywidgets.VBox:
    """A live explorer: choose sample, class, semiring, rule, θ and layer, and see the relevance; or upload a picture.

    θ is the threshold on the shares of every layer, for the semirings whose default has one; the others take their own Θ.
    At a layer with channels, their relevances are joined by ⊕; neurons without places stand in rows. Without a kernel the
    output shows the first picture.

    Args:
        model: a network that `klrp.explain` takes.
        inputs: floats [N, H, W] or [N, C, H, W], N >= 1.
        classes: names of the logits, in their order; by default their numbers.
        semirings: names or klrp.Semirings that need no rule, at least one; by default all that are shipped.
        prepare: from an uploaded PIL.Image to a sample [H, W] or [C, H, W]. By default the picture gets the size and the
            number of channels of the inputs, with values from 0 to 1.

    Raises:
        KlrpError: no inputs, no semirings, not one name for each logit, and what `klrp.explain`
            refuses.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        >>> box = explorer(model, torch.rand(20, 1, 28, 28), semirings=["boolean", "viterbi"])
    """
    import ipywidgets as w

    for argument, value in {"inputs": inputs, "semirings": semirings}.items():
        if len(value) == 0:
            raise KlrpError.value(f"{argument}: got none; expected at least one to explore.")
    found = [find_semiring(s) for s in semirings]
    first = explain(model, inputs[:1], semiring=found[0])
    logits = first.logits.shape[1]
    names = [str(c) for c in (range(logits) if classes is None else classes)]
    if len(names) != logits:
        raise KlrpError.value(f"classes: got {len(names)} names; expected {logits}, one for each of the logits.")
    panel = _Panel(model, list(inputs), names, _controls(len(inputs), names, found, list(first)), w.HTML())
    still = panel.picture()
    panel.output.value = still._repr_html_()
    for control in panel.controls.values():
        control.observe(panel.draw, "value")
    upload = w.FileUpload(accept="image/*", description="your picture", tooltip="a picture to explain")
    upload.observe(lambda change: panel.take(change["new"], prepare or _as_the_inputs(inputs)), "value")

    class Explorer(w.VBox):
        def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> tuple[dict, dict]:
            data, metadata = still._repr_mimebundle_()
            return super()._repr_mimebundle_(*args, **kwargs) | data, metadata

    wrapped = w.Layout(flex_flow="row wrap")
    return Explorer([w.Box([*panel.controls.values(), upload], layout=wrapped), panel.output])


def _controls(samples: int, names: list[str], semirings: list[Semiring], steps: list[str]) -> dict[str, Any]:
    """By name: sliders for what has an order, lists for what has names."""
    import ipywidgets as w

    late, each = dict(continuous_update=False), dict(style={"description_width": "5em"})
    lists = {
        "class": [("top logit", -1), *((name, i) for i, name in enumerate(names))],
        "semiring": [(s.name, s) for s in semirings],
        "rule": list(RULES.items()),
        "layer": ["input", *(name for name in steps if name != "input")],
    }
    made = {name: w.Dropdown(description=name, options=options, **each) for name, options in lists.items()}
    sample = w.IntSlider(description="sample", max=samples - 1, **late, **each)
    theta = w.FloatLogSlider(description="θ", value=0.01, min=-6, max=0, readout_format=".2g", **late, **each)
    return {"sample": sample, **made, "θ": theta}


def _as_the_inputs(inputs: Tensor) -> Callable[[Any], Tensor]:
    """What makes a sample of the same shape from a picture."""

    def prepare(picture: Any) -> Tensor:
        height, width = inputs.shape[-2:]
        grey = inputs.ndim == 3 or inputs.shape[1] == 1
        resized = np.asarray(picture.convert("L" if grey else "RGB").resize((width, height)), dtype=np.float64) / 255
        sample = torch.from_numpy(resized) if grey else torch.from_numpy(resized).movedim(-1, 0)
        return sample.to(inputs.dtype).reshape(inputs.shape[1:])

    return prepare


@dataclass(frozen=True)
class _Panel:
    """The controls, what they choose among, and where the picture is shown."""

    model: nn.Module
    samples: list[Tensor]
    names: list[str]
    controls: dict[str, Any]
    output: Any

    def draw(self, _change: Any = None) -> None:
        """Show what the controls ask for, or why it cannot be had."""
        try:
            self.output.value = self.picture()._repr_html_()
        except KlrpError as error:
            self.say(str(error))

    def say(self, text: str) -> None:
        """Show a message in the place of the picture."""
        self.output.value = f'<p role="alert">{html.escape(text)}</p>'

    def take(self, files: Sequence[Any], prepare: Callable[[Any], Tensor]) -> None:
        """Add uploaded pictures to the samples and show the last one."""
        from PIL import Image, UnidentifiedImageError

        for file in files:
            try:
                picture = Image.open(io.BytesIO(bytes(file["content"])))
                self.samples.append(prepare(picture))
            except (UnidentifiedImageError, OSError):
                return self.say(f"{file['name']}: this is no picture that can be read; give a PNG or a JPEG.")
        if files:
            self.controls["sample"].max = len(self.samples) - 1
            self.controls["sample"].value = len(self.samples) - 1

    def picture(self) -> plot.Picture:
        """The sample, where it is a picture, beside the relevance that the controls ask for."""
        i, target, kind, rule, layer = (
            self.controls[k].value for k in ("sample", "class", "semiring", "rule", "layer")
        )
        theta = self.controls["θ"]
        theta.disabled = kind.default is None or as_conversion(kind.default[1]).form[0] != "threshold"
        cut = None if theta.disabled else threshold(theta.value)
        y = None if target < 0 else target
        relevance = explain(self.model, self.samples[i][None], y, semiring=kind, rule=rule, theta=cut, keep=[layer])
        title = f"class {self.names[int(relevance.target)]}, {kind.name}"
        title += "" if rule is None else f", {rule.name}"
        title += "" if theta.disabled else f", θ = {theta.value:.2g}"
        title += "" if layer == "input" else f", at {layer}"
        return _beside(self.samples[i], f"sample {i}", _on_a_grid(kind, relevance[layer][0]), title, kind)


def _on_a_grid(semiring: Semiring, r: Tensor) -> Tensor:
    """The elements of one sample as a map [H, W]: channels joined by ⊕, neurons without places in rows."""
    rank = r.ndim - len(semiring.shape)
    for _ in range(rank - 2):
        r = semiring.sum(r, 0)
    score = semiring.score(r) if semiring.shape or semiring.logarithmic else r  # type: ignore[misc]
    if semiring.logarithmic:
        score = (score - score[score.isfinite()].amax()).exp() if score.isfinite().any() else score.exp()
    if score.ndim == 2:
        return score
    columns = math.ceil(math.sqrt(score.numel()))
    blank = score.new_zeros(()) if score.dtype == torch.bool else torch.tensor(math.inf, dtype=torch.float64)
    flat = score if score.dtype == torch.bool else score.double()
    rows = math.ceil(flat.numel() / columns)
    return torch.cat([flat, blank.expand(rows * columns - flat.numel())]).reshape(rows, columns)


def _beside(x: Tensor, name: str, map: Tensor, title: str, semiring: Semiring) -> plot.Picture:
    """A sample, where it is a picture, beside a map."""
    maps, titles = [map], [title]
    if x.ndim == 2 or x.ndim == 3 and len(x) in (1, 3):
        x = x.detach().cpu().to(torch.float64)
        grey = (x - x.min()) / (x.max() - x.min()).clamp(min=1e-12)
        maps, titles = [lambda ax: plot.image(grey, ax), map], [name, title]
    figure = plot.panel(maps, titles, log=semiring.exact_below is not None or semiring.dtype == torch.int64)
    return plot.show(figure, f"The relevance of the input, {name}, for {title}.")
