"""Semirings (K, ⊕, ⊗, 0, 1) as values.

An element of K is a tensor whose trailing axes are ``semiring.shape``; a batch of elements puts its own
axes in front. A semiring says what ⊕ does along one axis and what ⊗ does element by element. Blocking,
memory and devices are the library's business, so a new semiring is a few lines.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from klrp.errors import KlrpError

# Shares of a closed interval may leave it by rounding alone; up to here they are clamped back.
CLAMP = 1e-5


@dataclass(frozen=True, eq=False)
class Semiring:
    r"""A semiring :math:`(K, ⊕, ⊗, 0, 1)` over tensors.

    Args:
        name: what messages and pictures call it.
        zero, one: the neutral elements, numbers or nested lists of shape ``shape``.
        add: ``add(x, dim)`` is ⊕ over the non-negative axis ``dim`` of ``x``, never a trailing axis.
        mul: ``mul(x, y)`` is ⊗, broadcast over the leading axes.
        domain: the closed interval of the numbers that are elements. An infinite bound is an element
            only where it is ``zero`` or ``one``.
        shape: the trailing axes of one element; ``()`` for numbers.
        dtype: of the elements; None follows the inputs.
        score: K → ℝ, larger is more relevant: what ranks, averages and draws. The default is the number
            itself, or the first component of an element with axes.
        fused: a hint such as ``"max,mul"``, the name of operations that a fast kernel knows.

    Example:
        >>> FUZZY = Semiring("fuzzy", zero=0.0, one=1.0, domain=(0, 1),
        ...                  add=lambda x, dim: x.amax(dim), mul=torch.minimum)
        >>> check_laws(FUZZY, torch.tensor([0, .2, .5, 1.]))
    """

    name: str
    zero: object
    one: object
    add: Callable[[Tensor, int], Tensor]
    mul: Callable[[Tensor, Tensor], Tensor]
    domain: tuple[float, float] = (-math.inf, math.inf)
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    score: Callable[[Tensor], Tensor] | None = None
    fused: str | None = None

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "domain", tuple(self.domain))
        if len(self.domain) != 2 or not self.domain[0] <= self.domain[1]:
            raise KlrpError.value(
                f"Semiring {self.name!r}: domain is {self.domain}; expected (low, high) with low <= high."
            )
        if self.score is None:
            object.__setattr__(self, "score", self._first_component)
        for field in ("zero", "one"):
            try:
                value = torch.as_tensor(getattr(self, field))
            except (TypeError, ValueError, RuntimeError) as error:
                raise KlrpError.type(f"Semiring: {field} must be numbers; {error}.") from None
            if value.shape != self.shape:
                raise KlrpError.value(
                    f"Semiring {self.name!r}: {field} has shape {tuple(value.shape)}; an element has shape "
                    f"{self.shape}. Give {field} that shape, or set shape={tuple(value.shape)}."
                )
            object.__setattr__(self, field, value.tolist())

    @property
    def linear(self):
        return self is REAL

    @property
    def exact_below(self):
        return 2.0**53 if self is COUNTING else None

    def __repr__(self) -> str:
        return f"<Semiring {self.name}>"

    def __reduce__(self) -> tuple:
        """A shipped semiring is copied and pickled as itself, by its name."""
        if SEMIRINGS.get(self.name) is self:
            return find_semiring, (self.name,)
        return Semiring, tuple(getattr(self, f.name) for f in fields(self))

    def _first_component(self, x: Tensor) -> Tensor:
        first = x[(..., *(0,) * len(self.shape))]
        return first if first.is_floating_point() else first.to(torch.float64)

    def dtype_for(self, inputs: torch.dtype) -> torch.dtype:
        """The dtype of elements when the network computes in ``inputs``."""
        return self.dtype or inputs

    def full(self, shape: tuple[int, ...], which: str, like: Tensor) -> Tensor:
        """A tensor [*shape, *semiring.shape] filled with ``"zero"`` or ``"one"``, on the device of ``like``."""
        element = torch.as_tensor(getattr(self, which), dtype=self.dtype_for(like.dtype), device=like.device)
        return element.expand((*shape, *self.shape)).clone()

    def plus(self, x: Tensor, y: Tensor) -> Tensor:
        """x ⊕ y, element by element, broadcast."""
        return self.add(torch.stack(torch.broadcast_tensors(x, y)), 0)

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """⊕ over the non-negative axis ``dim``; an empty ⊕ is zero."""
        if x.shape[dim]:
            return self.add(x, dim)
        return self.full(x.shape[:dim] + x.shape[dim + 1 : x.ndim - len(self.shape)], "zero", x)

    def is_zero(self, x: Tensor) -> Tensor:
        """Boolean [...]: which elements of x [..., *shape] equal zero."""
        same = x == torch.as_tensor(self.zero, dtype=x.dtype, device=x.device)
        return same.flatten(same.ndim - len(self.shape)).all(-1) if self.shape else same

    def inside(self, x: Tensor) -> Tensor:
        """Boolean, shaped as x: which numbers lie in the domain."""
        ends = torch.as_tensor([self.zero, self.one], dtype=torch.float64, device=x.device)
        low, high = self.domain
        finite_or_end = x.isfinite() | torch.isin(x.double(), ends)
        return (x >= low) & (x <= high) & finite_or_end

    def contains(self, x: Tensor) -> bool:
        """Whether every number in x lies in the domain, an interval: so its two extremes decide."""
        if x.numel() == 0 or x.dtype == torch.bool:
            return True
        return bool(self.inside(torch.stack(torch.aminmax(x))).all())  # aminmax hands NaN on

    def admit(self, x: Tensor, argument: str = "theta") -> Tensor:
        """x with rounding beyond a closed [0, 1] clamped; a KlrpError where x leaves the domain."""
        if x.is_complex():
            raise KlrpError.type(f"{argument}: it gave {x.dtype}; expected real numbers.")
        if self.dtype is not None and x.dtype != self.dtype:
            x = _cast_exactly(x, self.dtype, self.name, argument)
        if self.contains(x):
            return x
        if self.domain == (0, 1):
            clamped = torch.where((x > 1) & (x <= 1 + CLAMP), torch.ones_like(x), x)
            if self.contains(clamped):
                return clamped
        outside = x[~self.inside(x)]
        example = "NaN" if bool(outside.isnan().any()) else f"{float(outside[0]):.4g}"
        raise KlrpError.value(
            f"{argument}: it gave {example}, but the domain of {self.name} is [{self.domain[0]}, {self.domain[1]}]. "
            + (_way_out(self) if argument == "theta" else "Give elements of the domain.")
        )


def _cast_exactly(x: Tensor, dtype: torch.dtype, name: str, argument: str) -> Tensor:
    cast = x.to(dtype)
    if x.is_floating_point() and not dtype.is_floating_point and not torch.equal(cast.to(x.dtype), x):
        raise KlrpError.value(
            f"{argument}: it gave numbers that {name} cannot hold exactly (its elements are {dtype}). Use a "
            f"conversion that gives zero or one, such as klrp.conversions.threshold(1e-9)."
        )
    return cast


def _way_out(semiring: Semiring) -> str:
    if semiring.domain == (0, 1):
        return "Use rule=klrp.rules.max_share(), whose shares lie in [0, 1]."
    if math.isinf(float(torch.as_tensor(semiring.zero).flatten()[0])):
        return "Use rule=klrp.rules.zplus() or max_share(), whose shares are never negative, with log or neglog."
    return "Use rule=klrp.rules.zplus(), whose shares are never negative, or theta=klrp.conversions.threshold(1e-9)."


def _int_add(x: Tensor, dim: int) -> Tensor:
    _refuse_overflow(x.double().sum(dim))
    return x.sum(dim)


def _int_mul(x: Tensor, y: Tensor) -> Tensor:
    _refuse_overflow(x.double() * y)
    return x * y


def _refuse_overflow(result: Tensor) -> None:
    if result.numel() and float(result.abs().amax()) >= 2.0**63:
        raise KlrpError.value(
            "semiring: a count of COUNTING_INT exceeds 2^63 - 1, the largest int64. Use klrp.COUNTING, whose "
            "float64 goes on with rounding (Relevance.exact says when)."
        )


def _any(x: Tensor, dim: int) -> Tensor:
    """x.any(dim), by the maximum of the bytes, which torch does forty times as fast."""
    return x.view(torch.uint8).amax(dim).view(torch.bool)


def _count(x: Tensor, dim: int) -> Tensor:
    """The sum, held at the largest float64, since ∞ · 0 would be NaN."""
    return x.sum(dim).clamp_max(torch.finfo(x.dtype).max)


def _bounded_difference(x: Tensor, y: Tensor) -> Tensor:
    """max(0, x + y − 1), rounded once: x + y would lose what is small."""
    return (torch.minimum(x, y) - (1 - torch.maximum(x, y))).clamp_min(0)


_amax, _amin = (lambda x, dim: x.amax(dim)), (lambda x, dim: x.amin(dim))
_sum, _inf = (lambda x, dim: x.sum(dim)), math.inf

REAL = Semiring("real", 0.0, 1.0, _sum, torch.mul, fused="sum,mul")
BOOLEAN = Semiring(
    "boolean", False, True, _any, torch.logical_and,
    domain=(0, 1), dtype=torch.bool, fused="any,and",
)  # fmt: skip
COUNTING = Semiring("counting", 0.0, 1.0, _count, torch.mul, domain=(0, _inf), dtype=torch.float64, fused="count")
COUNTING_INT = Semiring(
    "counting_int", 0, 1, _int_add, _int_mul, domain=(0, 2**63 - 1), dtype=torch.int64, fused="count"
)
VITERBI = Semiring("viterbi", 0.0, 1.0, _amax, torch.mul, domain=(0, 1), fused="max,mul")
TROPICAL = Semiring("tropical", _inf, 0.0, _amin, torch.add, score=torch.neg, fused="min,add")
MAX_PLUS = Semiring("max_plus", -_inf, 0.0, _amax, torch.add, fused="max,add")
LOG = Semiring("log", -_inf, 0.0, lambda x, dim: x.logsumexp(dim), torch.add, fused="logsumexp,add")
FUZZY = Semiring("fuzzy", 0.0, 1.0, _amax, torch.minimum, domain=(0, 1), fused="max,min")
LUKASIEWICZ = Semiring("lukasiewicz", 0.0, 1.0, _amax, _bounded_difference, domain=(0, 1), fused="max,bounded")

SEMIRINGS = {
    s.name: s
    for s in (
        REAL, BOOLEAN, COUNTING, COUNTING_INT, VITERBI, TROPICAL, MAX_PLUS, LOG, FUZZY, LUKASIEWICZ,
    )
}  # fmt: skip


def find_semiring(semiring: Semiring | str) -> Semiring:
    """The semiring itself, or the shipped one of that name."""
    if isinstance(semiring, Semiring):
        return semiring
    if isinstance(semiring, str):
        found = SEMIRINGS.get(semiring.lower().replace("-", "_"))
        if found is not None:
            return found
    raise KlrpError.value(f"semiring: got {semiring!r}; expected a klrp.Semiring or one of {', '.join(SEMIRINGS)}.")


def check_laws(semiring: Semiring, samples: Tensor) -> None:
    """Check every law of a semiring on all triples of the samples, zero and one.

    Args:
        samples: elements [m, *semiring.shape]; zero and one are added to them. Floats are compared in
            the semiring's dtype, in float64 where that is None, there to a relative 1e-9.

    Raises:
        KlrpError: on the first law that fails. Its ``law`` names the law, its ``counterexample`` holds
            the elements x, y, z.

    Example:
        >>> SIGNED = Semiring("max-times", 0., 1., add=lambda x, dim: x.amax(dim), mul=torch.mul)
        >>> check_laws(SIGNED, torch.tensor([-1., 2.]))
        Traceback (most recent call last):
        klrp.errors.KlrpValueError: semiring 'max-times': the law 'zero is neutral for add' fails ...
    """
    samples, shape = torch.as_tensor(samples), semiring.shape
    if samples.ndim != len(shape) + 1 or tuple(samples.shape[1:]) != shape:
        raise KlrpError.value(
            f"samples: got shape {tuple(samples.shape)}; expected m elements of {semiring.name}, that is "
            f"[m, {', '.join(map(str, shape))}]."
        )
    neutral = torch.stack([torch.as_tensor(semiring.zero), torch.as_tensor(semiring.one)])
    members = torch.cat([neutral.to(samples.device), samples]).to(semiring.dtype or torch.float64)
    m = len(members)
    rtol = 1e-9 if members.dtype == torch.float64 else 64 * _epsilon(members.dtype)
    # Every triple at once: x varies along axis 0, y along 1, z along 2.
    x, y, z = (
        members.reshape(*(m if axis == i else 1 for i in range(3)), *shape).expand(m, m, m, *shape) for axis in range(3)
    )
    for law, left, right in _computed(_laws(semiring, x, y, z), semiring):
        if left.shape != x.shape:
            law = f"{law} (it returned the shape {tuple(left.shape)} for {tuple(x.shape)})"
            fails = torch.ones(m, m, m, dtype=torch.bool)
        elif left.is_floating_point():
            fails = ~torch.isclose(left, right, rtol=rtol, atol=rtol * 1e-3)
        else:
            fails = left != right
        where = fails.nonzero()
        if len(where):
            raise _law_error(semiring, law, [members[i].tolist() for i in where[0, :3]])


def _computed(laws: Iterator, semiring: Semiring) -> Iterator:
    """The laws one by one; what add or mul raise becomes a KlrpError."""
    try:
        yield from laws
    except KlrpError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise KlrpError.value(
            f"semiring {semiring.name!r}: add or mul failed with {type(error).__name__}: {error}. add(x, dim) "
            f"reduces one axis of a tensor to a tensor, such as x.sum(dim); mul(x, y) multiplies two tensors."
        ) from error


def _laws(semiring: Semiring, x: Tensor, y: Tensor, z: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each law with its two sides, computed only when it is reached."""
    plus, times = semiring.plus, semiring.mul
    zero, one = (semiring.full(x.shape[:3], which, x) for which in ("zero", "one"))
    for name, result in (("samples", x), ("add", plus(x, y)), ("mul", times(x, y))):
        inside = semiring.inside(result)
        yield f"closure: {name} stays in the domain", inside, torch.ones_like(inside)
    yield "commutativity of add", plus(x, y), plus(y, x)
    yield "associativity of add", plus(plus(x, y), z), plus(x, plus(y, z))
    yield "zero is neutral for add", plus(x, zero), x
    yield "associativity of mul", times(times(x, y), z), times(x, times(y, z))
    yield "one is neutral for mul, from the right", times(x, one), x
    yield "one is neutral for mul, from the left", times(one, x), x
    yield "zero absorbs in mul, from the right", times(x, zero), zero
    yield "zero absorbs in mul, from the left", times(zero, x), zero
    left, right = "distributivity of mul over add, from the left", "distributivity, from the right"
    yield left, times(x, plus(y, z)), plus(times(x, y), times(x, z))
    yield right, times(plus(x, y), z), plus(times(x, z), times(y, z))
    agreement = "add over an axis agrees with pairwise add, in any order"
    for order in itertools.permutations((x, y, z)):
        yield agreement, semiring.add(torch.stack(order), 0), plus(plus(x, y), z)
    yield agreement, semiring.add(torch.stack([x, y, z], 2), 2), plus(plus(x, y), z)


def _epsilon(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def _law_error(semiring: Semiring, law: str, elements: list) -> KlrpError:
    named = ", ".join(f"{letter} = {e}" for letter, e in zip("xyz", elements, strict=True))
    error = KlrpError.value(f"semiring {semiring.name!r}: the law {law!r} fails for {named}.")
    error.law, error.counterexample = law, tuple(elements)
    return error
