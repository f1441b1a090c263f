"""Where relevance goes: for the reals a balance for each step, for other semirings the total of each map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.network.layers import Layer
from klrp.network.moves import Move
from klrp.semirings import Semiring
from klrp.shares import Shares
from klrp.tables import Table


class Balance(NamedTuple):
    """The account of one step, each entry [N]: received = passed + bias + stabiliser + lost."""

    received: Tensor
    passed: Tensor
    bias: Tensor
    stabiliser: Tensor
    lost: Tensor

    @property
    def error(self) -> Tensor:
        """received − (passed + bias + stabiliser + lost) [N]: rounding, or a mistake."""
        return self.received - self.passed - self.bias - self.stabiliser - self.lost


class Total(NamedTuple):
    """The ⊕ over one map [N, *shape], and what it says."""

    total: Tensor
    meaning: str


@dataclass(frozen=True, eq=False)
class Conservation(Mapping[str, Balance | Total]):
    """A read-only mapping from step names to their Balance (reals) or Total (other semirings)."""

    entries: Mapping[str, Balance | Total]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Balance | Total:
        found = self.entries.get(self.aliases.get(name, name))
        if found is None:
            raise KlrpError.key(f"step: no account of {name!r}. There are: {', '.join(self.entries)}.")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def table(self, sample: int = 0) -> Table:
        """The entries of one sample as a table; for the reals the error of each step stands in it."""
        real = any(isinstance(entry, Balance) for entry in self.entries.values())
        columns = (*Balance._fields, "error") if real else Total._fields
        rows = []
        for name, entry in self.entries.items():
            values = [getattr(entry, column) for column in columns]
            if all(len(v) for v in values if isinstance(v, Tensor)):
                rows.append((name, *(v[sample].tolist() if isinstance(v, Tensor) else v for v in values)))
        return Table(("step", *columns), tuple(rows))

    def worst(self) -> tuple[str, float]:
        """The step with the largest error of the reals' account, relative to what it received, and that error."""
        errors = {
            name: float((entry.error.abs() / entry.received.abs().clamp_min(1e-30)).amax()) if len(entry.error) else 0.0
            for name, entry in self.entries.items()
            if isinstance(entry, Balance)
        }
        name = max(errors, key=errors.__getitem__, default="")
        return name, errors.get(name, 0.0)

    def __repr__(self) -> str:
        name, error = self.worst()
        return repr(self.table()) + (f"\nlargest error: {error:.1e} of what it received, at {name}" if name else "")

    def _repr_html_(self) -> str:
        name, error = self.worst()
        said = f"<p>largest error: {error:.1e} of what it received, at {escape(name)}</p>" if name else ""
        return self.table()._repr_html_() + said


def balance(
    step: Layer | Move, shares: Shares | None, r: Tensor, passed: list[Tensor | None], linear: bool, n: int,
    values: Sequence[Tensor] = (),
) -> Balance:  # fmt: skip
    """The account of one step that received r [N, *output] and passed its inputs' relevance on, for each of the ``n``
    samples, which may have several rows each; ``values`` are what a move reads, if where to depends on them.

    ``linear`` says that Θ = id: then every term is computed for itself, and the error shows a mistake.
    Otherwise what Θ changed counts as lost, whatever it is, and the error is 0 by definition.
    """

    def total(x: Tensor) -> Tensor:
        return x.reshape(n, x.numel() // max(1, n)).sum(1)

    received = total(r)
    zero = torch.zeros_like(received)
    handed = sum((total(x) for x in passed if x is not None), start=zero)
    if shares is None and isinstance(step, Move):
        return Balance(received, handed, zero, zero, total(step.lost(r, values)))
    bias = stabiliser = lost = expected = zero
    assert shares is not None  # a layer takes some
    for part in shares.parts:
        s = part.scale * r / part.denominator
        below = part.z if part.bias is None else part.z - part.bias
        if shares.rule.normaliser == "max":  # here the shares of a neuron add up to more than 1
            below = part.contributions()
            lost = lost - total(s * (below - part.stabilised))
        expected = expected + total(s * below)
        stabiliser = stabiliser + total(s * (part.stabilised - part.z))
        bias = bias if part.bias is None else bias + total(s * part.bias)
        lost = lost + total(torch.where(part.denominator.isinf(), part.scale * r, 0))
    return Balance(received, handed, bias, stabiliser, lost if linear else lost + expected - handed)


def totals(maps: Mapping[str, Tensor], semiring: Semiring, aliases: Mapping[str, str], n: int) -> Conservation:
    """The ⊕ over the neurons of each map [N, *shape] for each sample; no semiring but the reals need conserve it."""
    rank = len(semiring.shape)
    sizes = {name: math.prod(r.shape[: r.ndim - rank]) // max(1, n) for name, r in maps.items()}
    flat = {name: r.reshape(n, sizes[name], *semiring.shape) for name, r in maps.items()}
    return Conservation({name: Total(semiring.sum(r, 1), semiring.total) for name, r in flat.items()}, aliases)
