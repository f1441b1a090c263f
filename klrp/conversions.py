"""Conversion functions Θ: ℝ → K, which turn shares d_jk into semiring elements.

Any elementwise callable ``d -> elements`` will do as a Θ. The ones made here also know the semiring, so
that "relevant" is its one and "not relevant" its zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.numbers import as_number

Theta = Callable[[Tensor], Tensor]


class Elements(Protocol):
    """What a Θ reads of a semiring."""

    @property
    def name(self) -> str: ...
    @property
    def zero(self) -> Any: ...
    @property
    def one(self) -> Any: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype | None: ...

    @property
    def parts(self) -> tuple[Elements, ...]: ...

    def full(self, shape: tuple[int, ...], which: str, like: Tensor) -> Tensor:
        """A tensor [*shape, *semiring.shape] filled with ``"zero"`` or ``"one"``."""


@dataclass(frozen=True)
class Conversion:
    """A Θ that knows the semiring: ``apply(d, semiring)`` maps shares [...] to elements [..., *shape].

    ``safe`` says that it gives nothing but the semiring's zero and one, so that no domain check is due.
    ``form`` is the name that kernels know it by, with its number, or its numbers [N], one for each sample. ``fit``,
    where it is there, finds a threshold [N] for each sample of a layer from all of the layer's shares.
    Those made with equal arguments are equal.
    """

    name: str
    apply: Callable[[Tensor, Elements], Tensor]
    safe: bool = False
    form: tuple[str, float | Tensor] = field(default=("", 0.0), compare=False)  # as ``apply`` does, which is compared
    fit: Callable[[Stream, int, torch.dtype], Tensor] | None = None

    @property
    def identical(self) -> bool:
        """Whether it is d ↦ d."""
        return self.form[0] == "identity"

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        return self.apply(d, semiring)

    def __repr__(self) -> str:
        return self.name


# What ``fit`` reads: called, it streams (d, connected-to-relevance mask) blocks whose axis 0 is the sample.
Stream = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def as_conversion(theta: Conversion | Theta) -> Conversion:
    """A user's elementwise callable as a Conversion."""
    if isinstance(theta, Conversion):
        return theta
    if not callable(theta):
        raise KlrpError.type(f"theta: got {theta!r}; expected an elementwise callable or one of klrp.conversions.")
    name = getattr(theta, "__name__", type(theta).__name__)
    if getattr(theta, "__module__", None) == __name__:
        raise KlrpError.type(f"theta: got the function {name} itself. Call it: klrp.conversions.{name}(...).")

    return Conversion(name, _Elementwise(name, theta))


@dataclass(frozen=True)
class _Elementwise:
    """A user's function, which knows no semiring."""

    name: str
    theta: Theta

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        try:
            return self.theta(d)
        except Exception as error:  # whatever a user's function raises
            raise KlrpError.value(
                f"theta: {self.name} failed on shares {tuple(d.shape)} with {type(error).__name__}: {error}. Make it "
                f"an elementwise function of a tensor."
            ) from error


def _one_where(mask: Tensor, semiring: Elements, like: Tensor) -> Tensor:
    if semiring.dtype == torch.bool and semiring.zero is False and semiring.one is True:
        return mask
    one, zero = (semiring.full((), which, like) for which in ("one", "zero"))
    return torch.where(mask[(..., *(None,) * len(semiring.shape))], one, zero)


def _number(value: float, what: str) -> float:
    number = as_number(value)
    if not math.isfinite(number):
        raise KlrpError.value(f"{what}: got {value!r}; expected a finite number.")
    return number


@dataclass(frozen=True)
class _Cut:
    """One where ``passes(d, t)``, and zero elsewhere."""

    passes: Callable[[Tensor, Any], Tensor]
    t: float

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        return _one_where(self.passes(d, self.t), semiring, d)


def _size_reaches(d: Tensor, t: Any) -> Tensor:
    return d.abs() >= t


@dataclass(frozen=True, eq=False)
class _SampleCut:
    """One where ``passes(d, t_n)`` in sample n, and zero elsewhere."""

    passes: Callable[[Tensor, Any], Tensor]
    t: Tensor

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        return _one_where(self.passes(d, self.t.to(d).reshape(-1, *(1,) * (d.ndim - 1))), semiring, d)

    def of_samples(self, samples: slice) -> _SampleCut:
        return replace(self, t=self.t[samples])


@dataclass(frozen=True)
class _BothSigns:
    """(Θ(d), 0) for d > 0, (0, Θ(−d)) for d < 0, and (0, 0) for 0."""

    theta: Conversion

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        (part,) = semiring.parts
        elements, zero = self.theta(d.abs(), part), part.full((), "zero", d)
        sides = [side[(..., *(None,) * len(part.shape))] for side in (d > 0, d < 0)]
        return torch.stack([torch.where(side, elements, zero) for side in sides], d.ndim)

    def of_samples(self, samples: slice) -> _BothSigns:
        return _BothSigns(of_samples(self.theta, samples))


@dataclass(frozen=True)
class _Kept:
    """d where d ≥ t, and zero elsewhere."""

    t: float

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        return torch.where(d >= self.t, d, _scalar_zero(semiring))


@dataclass(frozen=True)
class _Logarithm:
    """± log d, and zero for d = 0."""

    sign: int

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        return torch.where(d == 0, _scalar_zero(semiring), self.sign * d.log())


def _itself(d: Tensor, semiring: Elements) -> Tensor:
    _scalar_zero(semiring)
    return d


def identity() -> Conversion:
    """Θ(d) = d, for semirings whose elements are numbers."""
    return Conversion("identity()", _itself, form=("identity", 0.0))


def threshold(t: float) -> Conversion:
    """Θ(d) = 1 if d ≥ t else 0, with the sign of d."""
    t = _number(t, "threshold")
    return Conversion(f"threshold({t:g})", _Cut(torch.ge, t), True, ("threshold", t))


def at_least(t: Tensor, size: bool = False) -> Conversion:
    """Θ(d) = 1 if d ≥ t_n else 0, with a threshold t [N] for each sample n: what an automatic Θ comes to.

    With ``size`` it is |d| that is compared.
    """
    cut = _SampleCut(_size_reaches if size else torch.ge, t)
    return Conversion("at_least(...)", cut, True, ("magnitude" if size else "threshold", t))


def of_samples(theta: Conversion, samples: slice) -> Conversion:
    """Θ for some samples, where each has a threshold of its own."""
    form, t = theta.form
    if not isinstance(t, Tensor):
        return theta
    return replace(theta, apply=theta.apply.of_samples(samples), form=(form, t[samples]))  # type: ignore[attr-defined]


def magnitude(t: float) -> Conversion:
    """Θ(d) = 1 if |d| ≥ t else 0: what inhibits counts as much as what supports."""
    t = _number(t, "magnitude")
    return Conversion(f"magnitude({t:g})", _Cut(_size_reaches, t), True, ("magnitude", t))


def signed(theta: Conversion | Theta) -> Conversion:
    """Θ(d) = (θ(d), 0) for d > 0, (0, θ(−d)) for d < 0, and (0, 0) for 0: what a klrp.signed semiring does with θ.

    It is done to every Θ that such a semiring is given, so that there is no need to write it.
    """
    theta = as_conversion(theta)
    if theta.fit:
        raise KlrpError.value(f"theta: {theta!r} looks for a threshold among shares of one sign; use threshold(t).")
    return Conversion(f"signed({theta!r})", _BothSigns(theta), theta.safe, ("signed", theta.form[1]))


def without_signs(theta: Conversion) -> Conversion:
    """The θ that ``signed`` was given; any other Θ as it is."""
    return theta.apply.theta if isinstance(theta.apply, _BothSigns) else theta


def positive() -> Conversion:
    """Θ(d) = 1 if d > 0 else 0: what the limit θ → 0 from above means."""
    return Conversion("positive()", _Cut(torch.gt, 0.0), True, ("positive", 0.0))


def keep(t: float) -> Conversion:
    """Θ(d) = d if d ≥ t else 0: small shares are dropped, large ones keep their size."""
    t = _number(t, "keep")
    return Conversion(f"keep({t:g})", _Kept(t))


def log() -> Conversion:
    """Θ(d) = log d, and zero for d = 0. A negative share is an error: choose a rule without them."""
    return Conversion("log()", _Logarithm(1), form=("log", 0.0))


def neglog() -> Conversion:
    """Θ(d) = −log d, and zero for d = 0. A negative share is an error: choose a rule without them."""
    return Conversion("neglog()", _Logarithm(-1), form=("neglog", 0.0))


def each(*thetas: Conversion | Theta) -> Conversion:
    """Θ(d) = (θ₁(d), θ₂(d), ...): one for each component of a klrp.product."""
    made = tuple(as_conversion(theta) for theta in thetas)
    if any(theta.fit for theta in made):
        raise KlrpError.value("theta: mass() looks for one threshold, and a product of semirings may need several.")
    cuts = [theta.form[1] for theta in made if isinstance(theta.form[1], Tensor)]
    names = ", ".join(map(repr, made))
    return Conversion(f"each({names})", _Each(made), all(t.safe for t in made), ("each", cuts[0] if cuts else 0.0))


def of_each(theta: Conversion, n: int) -> tuple[Conversion, ...]:
    """The Θ of each of the n components: those of ``each``, or the same for all."""
    found = theta.apply.thetas if isinstance(theta.apply, _Each) else (theta,) * n
    if len(found) != n:
        raise KlrpError.value(f"theta: each() has {len(found)} of them for {n} semirings; give one for each.")
    return found


@dataclass(frozen=True)
class _Each:
    """The elements of all components, one after the other on one axis."""

    thetas: tuple[Conversion, ...]

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        pieces = [theta(d, part).reshape(*d.shape, -1) for theta, part in zip(self.thetas, semiring.parts, strict=True)]
        dtype = semiring.dtype or d.dtype
        return torch.cat([piece.to(dtype) for piece in pieces], -1)

    def of_samples(self, samples: slice) -> _Each:
        return _Each(tuple(of_samples(theta, samples) for theta in self.thetas))


def _scalar_zero(semiring: Elements) -> float:
    if semiring.shape:
        raise KlrpError.value(
            f"theta: this conversion gives numbers, but an element of {semiring.name} has the shape "
            f"{semiring.shape}. Write a callable that maps shares [...] to [..., *{semiring.shape}]."
        )
    return float(semiring.zero)


def mass(f: float) -> Conversion:
    r"""An automatic threshold: keep the largest shares that carry the fraction ``f`` of the positive ones.

    For each sample and layer, θ is the largest number with
    :math:`\sum_{d_{jk} ≥ θ} d_{jk} ≥ f \sum_{d_{jk} > 0} d_{jk}`, over the connected pairs whose upper
    neuron is relevant (R_k is not zero). Then Θ(d) = 1 if d ≥ θ else 0. ``f`` lies in (0, 1]. A larger f
    may relieve a neuron: it adds relevant neurons above, and with them new shares. It reads all shares a
    few times over, and takes ten times as long as a fixed threshold or more.
    """
    f = _number(f, "mass")
    if not 0 < f <= 1:
        raise KlrpError.value(f"mass: got f = {f:g}; expected a fraction above 0 and at most 1.")
    return Conversion(f"mass({f:g})", _unfitted, safe=True, fit=_Mass(f))


def _unfitted(d: Tensor, semiring: Elements) -> Tensor:
    raise KlrpError.value("theta: mass() needs the shares of a whole layer; klrp.explain fits it.")


@dataclass(frozen=True)
class _Mass:
    """The threshold [N] of each sample's shares that carries the fraction f of them."""

    f: float

    def __call__(self, shares: Stream, n: int, dtype: torch.dtype) -> Tensor:
        return _fit_mass(self.f, shares, n, dtype)


def _fit_mass(f: float, shares: Stream, n: int, dtype: torch.dtype) -> Tensor:
    """Find θ [n] exactly by its bits: positive floats are ordered as the integers with the same bits.

    Each pass over the shares settles the next bits: it adds up the shares by the value of these bits,
    among those whose higher bits are the ones already found.
    """
    above, target, found = torch.zeros(n, 1), None, torch.zeros(n, 1, dtype=torch.int64)
    digits = _DIGITS if dtype == torch.float64 else _DIGITS_OF_FLOAT32
    for shift, width in digits:
        sums = torch.zeros(n, 1 << width, dtype=torch.float64)
        for d, relevant in shares():
            bits = d.double().contiguous().view(torch.int64).flatten(1)
            among = (relevant & (d > 0)).flatten(1) & ((bits >> (shift + width)) == found.to(d.device))
            carried = torch.where(among, d.flatten(1).double(), 0.0)
            digit = (bits >> shift) & ((1 << width) - 1)
            sums += torch.zeros_like(sums, device=d.device).scatter_add_(1, digit, carried).cpu()
        at_least = above + sums.flip(1).cumsum(1).flip(1)  # the mass from each digit value upwards
        target = f * (1 - 1e-12) * at_least[:, :1] if target is None else target  # less rounding
        # Should rounding still miss the target, the smallest share there is, is θ.
        enough = (at_least >= target) | (at_least >= at_least[:, :1])
        last = enough.int().cumsum(1).argmax(1, keepdim=True)  # the largest digit that suffices
        above = at_least.gather(1, last) - sums.gather(1, last)
        found = (found << width) | last
    found = found << digits[-1][0]
    assert target is not None  # there is a first digit
    return torch.where(target > 0, found.view(torch.float64), math.inf)[:, 0]


# The bits of a float64, from the sign down, in digits of (shift, width); what was a float32 ends early.
_DIGITS = ((52, 12), (41, 11), (30, 11), (20, 10), (10, 10), (0, 10))
_DIGITS_OF_FLOAT32 = ((52, 12), (41, 11), (29, 12))
