"""From recorded calls to steps: each call that the output depends on becomes a step with an operation; a BatchNorm
behind its layer is folded into that layer's weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from klrp.errors import KlrpError, SampleAxisError
from klrp.network import vocabulary
from klrp.network.builders import Operation, Traced, activation, rearrange
from klrp.network.calls import Call, Key, first_line, input_key
from klrp.network.capture import Capture
from klrp.network.layers import Affine, Conv, Layer, Linear
from klrp.network.linearised import Product
from klrp.network.moves import Held, Pass, Rearrange
from klrp.network.naming import names_of
from klrp.network.products import div
from klrp.network.rearranging import Moved, as_rearrange, by_samples, mixes_samples, rearranged
from klrp.network.refusals import described, not_a_tensor, without_rule
from klrp.network.registered import verify
from klrp.network.steps import Network, Step, Trace, input_names
from klrp.network.vocabulary import Entry


class Assembly:
    """Turns a capture into steps."""

    def __init__(self, captured: Capture, xs: Sequence[Tensor]):
        self.calls, self.values, self.samples = list(captured.calls), captured.values, len(xs[0])
        self.inputs = {name: input_key(i) for i, name in enumerate(input_names(len(xs)))}
        self.returned, self.frozen = captured.returned, captured.frozen
        self.output = self._checked_output()
        self.read: Counter[Key] = Counter([self.output])
        self.needed = self._needed()
        self._check_spoilt(captured.spoilt)
        self.squashed = -1
        self.behind = self._look_behind()
        self.steps: dict[str, Step] = {}
        self.names: dict[Key, str] = {key: name for name, key in self.inputs.items()}
        self.moved: Moved = {}
        self.ranks: dict[Key, int] = {}
        made = [(self.calls[n], out) for n in self.needed for out in self.calls[n].outputs if self.read[out.key]]
        self.called = names_of(made, self.inputs)
        self.times: Counter[str] = Counter()

    def built(self) -> Trace:
        entries = {number: self._entry(self.calls[number]) for number in self.needed}
        for number, entry in entries.items():
            self.ranks |= dict.fromkeys((t.key for t in self.calls[number].outputs), self._rank(self.calls[number]))
            for traced in self.calls[number].outputs:
                if self.read[traced.key]:
                    self._step(self.calls[number], entry, traced)
        if self.output not in self.names:
            raise KlrpError.value("model: its output is its input; there is nothing to explain.")
        steps = tuple(self.steps.values())
        keys = self.inputs | {step.name: step.key for step in steps}
        output = self.names[self.output]
        shape = self.returned.shape
        calls = {number: self.calls[number] for number in self.needed}
        network = Network(steps, output, shape, self.behind, calls, keys, frozenset(self._kept(steps)), not self.frozen)
        return Trace(network, {key: value for key, value in self.values.items() if key in network.kept})

    # --- the graph ----------------------------------------------------------------------------------------

    def _checked_output(self) -> Key:
        value, n = self.returned, self.samples
        if not isinstance(value, Tensor | Traced):
            raise KlrpError.type(not_a_tensor(value))
        if len(value.shape) not in (1, 2) or value.shape[0] != n or not value.dtype.is_floating_point:
            raise SampleAxisError(
                f"model: it returns {tuple(value.shape)} of {value.dtype} for {n} samples of inputs; expected floating "
                f"logits [N, C] or [N]. Flatten or select them, by output=lambda y: y[:, :, 10, 20] "
                f"or the like, or in a wrapper; where the inputs lack the axis of samples, "
                f"add it, inputs[None]."
            )
        if isinstance(value, Tensor):
            raise KlrpError.value("model: its output does not depend on the input; there is nothing to explain.")
        return value.key

    def _needed(self) -> list[int]:
        """The numbers of the calls that the output depends on, in order; ``read`` counts who reads each value."""
        needed, waiting = set(), [self.output]
        while waiting:
            number, _ = waiting.pop()
            if number < 0 or number in needed:
                continue
            needed.add(number)
            for source in self.calls[number].sources:
                self.read[source.key] += 1
                waiting.append(source.key)
        return sorted(needed)

    def _check_spoilt(self, spoilt: list[tuple[int, Key, str]]) -> None:
        for number, key, message in spoilt:
            later = any(key in {s.key for s in self.calls[n].sources} for n in self.needed if n > number)
            if later or key == self.output:
                raise KlrpError.value(
                    f"model: {message}. Write it without changing its argument: y = f(x) in place of f_(x)."
                )

    def _look_behind(self) -> str:
        """A softmax or the like at the end is replaced by the identity: the values before it are explained."""
        number, call = self.output[0], None
        while number >= 0 and self.read[number, 0] == 1:
            call = self.calls[number]
            if call.name in vocabulary.SQUASHING and call.name != "softmin":
                _check_over_classes(call)
                self.calls[number], self.squashed = replace(call, function=lambda x, *args, **kwargs: x), number
                self.values = {key: value for key, value in self.values.items() if key[0] < number}
                return call.name
            if not _keeps_all(call):
                break
            number = call.sources[0].call
        return ""

    def _kept(self, steps: tuple[Step, ...]) -> Iterator[Key]:
        """The values that cannot be computed again from others that are kept, and that a step may read."""
        yield from self.inputs.values()
        waiting = [step.key for step in steps]
        seen = set()
        while waiting:
            key = waiting.pop()
            if key in seen:
                continue
            seen.add(key)
            if key in self.values:
                yield key
            elif key[0] >= 0:
                waiting.extend(source.key for source in self.calls[key[0]].sources)

    # --- steps --------------------------------------------------------------------------------------------

    def _entry(self, call: Call) -> Entry:
        entry = vocabulary.FUNCTIONS.get(call.name) if call.module is None else _registered(call.module)
        if entry is None:
            raise without_rule(call)
        return entry

    def _step(self, call: Call, entry: Entry, output: Traced) -> None:
        try:
            operation, sources = self._operation(call, entry, output)
        except KlrpError as error:
            text = str(error).rstrip(".")
            message = text if text.startswith("inputs:") else f"model: {described(call)}: {text}, at {call.where}"
            raise type(error)(message + ".") from None
        except (TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise KlrpError.value(
                f"model: {described(call)} is called in a way that has no rule, at {call.where}: {first_line(error)} "
                f"Call it as its documentation does."
            ) from error
        n = self.samples
        if not by_samples(output.shape, n) or mixes_samples(operation, n):
            if not isinstance(operation, Rearrange | Pass) or output.key == self.output:
                raise self._mixing(call, output)
            self.moved[output.key] = as_rearrange(operation, output), sources, call
            return
        for source in sources:
            if source.key in self.moved:
                raise self._mixing(self.moved[source.key][2], source)
        self._enter(call, entry, output, operation, [self.names[source.key] for source in sources])

    def _mixing(self, call: Call, output: Traced) -> SampleAxisError:
        return SampleAxisError(
            f"model: {described(call)} mixes or merges samples, at {call.where}: {tuple(output.shape)} from {self.samples} of "
            f"them. Inputs are [N, ...]: where the axis of samples is missing, add it, inputs[None]."
        )

    def _enter(self, call: Call, entry: Entry, output: Traced, operation: Operation, sources: list[str]) -> None:
        if call.name == "named" and sources[0] in self.steps:
            self._rename(sources[0], call, output)
            return
        name, own = self.called[output.key]
        kind = call.frame.kind if own else entry.kind
        like = Product if isinstance(operation, Product) else entry.kind
        kind = like if kind is entry.kind else kind
        step = Step(name, (), kind, like, operation, tuple(sources), output.shape, output.dtype, output.key)
        previous = self._foldable(entry, call)
        if previous is not None:
            aliases, operation = (*previous.aliases, name), _folded(previous.operation, operation)
            step = replace(previous, aliases=aliases, operation=operation, key=output.key)
            del self.steps[previous.name]
        self.steps[step.name], self.names[output.key] = step, step.name

    def _rename(self, old: str, call: Call, output: Traced) -> None:
        """The step that made a hidden state is called by the time: "lstm.0@t5", or, for a cell, by the number of its call."""
        path, given = call.frame.path or "rnn", call.args[1]
        name = f"{path}{given}" + (str(self.times[path]) if given == "@t" else "")
        self.times[path] += given == "@t"
        if name in self.steps:  # the module is called again
            self.times[name] += 1
            name = f"{name}@{self.times[name] + 1}"
        step = replace(self.steps.pop(old), name=name)
        self.steps[name] = step
        self.names |= dict.fromkeys((step.key, output.key), name)

    def _operation(self, call: Call, entry: Entry, output: Traced) -> tuple[Operation, list[Traced]]:
        if output.call == self.squashed:
            return activation(*call.args[:1] or [call.kwargs["input"]])
        if entry.build is rearrange:
            operation, sources = rearranged(call, output.item, self.moved)
        elif output.item:
            if not self._unpooled(output.key):
                raise KlrpError.value("the indices that it returns depend on the values, and no rule follows them")
            operation, sources = Held(tuple(call.sources[0].shape)), call.sources[:1]
        else:
            args, kwargs = _arguments(call)
            operation, sources = entry.build(*args, **kwargs)
            sources = list(sources)
            if isinstance(operation, Product):
                operation = self._gated(operation, sources)
        lent = call.name in vocabulary.LENDS_SHAPE
        dropped = {s.key for s in call.sources[: 1 if lent else None]} - {s.key for s in sources}
        dropped -= self.moved.keys() if entry.build is rearrange else set()
        if dropped:
            raise KlrpError.value("it reads a value that depends on the input where klrp expects a constant")
        if entry.registered:
            network = Network((), "", output.shape, "", dict(enumerate(self.calls)), {}, frozenset())
            values = Trace(network, self.values)
            verify(call, operation, [values.of(source.key) for source in sources], values.of(output.key))
        return operation, sources

    def _unpooled(self, key: Key) -> bool:
        """Whether nothing but the unpooling of a max-pool reads its indices."""
        readers = [self.calls[n] for n in self.needed if key in {s.key for s in self.calls[n].sources}]
        return all(call.name.startswith("max_unpool") for call in readers)

    def _gated(self, product: Product, factors: list[Traced]) -> Product:
        """The product, and which of its factors is a gate: the one of the highest rank, if that is one alone."""
        ranks = [self.ranks.get(factor.key, 0) for factor in factors]
        top = max(ranks)
        gates = tuple(i for i, rank in enumerate(ranks) if rank == top > 0)
        attention = product.matrix and top == vocabulary.ATTENTION and len(gates) == 1
        return replace(product, gates=gates, attention=attention)

    def _rank(self, call: Call) -> int:
        """How much what a call makes is a gate: by its function, or by what it is made of."""
        entry = vocabulary.FUNCTIONS.get(call.name)
        if call.name in vocabulary.GATES or entry is None or entry.kind not in vocabulary.KEEPS_GATES:
            return vocabulary.GATES.get(call.name, 0)
        made_of = call.sources
        if entry.build is div:  # a quotient is what is divided, and 1 / x a scale
            if not isinstance(call.args[0] if call.args else call.kwargs["input"], Traced):
                return vocabulary.SCALE
            made_of = made_of[:1]
        return min((self.ranks.get(source.key, 0) for source in made_of), default=0)

    def _foldable(self, entry: Entry, call: Call) -> Step | None:
        """The layer in front of a BatchNorm that nobody else reads."""
        if not issubclass(entry.kind, _BatchNorm):
            return None
        source = call.sources[0].key
        step = self.steps.get(self.names[source])
        if step is None or self.read[source] > 1:
            return None
        linear = isinstance(step.operation, Linear) and len(step.shape) == 2
        return step if linear or isinstance(step.operation, Conv) else None


def _keeps_all(call: Call) -> bool:
    """Whether a call keeps all neurons in their order: a reshape, or a slice of all there is."""
    entry = vocabulary.FUNCTIONS.get(call.name)
    if call.name in vocabulary.KEEPS_ORDER or (entry is not None and entry.kind is nn.Identity):
        return True
    index = call.args[1] if len(call.args) > 1 else ()
    plain = all(
        isinstance(i, int | slice | EllipsisType | None) for i in (index if isinstance(index, tuple) else (index,))
    )
    whole = call.sources[0].shape.numel() == call.outputs[0].shape.numel()
    return call.name in ("getitem", "select", "narrow") and plain and whole


def _registered(module: nn.Module) -> Entry:
    return next(vocabulary.MODULES[kind] for kind in type(module).__mro__ if kind in vocabulary.MODULES)


_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # NumPy's, which torch takes too


def _arguments(call: Call) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a call as a builder takes them."""
    args, kwargs = call.args, {_NAMES.get(key, key): value for key, value in call.kwargs.items()}
    for keyword, position in (("input", 0), ("tensors", 0), ("other", 1)):  # torch's names of the operands
        if keyword in kwargs and len(args) == position:
            args = (*args, kwargs.pop(keyword))
    if call.name in ("mean", "sum") and len(args) > 2 and isinstance(args[1], int) and type(args[2]) is int:
        args = (args[0], args[1:])
    if call.module is not None and issubclass(_registered(call.module).kind, nn.Linear | nn.modules.conv._ConvNd):
        kwargs["module"] = call.module
    return args, kwargs


def _check_over_classes(call: Call) -> None:
    dims = [a for a in (*call.args[1:2], call.kwargs.get("dim")) if isinstance(a, int)]
    if call.name in ("softmax", "log_softmax") and any(d % len(call.outputs[0].shape) == 0 for d in dims):
        raise SampleAxisError(
            f"model: {described(call)} is taken over the samples, at {call.where}; name another axis."
        )


def _folded(layer: Layer, norm: Affine) -> Layer:
    """BatchNorm after a linear layer: w' = w s, b' = b s + t, with the norm's scale s and shift t."""
    scale, shift = norm.weights[0][0], norm.bias[0]
    weight = layer.weights[0] * scale.reshape(-1, *(1,) * (layer.weights[0].ndim - 1))
    bias = shift if layer.bias is None else layer.bias * scale + shift
    return replace(layer, weights=(weight,), bias=bias)
