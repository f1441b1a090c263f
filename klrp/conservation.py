"""Where relevance goes: for the reals a balance for each step, for other semirings the total of each map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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

    def __getitem__(self, name: str) -> Balance | Total:
        if name not in self.entries:
            raise KlrpError.key(f"step: no account of {name!r}. There are: {', '.join(self.entries)}.")
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def table(self, sample: int = 0) -> Table:
        """The entries of one sample as a table."""
        first = next(iter(self.entries.values()))
        columns = first._fields if isinstance(first, Balance) else ("total", "meaning")
        rows = (
            (name, *(v[sample].tolist() if isinstance(v, Tensor) else v for v in entry))
            for name, entry in self.entries.items()
        )
        return Table(("step", *columns), tuple(rows))

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def balance(step: Layer | Move, shares: Shares | None, r: Tensor, passed: list[Tensor], linear: bool) -> Balance:
    """The account of one step that received r [N, *output] and passed its inputs' relevance on.

    ``linear`` says that Θ = id: then every term is computed for itself, and the error shows a mistake.
    Otherwise what Θ changed counts as lost, whatever it is, and the error is 0 by definition.
    """
    received, handed = _sum(r), sum(_sum(x) for x in passed)
    zero = torch.zeros_like(received)
    if shares is None:
        return Balance(received, handed, zero, zero, step.lost(r))
    bias = stabiliser = lost = expected = zero
    for part in shares.parts:
        s = part.scale * r / part.divisor
        below = part.total if part.bias is None else part.total - part.bias
        if shares.rule.normaliser == "max":  # here the shares of a neuron add up to more than 1
            below = part.contributions()
            lost = lost - _sum(s * (below - part.z))
        expected = expected + _sum(s * below)
        stabiliser = stabiliser + _sum(s * (part.z - part.total))
        bias = bias if part.bias is None else bias + _sum(s * part.bias)
        lost = lost + _sum(torch.where(part.divisor.isinf(), part.scale * r, 0))
    return Balance(received, handed, bias, stabiliser, lost if linear else lost + expected - handed)


def _sum(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).sum(1)


def totals(maps: Mapping[str, Tensor], semiring: Semiring) -> Conservation:
    """The ⊕ over the neurons of each map [N, *shape]; no semiring but the reals need conserve it."""
    rank = len(semiring.shape)
    flat = {name: r.flatten(1, r.ndim - 1 - rank) for name, r in maps.items()}
    return Conservation({name: Total(semiring.sum(r, 1), semiring.total) for name, r in flat.items()})
