"""Composites from the literature: for VGG-16, and for any convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from klrp import conversions, rules
from klrp.composites.assignment import ANY, FIRST, Composite, Row
from klrp.conversions import Conversion
from klrp.errors import KlrpError
from klrp.rules import Rule

# --- presets for VGG-16 ---------------------------------------------------------------------------------

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation by colour

# The paper's thresholds for VGG-16, one for each convolution and linear layer from the input up.
BOOLEAN_THRESHOLDS = (
    0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.06, 0.06, 0.06, 0.1, 0.09, 0.025, 0.3, 0.043, 0.0145, 0.0145,
)  # fmt: skip
COUNTING_THRESHOLDS = (
    0.01, 0.01, 0.015, 0.02, 0.02, 0.02, 0.03, 0.03, 0.03, 0.06, 0.05, 0.01, 0.3, 0.043, 0.0145, 0.0145,
)  # fmt: skip


def vgg16_montavon(model: nn.Module) -> Composite:
    """Classical LRP for a VGG-16: z^B at the pixels, then γ, ε and LRP-0 (Montavon et al. 2019).

    =========  =====================================================
    layers     rule
    =========  =====================================================
    1          zbox, for pixels in [0, 1] normalised as for ImageNet
    2 to 7     gamma(0.25)
    8 to 13    epsilon(1e-9, std=0.25)
    14 to 16   lrp0
    max-pools  as_average
    =========  =====================================================

    The layers are the convolutions and linear layers in the order of ``model.modules()``. So it fits a
    VGG-16 with or without BatchNorm, and of any width. Other layers, and every Θ, are left to the semiring's
    default. The mean of ``std`` is taken for each sample, and max-pools have no ε.

    Raises:
        KlrpError: for a model that has not 16 such layers.

    Example:
        >>> composite = klrp.composites.vgg16_montavon(model)
        >>> klrp.explain(model, klrp.data.imagenet_normalise(photo.image), composite=composite)
    """
    mean, std = torch.tensor(_IMAGENET, dtype=torch.float64)[..., None, None]
    first = rules.zbox(-mean / std, (1 - mean) / std)
    rows = _vgg16_rows("vgg16_montavon", model, first, rules.lrp0(), (None,) * 16)
    return Composite([*rows, (nn.MaxPool2d, rules.as_average(), None)])


def vgg16_boolean(model: nn.Module, thresholds: Sequence[float] = BOOLEAN_THRESHOLDS) -> Composite:
    """The paper's rules and thresholds for a VGG-16 over the Booleans (Groudiev and Maniu 2024).

    =========  =======================  ================================
    layers     rule                     θ of magnitude
    =========  =======================  ================================
    1          epsilon(1e-9)            .05
    2 to 7     gamma(0.25)              .05, .05, .05, .05, .05, .06
    8 to 13    epsilon(1e-9, std=0.25)  .06, .06, .1, .09, .025, .3
    14 to 16   epsilon(1e-9)            .043, .0145, .0145
    max-pools  as_average               Θ is positive, and has none
    =========  =======================  ================================

    The layers are those of ``vgg16_montavon``. Other ``thresholds`` are 16 numbers, from the input up.
    The paper's were found by hand, for one photograph and torchvision's weights.

    Raises:
        KlrpError: for a model that has not 16 such layers, or for other than 16 thresholds.

    Example:
        >>> composite = klrp.composites.vgg16_boolean(model)
        >>> klrp.explain(model, x, semiring="boolean", composite=composite)
    """
    return _vgg16_thresholds("vgg16_boolean", model, thresholds)


def vgg16_counting(model: nn.Module, thresholds: Sequence[float] = COUNTING_THRESHOLDS) -> Composite:
    """The rows of ``vgg16_boolean`` with the lower thresholds that the paper has for counting.

    =========  =======================  ================================
    layers     rule                     θ of magnitude
    =========  =======================  ================================
    1          epsilon(1e-9)            .01
    2 to 7     gamma(0.25)              .01, .015, .02, .02, .02, .03
    8 to 13    epsilon(1e-9, std=0.25)  .03, .03, .06, .05, .01, .3
    14 to 16   epsilon(1e-9)            .043, .0145, .0145
    max-pools  as_average               Θ is positive, and has none
    =========  =======================  ================================

    Source and errors are those of ``vgg16_boolean``.

    Example:
        >>> composite = klrp.composites.vgg16_counting(model)
        >>> klrp.explain(model, x, semiring="counting", composite=composite)
    """
    return _vgg16_thresholds("vgg16_counting", model, thresholds)


def _vgg16_thresholds(caller: str, model: nn.Module, thresholds: Sequence[float]) -> Composite:
    if not isinstance(thresholds, Sequence) or len(thresholds) != 16:
        raise KlrpError.value(
            f"{caller}: got thresholds = {thresholds!r}; expected a list of 16 numbers, one for each convolution and "
            f"linear layer from the input up."
        )
    thetas = [conversions.magnitude(t) for t in thresholds]
    rows = _vgg16_rows(caller, model, rules.epsilon(1e-9), rules.epsilon(1e-9), thetas)
    return Composite([*rows, (nn.MaxPool2d, rules.as_average(), conversions.positive())])


def _vgg16_rows(
    caller: str, model: nn.Module, first: Rule, top: Rule, thetas: Sequence[Conversion | None]
) -> list[Row]:
    """A row for each of the 16 layers, by name; γ up to the seventh, ε up to the last convolution."""
    if not isinstance(model, nn.Module):
        raise KlrpError.type(f"{caller}: got {type(model).__name__}; expected a torch.nn.Module.")
    names = [name for name, m in model.named_modules() if isinstance(m, _ConvNd | nn.Linear)]
    if len(names) != 16:
        raise KlrpError.value(
            f"{caller}: the model has {len(names)} convolutions and linear layers; expected the 16 of a VGG-16. For "
            f"another network write the rows yourself: klrp.Composite([(selector, rule, theta), ...])."
        )
    lower, middle = rules.gamma(0.25), rules.epsilon(1e-9, std=0.25)
    chosen = [first, *[lower] * 6, *[middle] * 6, *[top] * 3]
    return list(zip(names, chosen, thetas, strict=True))


# --- presets for any convolutional network --------------------------------------------------------------


def epsilon_plus_flat() -> Composite:
    """z⁺ for convolutions, ε for what is left, flat at the input: zennit's EpsilonPlusFlat.

    ==================================  ==============
    layers                              rule
    ==================================  ==============
    klrp.FIRST                          flat
    convolutions                        zplus
    the rest, such as linear layers     epsilon(1e-6)
    ==================================  ==============

    From Kohlbrenner et al. 2020 and Anders et al. 2021. Every Θ is left to the semiring's default.

    Example:
        >>> klrp.explain(model, x, composite=klrp.composites.epsilon_plus_flat())
    """
    return _epsilon_and(rules.zplus(), first=rules.flat())


def epsilon_gamma_box(low: float | Tensor, high: float | Tensor) -> Composite:
    """γ for convolutions, ε for what is left, z^B at the input: zennit's EpsilonGammaBox.

    ==================================  ================
    layers                              rule
    ==================================  ================
    klrp.FIRST                          zbox(low, high)
    convolutions                        gamma(0.25)
    the rest, such as linear layers     epsilon(1e-6)
    ==================================  ================

    ``low`` and ``high`` bound the inputs, as in ``klrp.rules.zbox``. From Anders et al. 2021. In zennit the
    first *convolution* has z^B, and γ differs where a convolution's output is negative and yet relevant,
    as in front of a residual add. Every Θ is left to the semiring's default.

    Raises:
        KlrpError: for bounds that are no numbers or tensors, or out of order.

    Example:
        >>> klrp.explain(model, x, composite=klrp.composites.epsilon_gamma_box(-1.0, 1.0))
    """
    return _epsilon_and(rules.gamma(0.25), first=rules.zbox(low, high))


def epsilon_alpha2_beta1() -> Composite:
    """αβ with α = 2 and β = 1 for convolutions, ε for what is left: zennit's EpsilonAlpha2Beta1.

    ==================================  =================
    layers                              rule
    ==================================  =================
    convolutions                        alpha_beta(2, 1)
    the rest, such as linear layers     epsilon(1e-6)
    ==================================  =================

    From Kohlbrenner et al. 2020 and Anders et al. 2021. Every Θ is left to the semiring's default.

    Example:
        >>> klrp.explain(model, x, composite=klrp.composites.epsilon_alpha2_beta1())
    """
    return _epsilon_and(rules.alpha_beta(2, 1))


def _epsilon_and(convolutions: Rule, first: Rule | None = None) -> Composite:
    rows = [(_ConvNd, convolutions, None), (ANY, rules.epsilon(1e-6), None)]
    return Composite(rows if first is None else [(FIRST, first, None), *rows])
