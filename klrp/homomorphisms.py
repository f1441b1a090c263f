"""Homomorphisms between semirings: what can be read off maps without a second walk.

A map h: K → L that respects ⊕, ⊗, 0 and 1 may be applied at the end, where Θ_L(d) = h(Θ_K(d)):

    explain in K  ->  h of the maps  =  h of the edges  ->  explain in L

since R_j is made of Θ(d_jk) by ⊕ and ⊗ alone (Goodman 1999; Green et al. 2007).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klrp.aggregates import expectation, kbest
from klrp.composed import dial, signed
from klrp.conversions import Conversion, Elements, Theta, as_conversion
from klrp.errors import KlrpError
from klrp.numbers import as_number
from klrp.relevance import Relevance
from klrp.semirings import (
    BOOLEAN,
    COUNTING,
    COUNTING_INT,
    FUZZY,
    LOG,
    MAX_PLUS,
    REAL,
    TROPICAL,
    VITERBI,
    Semiring,
    find_semiring,
)

Map = Callable[[Tensor], Tensor]
_ALL, _UP, _DOWN = (-math.inf, math.inf), (0.0, math.inf), (-math.inf, 0.0)


@dataclass(frozen=True)
class Homomorphism:
    r"""A map h from the elements of ``source`` to those of ``target``.

    .. math::

        h(x ⊕ y) &= h(x) ⊕ h(y) \\
        h(x ⊗ y) &= h(x) ⊗ h(y) \\
        h(0) &= 0, \quad h(1) = 1

    ``name`` says it as a formula. ``domain`` is the interval of the elements on which it is one; it is closed under ⊕ and
    ⊗, and Θ has to stay in it as well. In floats a product may underflow to 0, which *more than 0* then takes for 0.
    """

    source: Semiring
    target: Semiring
    name: str
    map: Map
    domain: tuple[float, float] = _ALL

    def __repr__(self) -> str:
        return f"<Homomorphism {self.source.name} → {self.target.name}: {self.name}>"

    def __call__(self, elements: Tensor) -> Tensor:
        """h of elements [..., \\*source.shape]: elements [..., \\*target.shape].

        Raises:
            KlrpError: for elements outside ``domain``.
        """
        low, high = self.domain
        if not bool(((elements >= low) & (elements <= high)).all()):
            raise KlrpError.value(
                f"elements: {self!r} is a homomorphism for elements in [{low}, {high}] alone, and some lie outside. Choose "
                f"a rule and a Θ whose elements lie in it."
            )
        return self.map(elements)

    def theta(self, theta: Conversion | Theta | None = None) -> Conversion:
        """The Θ of the target that belongs to a Θ of the source: d ↦ h(Θ(d)); None is the source's default.

        A Θ that gives nothing but zero and one is its own.
        """
        if theta is None and self.source.default is None:
            raise KlrpError.value(f"theta: {self.source.name} has no default; give the Θ of the explanation.")
        given = as_conversion(theta if theta is not None else self.source.default[1])  # type: ignore[index]
        lifted = given if self.source.lift is None else self.source.lift(given)
        if lifted.safe and lifted.form[0] != "signed":  # which gives (0, 1) as well
            return given
        return Conversion(f"{self.name} of {given!r}", _Composed(self, lifted))

    def apply(self, relevance: Relevance) -> Relevance:
        """h of every map: what klrp.explain gives in the target with the same rule and with ``theta``, in no time.

        The result knows neither the model nor shares, so that its edges, paths and conservation over the reals are to be
        had from an explanation alone.

        Raises:
            KlrpError: for a Relevance of another semiring, and for elements outside ``domain``.
        """
        if not _same(relevance.semiring, self.source):
            raise KlrpError.value(
                f"relevance: it is one of {relevance.semiring.name}, but {self!r} takes those of {self.source.name}. Use "
                f"klrp.homomorphisms.find(relevance.semiring, {self.target.name!r})."
            )
        maps = {name: self(r) for name, r in relevance.maps.items()}
        return replace(relevance, semiring=self.target, maps=maps, account=None, connections=None, replay=None)


@dataclass(frozen=True)
class _Composed:
    """d ↦ h(Θ(d)), where Θ is one of the source."""

    h: Homomorphism
    theta: Conversion

    def __call__(self, d: Tensor, semiring: Elements) -> Tensor:
        return self.h(self.h.source.admit(self.theta(d, self.h.source)))


@dataclass(frozen=True)
class _Then:
    """One homomorphism after another."""

    first: Homomorphism
    second: Homomorphism

    def __call__(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def _not_zero(x: Tensor) -> Tensor:
    return x > 0


def _possible(x: Tensor) -> Tensor:
    return x > -math.inf


def _affordable(x: Tensor) -> Tensor:
    return x < math.inf


def _exp_of_minus(x: Tensor) -> Tensor:
    return (-x).exp()


@dataclass(frozen=True)
class _AtLeast:
    """x ≥ t."""

    t: float

    def __call__(self, x: Tensor) -> Tensor:
        return x >= self.t


def _same_number(x: Tensor) -> Tensor:
    return x


def _first(x: Tensor) -> Tensor:
    return x[..., 0]


@dataclass(frozen=True)
class _Both:
    """p ⊕ n of pairs (p, n): the supporting and the opposing paths together."""

    part: Semiring

    def __call__(self, x: Tensor) -> Tensor:
        return self.part.plus(*x.unbind(-1 - len(self.part.shape)))


def _difference(x: Tensor) -> Tensor:
    difference = x[..., 0] - x[..., 1]
    return difference if difference.is_floating_point() else difference.double()


@dataclass(frozen=True)
class _Power:
    """x^p, which turns the p-norm into a sum."""

    p: float

    def __call__(self, x: Tensor) -> Tensor:
        return x.pow(self.p)


# Between the shipped semirings; find() chains them. From LUKASIEWICZ *x = 1* would be one to the truth values, but in
# floats the largest share may be 1 less rounding.
SHIPPED = (
    Homomorphism(COUNTING_INT, COUNTING, "x", torch.Tensor.double),
    Homomorphism(COUNTING, BOOLEAN, "x > 0", _not_zero),
    Homomorphism(COUNTING, REAL, "x", _same_number),
    Homomorphism(VITERBI, MAX_PLUS, "log x", torch.log),
    Homomorphism(VITERBI, BOOLEAN, "x > 0", _not_zero),
    Homomorphism(MAX_PLUS, TROPICAL, "−x", torch.neg),
    Homomorphism(MAX_PLUS, VITERBI, "exp x", torch.exp, _DOWN),
    Homomorphism(MAX_PLUS, BOOLEAN, "x > −∞", _possible),
    Homomorphism(TROPICAL, MAX_PLUS, "−x", torch.neg),
    Homomorphism(TROPICAL, VITERBI, "exp −x", _exp_of_minus, _UP),
    Homomorphism(TROPICAL, BOOLEAN, "x < ∞", _affordable),
    Homomorphism(LOG, REAL, "exp x", torch.exp),
    Homomorphism(LOG, BOOLEAN, "x > −∞", _possible),
    Homomorphism(REAL, LOG, "log x", torch.log, _UP),
    Homomorphism(FUZZY, BOOLEAN, "x > 0", _not_zero),
)


def known(source: Semiring | str) -> tuple[Homomorphism, ...]:
    """The homomorphisms from a semiring that are known, without chains of them.

    Those from shipped ones; from klrp.kbest(k) and klrp.expectation() the first number; from klrp.signed(K) to K
    :math:`p ⊕ n`, and where ⊕ is + to the reals :math:`p - n` as well; from klrp.dial(p) to the reals :math:`x^p`.

    Example:
        >>> klrp.homomorphisms.known("counting")
        (<Homomorphism counting → boolean: x > 0>, <Homomorphism counting → real: x>)
    """
    k = find_semiring(source)
    return tuple(h for h in (*SHIPPED, *_of_made(k)) if _same(h.source, k))


def _of_made(k: Semiring) -> Iterator[Homomorphism]:
    """Candidates from semirings that are made of others, or of a number, which ``k`` may be."""
    if k.shape:
        yield Homomorphism(kbest(k.shape[0]), VITERBI, "x₁", _first)
    yield Homomorphism(expectation(), REAL, "p", _first)
    for part in k.parts:
        if part.fused in ("sum,mul", "count") and not part.shape:
            yield Homomorphism(signed(part), REAL, "p − n", _difference)
        yield Homomorphism(signed(part), part, "p ⊕ n", _Both(part))
    if k.default is not None and k.default[0].normaliser == "norm":
        p = k.default[0].power
        yield Homomorphism(dial(p), REAL, f"x^{p:g}", _Power(p))
        yield Homomorphism(dial(p), BOOLEAN, "x > 0", _not_zero)


def cut(t: float) -> Homomorphism:
    """x ≥ t from the fuzzy semiring to the truth values, for a t with 0 < t ≤ 1.

    A maximum reaches t if one of its operands does, a minimum if both do. So one fuzzy map holds the Boolean maps of all
    thresholds: cut at t, it says to which neurons a path leads whose shares are all at least t. (For t = 1 rounding decides: a largest share may be less.)

    Raises:
        KlrpError: for another t.

    Example:
        >>> strength = klrp.explain(model, x, semiring="fuzzy")
        >>> masks = [klrp.homomorphisms.cut(t)(strength.input) for t in (0.1, 0.2, 0.4)]
    """
    number = as_number(t)
    if not 0 < number <= 1:
        raise KlrpError.value(f"cut: got t = {t!r}; expected a number above 0 and at most 1.")
    return Homomorphism(FUZZY, BOOLEAN, f"x ≥ {number:g}", _AtLeast(number))


def find(source: Semiring | str, target: Semiring | str) -> Homomorphism:
    """The homomorphism from one semiring to another, the shortest chain of known ones.

    One that is for some elements alone is only the first of a chain, so that ``domain`` says for which.
    Of several of the same length it is the one that comes first in ``known``: from klrp.signed("real") to the reals p − n.

    Raises:
        KlrpError: where none is known; the message says to which semirings one leads.

    Example:
        >>> h = klrp.homomorphisms.find("counting_int", "boolean")
        >>> h
        <Homomorphism counting_int → boolean: x, then x > 0>
        >>> relevant = h.apply(klrp.explain(model, x, semiring="counting_int"))
    """
    k, wanted = find_semiring(source), find_semiring(target)
    reached, chains = [k], list(known(k))
    for h in chains:  # which grows: breadth first
        if any(_same(h.target, other) for other in reached):
            continue
        if _same(h.target, wanted):
            return h
        reached.append(h.target)
        chains += [
            Homomorphism(h.source, then.target, f"{h.name}, then {then.name}", _Then(h, then), h.domain)
            for then in known(h.target)
            if then.domain == _ALL
        ]
    there = ", ".join(other.name for other in reached[1:]) or "none"
    raise KlrpError.value(
        f"target: no homomorphism from {k.name} to {wanted.name} is known; those that are lead to {there}. Explain anew "
        f"in {wanted.name}."
    )


def _same(x: Semiring, y: Semiring) -> bool:
    """Whether they have the same elements and operations, whatever they are called."""
    facts = ("zero", "one", "add", "mul", "domain", "shape", "dtype")
    return all(getattr(x, fact) == getattr(y, fact) for fact in facts)
