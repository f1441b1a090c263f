"""Semirings (K, ⊕, ⊗, 0, 1) as values.

An element of K is a tensor whose trailing axes are ``semiring.shape``; a batch of elements puts its own
axes in front. A semiring says what ⊕ does along one axis and what ⊗ does element by element. Blocking,
memory and devices are the library's business, so a new semiring is a few lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from klrp import conversions, rules
from klrp.conversions import Conversion, Theta, as_conversion
from klrp.errors import KlrpError
from klrp.rules import Rule

# Shares of a closed interval may leave it by rounding alone; up to here they are clamped back.
CLAMP = 1e-5


@dataclass(frozen=True)
class _FirstComponent:
    """The default score of elements with ``rank`` axes."""

    rank: int

    def __call__(self, x: Tensor) -> Tensor:
        index: tuple = (..., *(0,) * self.rank)
        first = x[index]
        return first if first.is_floating_point() else first.to(torch.float64)


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
        fused: a hint such as ``"max,mul"``, the name of operations that a fast kernel knows; klrp.check_laws
            compares it with ``add`` and ``mul``.
        default: the rule and the Θ of layers that are given none; None asks the user for both.
        total: what the ⊕ over a map says, in words.
        exact_below: where floats stop holding every element, as 2^53 for counts; None where that is no question.
        parts: the semirings that it is made of, where ``fused`` says how, as in klrp.signed.
        lift: what makes a Θ of it from the Θ that the user gave; None where that is the same.

    Raises:
        KlrpError: for a zero or one of another shape than ``shape``, an empty domain, or a default that is no pair.

    Example:
        >>> FUZZY = Semiring("fuzzy", zero=0.0, one=1.0, domain=(0, 1),
        ...                  add=lambda x, dim: x.amax(dim), mul=torch.minimum)
        >>> klrp.check_laws(FUZZY, torch.tensor([0, .2, .5, 1.]))
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
    default: tuple[Rule, Conversion | Theta] | None = None
    total: str = "the ⊕ over the neurons of the map"
    exact_below: float | None = None
    parts: tuple[Semiring, ...] = ()
    lift: Callable[[Conversion], Conversion] | None = None

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "domain", tuple(self.domain))
        if len(self.domain) != 2 or not self.domain[0] <= self.domain[1]:
            raise KlrpError.value(
                f"Semiring {self.name!r}: domain is {self.domain}; expected (low, high) with low <= high."
            )
        if self.score is None or isinstance(self.score, _FirstComponent):
            object.__setattr__(self, "score", _FirstComponent(len(shape)))
        if self.default is not None:
            object.__setattr__(self, "default", _checked_default(self.name, self.default))
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

    def __repr__(self) -> str:
        return f"<Semiring {self.name}>"

    def __reduce__(self) -> tuple:
        """A shipped semiring is copied and pickled as itself, by its name."""
        if SEMIRINGS.get(self.name) is self:
            return find_semiring, (self.name,)
        return Semiring, tuple(getattr(self, f.name) for f in fields(self))

    @property
    def linear(self) -> bool:
        """Whether it is (+, ×) over the real numbers, where relevance is an amount that a network conserves.

        Its elements have the precision of the network.
        """
        whole = self.domain == (-math.inf, math.inf)
        return self.fused == "sum,mul" and whole and self.shape == () and self.dtype is None

    @property
    def logarithmic(self) -> bool:
        """Whether its scores are logarithms, that of its zero −∞: their exponentials add up, they do not."""
        zero = torch.as_tensor(self.zero, dtype=self.dtype or torch.float64)
        return self.score is not None and float(self.score(zero)) == -math.inf

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


def _checked_default(name: str, default: object) -> tuple[Rule, Conversion]:
    if not isinstance(default, tuple | list) or len(default) != 2 or not isinstance(default[0], Rule):
        raise KlrpError.type(
            f"Semiring {name!r}: default is {default!r}; expected a pair (rule, theta), such as "
            f"(klrp.rules.max_share(), klrp.conversions.identity())."
        )
    return default[0], as_conversion(default[1])


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


def _sum(x: Tensor, dim: int) -> Tensor:
    return x.sum(dim)


def _amax(x: Tensor, dim: int) -> Tensor:
    return x.amax(dim)


def _amin(x: Tensor, dim: int) -> Tensor:
    return x.amin(dim)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    return x.logsumexp(dim)


_inf = math.inf
_tiny_shares_count = rules.epsilon(), conversions.threshold(1e-9)
_best_share_is_one = rules.max_share(), conversions.identity()
_paths = "the number of relevant paths from the output to the map"

REAL = Semiring(
    "real", 0.0, 1.0, _sum, torch.mul, fused="sum,mul", default=(rules.epsilon(), conversions.identity()),
    total="the relevance of the whole map",
)  # fmt: skip
BOOLEAN = Semiring(
    "boolean", False, True, _any, torch.logical_and, domain=(0, 1), dtype=torch.bool, fused="any,and",
    default=_tiny_shares_count, total="whether any neuron of the map is relevant",
)  # fmt: skip
COUNTING = Semiring(
    "counting", 0.0, 1.0, _count, torch.mul, domain=(0, _inf), dtype=torch.float64, fused="count",
    default=_tiny_shares_count, total=_paths, exact_below=2.0**53,
)  # fmt: skip
COUNTING_INT = Semiring(
    "counting_int", 0, 1, _int_add, _int_mul, domain=(0, 2**63 - 1), dtype=torch.int64, fused="count",
    default=_tiny_shares_count, total=_paths,
)  # fmt: skip
VITERBI = Semiring(
    "viterbi", 0.0, 1.0, _amax, torch.mul, domain=(0, 1), fused="max,mul",
    default=_best_share_is_one, total="the weight of the best path from the output to the map",
)  # fmt: skip
TROPICAL = Semiring(
    "tropical", _inf, 0.0, _amin, torch.add, score=torch.neg, fused="min,add",
    default=(rules.max_share(), conversions.neglog()), total="the cost of the cheapest path from the output to the map",
)  # fmt: skip
MAX_PLUS = Semiring(
    "max_plus", -_inf, 0.0, _amax, torch.add, fused="max,add",
    default=(rules.max_share(), conversions.log()), total="the log weight of the best path from the output to the map",
)  # fmt: skip
LOG = Semiring(
    "log", -_inf, 0.0, _logsumexp, torch.add, fused="logsumexp,add", default=(rules.zplus(), conversions.log()),
    total="the log of the summed weights of all paths from the output to the map",
)  # fmt: skip
FUZZY = Semiring(
    "fuzzy", 0.0, 1.0, _amax, torch.minimum, domain=(0, 1), fused="max,min", default=_best_share_is_one,
    total="the strength of the best path from the output to the map, by its weakest share",
)  # fmt: skip
LUKASIEWICZ = Semiring(
    "lukasiewicz", 0.0, 1.0, _amax, _bounded_difference, domain=(0, 1), fused="max,bounded",
    default=_best_share_is_one, total="the truth of the best path from the output to the map",
)  # fmt: skip

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
