"""Relevance: what klrp.explain returns, a read-only mapping from step names to maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from klrp.conservation import Balance, Conservation, totals
from klrp.errors import KlrpError
from klrp.semirings import Semiring


@dataclass(frozen=True, eq=False)
class Relevance(Mapping[str, Tensor]):
    """The relevance of every neuron: a read-only mapping from step names, output to input.

    ``relevance["features.28"]`` is the map [N, *shape of that step's output, *semiring.shape];
    ``relevance.input`` that of the network's input. ``target`` [N] are the explained classes, or None where ``start``
    was a tensor; ``logits`` [N, C] the network's output. ``behind`` names a function at the network's end that was
    looked behind, such as "softmax": then the logits are the values that it reads. ``exact`` is False where a count
    reached 2^53 and float64 began to round.
    """

    semiring: Semiring
    target: Tensor | None
    logits: Tensor
    exact: bool
    behind: str
    maps: Mapping[str, Tensor] = field(repr=False)
    aliases: Mapping[str, str] = field(repr=False)
    account: Callable[[], Mapping[str, Balance]] | None = field(repr=False, default=None)

    @property
    def input(self) -> Tensor:
        """The relevance of the input [N, *input, *semiring.shape]."""
        return self["input"]

    def __getitem__(self, name: str) -> Tensor:
        found = self.maps.get(self.aliases.get(name, name))
        if found is None:
            raise KlrpError.key(self._missing(name))
        return found

    # Maps are tensors: two explanations are the same only if they are one object.
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __getstate__(self) -> dict:
        """All but the way to the account, which leads to the model."""
        return vars(self) | {"account": None}

    def __repr__(self) -> str:
        behind = f", behind the {self.behind} at its end" if self.behind else ""
        maps = ", ".join(f"{name} {list(r.shape)}" for name, r in self.maps.items())
        return f"<Relevance {self.semiring.name}{behind}: {maps}>"

    def _missing(self, name: str) -> str:
        known = [*self.maps, *self.aliases]
        calls = [k for k in known if k.startswith(f"{name}@")]
        if calls:
            return f"step: {name!r} is called {len(calls)} times; name one of its calls: {', '.join(calls)}."
        return f"step: there is no map {name!r}. The maps kept are: {', '.join(known)}."

    def conservation(self) -> Conservation:
        """Where relevance went, step by step.

        For the reals: received = passed + bias + stabiliser + lost, each [N], where lost is what went to
        neurons with z = 0, what Θ changed, and what constants received. The network is explained once more for it,
        so that an explanation costs nothing for what is not asked. For other semirings the ⊕ over each map
        [N, *shape]: how much is relevant, which a semiring need not conserve.

        Raises:
            KlrpError: over the reals, where not all maps were kept, the model or the inputs have changed since, or
                the Relevance was copied or loaded.
        """
        if not self.semiring.linear:
            return totals(self.maps, self.semiring, self.aliases, len(self.logits))
        if self.account is None:
            raise KlrpError.value(
                'keep: conservation() needs every map, and the model; explain with keep="all", and call it before the '
                "Relevance is copied or stored."
            )
        return Conservation(self.account(), self.aliases)

    def first(self, n: int, target: Tensor | None, logits: Tensor) -> Relevance:
        """The first ``n`` samples alone, with their targets and logits."""
        account = self.account
        if account is not None:
            whole = account

            def account() -> dict[str, Balance]:
                return {name: Balance(*(entry[:n] for entry in found)) for name, found in whole().items()}

        given = len(self.logits)  # a step may have several rows for a sample
        maps = {name: r[: len(r) // given * n] for name, r in self.maps.items()}
        return replace(self, target=target, logits=logits, maps=maps, account=account)
