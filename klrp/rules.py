r"""The rules of LRP as data: what share :math:`d_{jk}` the lower neuron j has in the upper neuron k.

.. math:: d_{jk} = \sum_p c_p \frac{\sum_t α_{pt}(a_j)\, ω_{pt}(w_{jk})}{z_{pk}}

A rule is a tuple of parts p, a part a tuple of pairs (α on activations, ω on weights) with a map for the
bias, which enters z and takes no relevance. One definition feeds every path through the package: for the
reals and Θ = id the same pairs give :math:`R_j = \sum_p c_p \sum_t α_{pt}(a) · vjp_{pt}(R / z_p)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.numbers import as_number

Map = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    """x itself."""
    return x


def _positive(x: Tensor) -> Tensor:
    return x.clamp_min(0)


def _negative(x: Tensor) -> Tensor:
    return x.clamp_max(0)


@dataclass(frozen=True)
class _Lifted:
    """w + γ w⁺."""

    g: float

    def __call__(self, w: Tensor) -> Tensor:
        return w + self.g * w.clamp_min(0)


@dataclass(frozen=True, eq=False)
class _Constant:
    """The same values whatever the activations are, in their shape and precision."""

    value: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.value.to(x).expand_as(x)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Constant):
            return False
        x, y = self.value, other.value
        return (x.dtype, x.device) == (y.dtype, y.device) and torch.equal(x, y)

    def __hash__(self) -> int:
        return hash(tuple(self.value.shape))


@dataclass(frozen=True)
class Part:
    """Pairs (α, ω) with one denominator z = Σ_j Σ_t α_t(a_j) ω_t(w_jk) + bias(b), taken ``scale`` times.

    ``bias`` None leaves the bias out. ``vanishes_at_zero`` says that α(0) = 0 in every pair, so that a neuron
    without activation has no share and may be skipped.
    """

    pairs: tuple[tuple[Map, Map], ...]
    bias: Map | None = None
    scale: float = 1.0
    vanishes_at_zero: bool = True

    @property
    def equals_forward(self) -> bool:
        """Whether z is what the layer itself computes."""
        return self.pairs == _LINEAR.pairs and self.bias is same


@dataclass(frozen=True)
class Rule:
    """How an upper neuron's relevance is shared among the lower ones.

    ``normaliser`` is ``"sum"``, ``"max"``, or ``"norm"`` with a ``power``, over the lower neurons; the stabiliser is
    :math:`ε_k = eps + std \\sqrt{mean z^2}` per sample, with the sign of z_k. ``first_only`` marks rules
    for the layers at the input, ``shares_in_unit_interval`` those whose shares all lie in [0, 1]. ``choice`` says which
    way a step takes that is linear only for given values; without ``parts`` the shares are the semiring's default.
    """

    name: str
    parts: tuple[Part, ...]
    normaliser: str = "sum"
    eps: float = 0.0
    std: float = 0.0
    first_only: bool = False
    choice: str = ""
    shares_in_unit_interval: bool = False
    power: float = 1.0

    def __repr__(self) -> str:
        return self.name

    def margin(self, z: Tensor) -> Tensor:
        """ε of each sample [N], for z [N, ...]."""
        eps = z.new_full(z.shape[:1], self.eps)
        if not self.std:
            return eps
        return eps + self.std * z.reshape(len(z), z.shape[1:].numel()).double().square().mean(1).sqrt().to(z.dtype)

    def stabilise(self, z: Tensor) -> Tensor:
        """z + ε with the sign of z (sign 0 = +1); z is [N, ...], and ε is chosen per sample."""
        if not self.eps and not self.std:
            return z
        eps = self.margin(z).reshape(-1, *(1,) * (z.ndim - 1))
        return torch.where(z < 0, -eps, eps).add_(z)


def _number(rule: str, argument: str, value: float) -> float:
    number = as_number(value)
    if not 0 <= number < math.inf:
        raise KlrpError.value(f"{rule}: got {argument} = {value!r}; expected a number from 0 up.")
    return number


_LINEAR = Part(((same, same),), bias=same)


def lrp0() -> Rule:
    """LRP-0: d_jk = a_j w_jk / z_k with z_k = Σ_j a_j w_jk + b_k."""
    return Rule("lrp0()", (_LINEAR,))


def epsilon(eps: float = 1e-9, std: float = 0.0) -> Rule:
    """LRP-ε: d_jk = a_j w_jk / (z_k ± ε_k), with ε_k = eps + std · sqrt(mean z²) and the sign of z_k.

    The mean is taken over the layer's neurons, for each sample by itself (Bach et al. 2015; Montavon et
    al. 2019 for ``std``).
    """
    eps, std = _number("epsilon", "eps", eps), _number("epsilon", "std", std)
    return Rule(f"epsilon({eps:g}, std={std:g})" if std else f"epsilon({eps:g})", (_LINEAR,), eps=eps, std=std)


def gamma(g: float) -> Rule:
    """LRP-γ: weights w + γ w⁺ and bias b + γ b⁺ (Montavon et al. 2019).

    As γ grows it tends to z⁺ where activations are not negative.
    """
    lift = _Lifted(g := _number("gamma", "g", g))
    return Rule(f"gamma({g:g})", (Part(((same, lift),), bias=lift),))


_EXCITING = ((_positive, _positive), (_negative, _negative))
_INHIBITING = ((_positive, _negative), (_negative, _positive))


def zplus() -> Rule:
    """z⁺: shares of the positive contributions a⁺w⁺ + a⁻w⁻, with b⁺ in z (Montavon et al. 2017)."""
    return Rule("zplus()", (Part(_EXCITING, bias=_positive),), shares_in_unit_interval=True)


def alpha_beta(alpha: float, beta: float) -> Rule:
    """αβ: α times the positive contributions' shares less β times the negative ones' (Bach et al. 2015).

    α − β = 1; each part has its own z, with b⁺ and b⁻. A part without contributions passes nothing on.
    """
    alpha, beta = _number("alpha_beta", "alpha", alpha), _number("alpha_beta", "beta", beta)
    if not math.isclose(alpha - beta, 1.0, abs_tol=1e-9):
        raise KlrpError.value(
            f"alpha_beta: got alpha = {alpha:g} and beta = {beta:g}; alpha - beta must be 1, as in (2, 1)."
        )
    parts = (Part(_EXCITING, bias=_positive, scale=alpha), Part(_INHIBITING, bias=_negative, scale=-beta))
    name = f"alpha_beta({alpha:g}, {beta:g})"
    return Rule(name, parts) if beta else Rule(name, parts[:1], shares_in_unit_interval=True)


def zbox(low: float | Tensor, high: float | Tensor) -> Rule:
    """z^B for inputs in [low, high]: pairs (x, w), (−low, w⁺), (−high, w⁻), without bias.

    ``low`` and ``high`` are numbers or tensors that broadcast to one input, [C, 1, 1] for a picture's
    channels. For the first layers only (Montavon et al. 2017). Inputs outside the bounds are not refused;
    their shares are no longer all of one sign.
    """
    try:
        bounds = tuple(_bound(v) for v in (low, high))
        ordered = bool((bounds[0] <= bounds[1]).all())
    except (TypeError, ValueError, RuntimeError) as error:
        raise KlrpError.type(
            f"zbox: got low {_shape_or_value(low)} and high {_shape_or_value(high)}; expected numbers, or tensors "
            f"that broadcast to one input ({error})."
        ) from None
    names = [_short(v) for v in bounds]
    if not all(bool(v.isfinite().all()) for v in bounds):
        raise KlrpError.value(f"zbox: got low = {names[0]} and high = {names[1]}; expected finite numbers.")
    if not ordered:
        raise KlrpError.value(f"zbox: got low = {names[0]} above high = {names[1]}; swap them.")
    pairs = ((same, same), (_Constant(-bounds[0]), _positive), (_Constant(-bounds[1]), _negative))
    return Rule(f"zbox({', '.join(names)})", (Part(pairs, vanishes_at_zero=False),), first_only=True)


def _bound(value: float | Tensor) -> Tensor:
    """A bound of zbox with all its digits: a float is float64, a tensor is what it is."""
    bound = torch.as_tensor(value).detach()
    if bound.dtype == torch.bool or bound.is_complex():
        raise TypeError(f"{bound.dtype} holds no real numbers")
    if isinstance(value, Tensor):
        return bound if bound.is_floating_point() else bound.double()
    return torch.as_tensor(value, dtype=torch.float64)


def _shape_or_value(x: object) -> str:
    return f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)


def _short(x: Tensor) -> str:
    if x.numel() > 3:
        return f"{tuple(x.shape)} from {float(x.min()):g} to {float(x.max()):g}"
    numbers = ", ".join(f"{v:g}" for v in x.flatten().tolist())
    return f"[{numbers}]" if x.ndim else numbers


def flat() -> Rule:
    """Flat: every connected lower neuron gets the same share, d_jk = 1 / Σ_j 1 (Lapuschkin et al. 2019)."""
    part = Part(((torch.ones_like, torch.ones_like),), vanishes_at_zero=False)
    return Rule("flat()", (part,), shares_in_unit_interval=True)


def wsquare() -> Rule:
    """w²: d_jk = w_jk² / Σ_j w_jk², whatever the activations (Montavon et al. 2017)."""
    part = Part(((torch.ones_like, torch.square),), vanishes_at_zero=False)
    return Rule("wsquare()", (part,), shares_in_unit_interval=True)


def max_share(signed: bool = False) -> Rule:
    """The paper's Viterbi normaliser: d_jk = |a_j w_jk| / max_j |a_j w_jk|.

    The largest share is 1. The bias is no candidate for the maximum (Groudiev and Maniu 2024). With ``signed`` it is
    d_jk = a_j w_jk / max_j |a_j w_jk|, in [−1, 1], for klrp.signed semirings.
    """
    if signed:
        return Rule("max_share(signed=True)", (Part(((same, same),)),), normaliser="max")
    return Rule("max_share()", (Part(((torch.abs, torch.abs),)),), normaliser="max", shares_in_unit_interval=True)


def norm_share(p: float) -> Rule:
    r"""Shares by the p-norm: :math:`d_{jk} = |a_j w_{jk}| / (\sum_j |a_j w_{jk}|^p)^{1/p}`, the default of klrp.dial(p).

    p = 1 shares the sizes of the contributions as LRP would, and p = ∞ is ``max_share()``. The bias is left out. p lies in
    [1, 32], or is ∞: the p-th power of a ten-billionth is still a number for 32, and from there on the norm is the maximum
    but for a tenth, even of thirty equal contributions.
    """
    number = as_number(p)
    if not (1 <= number <= 32 or number == math.inf):
        raise KlrpError.value(f"norm_share: got p = {p!r}; expected a number from 1 to 32, or math.inf.")
    if number == math.inf:
        return max_share()
    sizes = (Part(((torch.abs, torch.abs),)),)
    return Rule(f"norm_share({number:g})", sizes, normaliser="norm", shares_in_unit_interval=True, power=number)


def as_average() -> Rule:
    """For a max-pool: share its relevance as an average pool would, d_jk = a_j / Σ_j a_j.

    Without this rule a max-pool hands everything to its winner.
    """
    return Rule("as_average()", (_LINEAR,), choice="average")


def hold(factor: str = "auto", by: Rule | None = None) -> Rule:
    """For a product of two activations: one factor is a constant, and the other takes all, d_jk = a_j w_jk / z_k with
    the held factor as w.

    Without a rule a product does what ``hold("auto")`` says.

    Args:
        factor: ``"left"``, ``"right"``, or ``"auto"``: the factor that comes out of a softmax, else of a sigmoid or an
            exponential, else of a norm or a deviation (Arras et al. 2017 for gates; Ali et al. 2022 for attention).
            Where there is none, or two of a kind, both share as by ``half``. A divisor is always held.
        by: the rule by which the other factor's neurons share; None is the semiring's default.

    Raises:
        KlrpError: for another factor.

    Example:
        >>> klrp.Composite([(klrp.ATTENTION, klrp.rules.hold("left", by=klrp.rules.zplus()), None)])
    """
    if factor not in ("left", "right", "auto"):
        raise KlrpError.value(f'hold: got {factor!r}; expected "left", "right" or "auto".')
    return _choosing(f"hold({factor!r})", factor, by)


def half(by: Rule | None = None) -> Rule:
    """For a product of two activations: both factors share, for the reals half each (Achtibat et al. 2024).

    The product is the linear layer in each factor, so that Σ_j a_j w_jk is twice what it computes.
    """
    return _choosing("half()", "half", by)


def identity() -> Rule:
    """For a normalisation: relevance passes unchanged, R_j = R_k for j = k (Achtibat et al. 2024).

    So it does without a rule: J neurons have J edges, in every semiring. But a norm moves the zero, so that where x_k is
    close to 0 the ratio R_k / x_k has no bound; ``centre()`` gives steadier amounts (chapter 16 of the book).
    """
    return Rule("identity()", (), choice="identity")


def centre(by: Rule | None = None) -> Rule:
    """For a normalisation: σ is a constant, and the mean is subtracted as the linear map that it is (Ali et al. 2022).

    y_k = γ_k (x_k − mean x) / σ + β_k connects each neuron with all those that are normalised with it. For amounts of
    relevance that costs no more than ``identity()``, and it is worth a try: in five small vision transformers its maps
    found the pixels that matter, where those of ``identity()`` did worse than the ink. Semirings that compare or count
    pairs go through J² weights for each group of J and each sample, so for small J.
    """
    return _choosing("centre()", "centre", by)


def softmax_taylor(by: Rule | None = None) -> Rule:
    """For a softmax inside a network, which else is held constant: its Jacobian at its input (Achtibat et al. 2024).

    w_jk = s_k (δ_jk − s_j), and what is left of s_k is a bias; with LRP-0 R_j = x_j (R_j − s_j Σ_k R_k).
    """
    return _choosing("softmax_taylor()", "taylor", by)


def _choosing(name: str, choice: str, by: Rule | None) -> Rule:
    if by is None:
        return Rule(name, (), choice=choice)
    if not isinstance(by, Rule) or by.choice or by.first_only:
        raise KlrpError.value(
            f"{name[: name.index('(')]}: got by = {by!r}; expected a rule for layers, as rules.zplus()."
        )
    return replace(by, name=f"{name} {by.name}", choice=choice)
