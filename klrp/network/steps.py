"""The steps of a network, and the values between them for some inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.network.builders import Operation
from klrp.network.calls import Call, Key, input_key, tensors_of


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a network.

    ``name`` is unique, ``aliases`` are further names of the same output. ``kind`` is the module type and
    ``like`` the one that klrp treats it as; a selector matches either. ``sources`` are the steps it
    reads (inputs among them); what it outputs has that ``shape`` and ``dtype``, and ``key`` names its value.
    """

    name: str
    aliases: tuple[str, ...]
    kind: type
    like: type
    operation: Operation
    sources: tuple[str, ...]
    shape: torch.Size
    dtype: torch.dtype
    key: Key


@dataclass(frozen=True, eq=False)
class Network:
    """The graph of a network for inputs of one shape: it depends on no value.

    ``output`` is the step that outputs the logits, of that ``output_shape``; ``behind`` names the function at the
    end that was looked behind, such as "softmax"; ``calls`` are those that the output depends on, by their numbers;
    ``keys`` name the values of the steps, and ``kept`` those that a pass back reads. It is not ``replayable`` where a
    value of the input was detached, since then a constant of it belongs to one input.
    """

    steps: tuple[Step, ...]
    output: str
    output_shape: torch.Size
    behind: str
    calls: dict[int, Call]
    keys: dict[str, Key]
    kept: frozenset[Key]
    replayable: bool = True

    def run(self, xs: Sequence[Tensor]) -> Trace:
        """The values for other inputs of the same shapes: its calls again, without the model."""
        with torch.no_grad():
            values: dict[Key, Any] = {input_key(i): copied(x) for i, x in enumerate(xs)}
            for number, call in self.calls.items():
                outputs = tensors_of(call.again(lambda source: values[source.key]))
                values.update({traced.key: outputs[traced.item] for traced in call.outputs})
                for key in self._last_read[number]:
                    del values[key]
            return checked(Trace(self, values))

    @cached_property
    def _last_read(self) -> dict[int, list[Key]]:
        """After which call each value that is not kept can go."""
        last = {traced.key: number for number, call in self.calls.items() for traced in call.outputs}
        last |= {source.key: number for number, call in self.calls.items() for source in call.sources}
        gone: dict[int, list[Key]] = {number: [] for number in self.calls}
        for key, number in last.items():
            if key not in self.kept:
                gone[number].append(key)
        return gone


@dataclass(frozen=True, eq=False)
class Trace:
    """A network and what flows between its steps for one input; activations are computed again where they are read."""

    network: Network
    values: dict[Key, Tensor] = field(repr=False)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(name for name, (call, _) in self.network.keys.items() if call < 0)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the network."""
        return self.network.steps

    @property
    def output(self) -> str:
        """The name of the step that outputs the logits."""
        return self.network.output

    @property
    def logits(self) -> Tensor:
        """What the network outputs [N, C]."""
        value = self.value(self.output).reshape(self.network.output_shape)
        return value if value.ndim == 2 else value[:, None]

    def value(self, name: str) -> Tensor:
        """What the step, or the input, of that name outputs."""
        return self.of(self.network.keys[name])

    def before_relu(self, name: str) -> tuple[Tensor, bool]:
        """What the step reads if it is a ReLU, else what it outputs; and which of the two that is."""
        key = self.network.keys[name]
        if key in self.values or self.network.calls[key[0]].name != "relu":
            return self.of(key), False
        return self.of(self.network.calls[key[0]].sources[0].key), True

    def forget(self, name: str) -> None:
        """Let a value go, and its memory: nothing reads it any more."""
        self.values.pop(self.network.keys[name], None)

    def of(self, key: Key) -> Tensor:
        """The value of that key, computed again if it is not kept."""
        if key in self.values:
            return self.values[key]
        return tensors_of(self.network.calls[key[0]].again(lambda source: self.of(source.key)))[key[1]]


def input_names(n: int) -> tuple[str, ...]:
    """What the inputs of a network are called: one alone is "input"."""
    return ("input",) if n == 1 else tuple(f"input.{i}" for i in range(n))


def checked(trace: Trace) -> Trace:
    """The trace, if its logits are finite."""
    if not bool(trace.logits.isfinite().all()):
        raise KlrpError.value("model: its logits are not finite (NaN or Inf). Look at its weights and its inputs.")
    return trace


def copied(x: Tensor) -> Tensor:
    """In case the network writes to it; in rows, since channels_last cannot be viewed flat."""
    return x.detach().as_subclass(Tensor).clone(memory_format=torch.contiguous_format)
