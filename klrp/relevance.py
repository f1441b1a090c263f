"""Relevance: what klrp.explain returns, a read-only mapping from step names to maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from klrp.conservation import Balance, Conservation, totals
from klrp.errors import KlrpError
from klrp.semirings import Semiring

SHOWN = 12  # steps that are printed; the others in the middle are counted


@dataclass(frozen=True, eq=False)
class Relevance(Mapping[str, Tensor]):
    """The relevance of every neuron: a read-only mapping from step names, output to input.

    ``relevance["features.28"]`` is the map [N, *shape of that step's output, *semiring.shape]; ``relevance.input`` that
    of the network's input, and ``relevance.inputs`` those of all of them. ``target`` [N] are the explained classes, or
    None where ``start`` was a tensor; ``logits`` [N, C] the network's output. ``behind`` names a function at the network's
    end that was looked behind, such as "softmax": then the logits are the values that it reads. ``exact`` is False where
    a count reached 2^53 and float64 began to round.
    """

    semiring: Semiring
    target: Tensor | None
    logits: Tensor
    exact: bool
    behind: str
    input_names: tuple[str, ...]
    maps: Mapping[str, Tensor] = field(repr=False)
    aliases: Mapping[str, str] = field(repr=False)
    account: Callable[[], Mapping[str, Balance]] | None = field(repr=False, default=None)
    connections: Callable[[str, Tensor], Tensor] | None = field(repr=False, default=None)
    replay: Callable[[], AbstractContextManager[Any]] | None = field(repr=False, default=None)

    @property
    def input(self) -> Tensor:
        """The relevance of the input [N, *input, *semiring.shape]."""
        return self["input"]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The relevance of each input of the network [N, *input, *semiring.shape]."""
        return tuple(self[name] for name in self.input_names)

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
        """All but the ways to the account, the edges and the plan, which lead to the model."""
        return vars(self) | {"account": None, "connections": None, "replay": None}

    def __repr__(self) -> str:
        behind = f", behind the {self.behind} at its end" if self.behind else ""
        maps = [f"{name} {list(r.shape)}" for name, r in self.maps.items()]
        if len(maps) > SHOWN:
            maps = [*maps[: SHOWN // 2], f"{len(maps) - SHOWN} more steps", *maps[-SHOWN // 2 :]]
        return f"<Relevance {self.semiring.name}{behind}: {', '.join(maps)}>"

    def _missing(self, name: str) -> str:
        known = [*self.maps, *self.aliases]
        calls = [k for k in known if k.startswith(f"{name}@")]
        if calls:
            return f"step: {name!r} is called {len(calls)} times; name one of its calls: {', '.join(calls)}."
        if name == "input" and len(self.input_names) > 1:
            names = ", ".join(self.input_names)
            return f"input: the network has several; use relevance.inputs, or one of the names {names}."
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

    def edges(self, step: str) -> Tensor:
        r"""The relevance of each connection, or weight, of a layer [N, *weight, *semiring.shape].

        .. math:: R_{jk} = Θ(d_{jk}) ⊗ R_k, \qquad \bigoplus_k R_{jk} = R_j

        A weight that connects several pairs, as that of a convolution does, has the ⊕ of theirs: for nn.Linear it is
        [N, K, J], for a convolution [N, out, in / groups, *kernel]. For a product with a held factor, such as a
        softmax's with values, the weights are that factor: [N, heads, K, J] says which token read which. The network is
        run once more for it; memory is that of the result, and of a copy.

        Args:
            step: the name of a layer whose map was kept.

        Raises:
            KlrpError: for a step without weights, or where the model or the inputs have changed since, or the
                Relevance was copied or loaded.

        Example:
            >>> relevance.edges("fc1").shape  # from 784 inputs to 300 neurons
            torch.Size([8, 300, 784])
        """
        if self.connections is None:
            raise KlrpError.value(
                "keep: edges() needs the map of the step, and the model; keep it, and call edges() before the Relevance "
                "is copied or stored."
            )
        return self.connections(self.aliases.get(step, step), self[step])

    def replayed(self) -> AbstractContextManager[Any]:
        """What was decided and computed for the explanation, once more: for what reads shares of it, as klrp.paths."""
        if self.replay is None:
            raise KlrpError.value(
                "keep: paths need the maps of all steps, and the model; ask for them before the Relevance is copied or "
                "stored."
            )
        return self.replay()

    def first(self, n: int) -> Relevance:
        """The first ``n`` samples alone; the others were there to tell which axis is the samples'."""
        account, connections, given = self.account, self.connections, len(self.logits)

        def of_first(r: Tensor) -> Tensor:  # a step may have several rows for a sample
            return r[: len(r) // given * n]

        def first_account() -> dict[str, Balance]:
            assert account is not None
            return {name: Balance(*(entry[:n] for entry in found)) for name, found in account().items()}

        def first_connections(step: str, r: Tensor) -> Tensor:
            assert connections is not None
            return connections(step, self.maps[step])[:n]

        return replace(
            self,
            target=None if self.target is None else self.target[:n],
            logits=self.logits[:n],
            maps={name: of_first(r) for name, r in self.maps.items()},
            account=None if account is None else first_account,
            connections=None if connections is None else first_connections,
        )
