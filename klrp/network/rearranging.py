"""What only moves neurons: a call is replayed on the indices of its inputs' neurons, and stays within each sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from klrp.errors import KlrpError
from klrp.network import vocabulary
from klrp.network.builders import Operation, Traced
from klrp.network.calls import Call, Key, tensors_of
from klrp.network.moves import Pad, Pass, Permute, Rearrange

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)

# Values whose first axis is not the samples', as [3, N, ...] of a query, key and value, with the call that moved them.
# They are no steps: whoever rearranges them reads what they were made of.
Moved = dict[Key, tuple[Rearrange, list[Traced], Call]]


def rearranged(call: Call, item: int, moved: Moved) -> tuple[Operation, list[Traced]]:
    """The call on the indices of its inputs' neurons, which tells which neuron shows which."""
    lent = call.sources[1:] if call.name in vocabulary.LENDS_SHAPE else []
    read = list({source.key: source for source in call.sources if source not in lent}.values())
    if any(source.dtype == torch.bool for source in read):
        raise KlrpError.value("it moves neurons by a mask that depends on the values")
    if call.name in vocabulary.KEEPS_ORDER and read[0].key not in moved:
        return Pass(tuple(read[0].shape)), read
    if len(read) == 1 and read[0].key not in moved and (known := _known(call, read[0])) is not None:
        return known, read
    # Float indices, exact to 2^53, since padding runs on floats; doubled, only constants stay put.
    starts, start = {}, 1
    for source in (s for r in read for s in (moved[r.key][1] if r.key in moved else [r])):
        if source.key not in starts:
            starts[source.key] = start, source
            start += math.prod(source.shape)
    index = {source.key: _numbers(source, starts, moved).double() for source in read}
    blank = torch.zeros((), dtype=torch.float64)

    def replayed(factor: int) -> Tensor:
        found = call.again(lambda s: factor * index[s.key] if s.key in index else blank.expand(s.shape), _precise)
        return tensors_of(found)[item]

    once, twice = replayed(1), replayed(2)
    origin = torch.where((once == twice) | ~once.isfinite(), 0, once).long()
    sources = [source for _, source in starts.values()]
    return Rearrange(tuple(tuple(source.shape) for source in sources), origin), sources


def _known(call: Call, source: Traced) -> Operation | None:
    """What needs no list of neurons: axes in another order, and constants around."""
    if call.name in vocabulary.PERMUTING:
        sizes = PRIMES[: len(source.shape)]  # of a tensor that shows by its shape where its axes went
        found = tensors_of(call.again(lambda _: torch.empty(sizes, device="meta")))[0]
        order = tuple(sizes.index(size) for size in found.shape)
        return Permute(tuple(source.shape), order) if len(order) == len(sizes) and order[:1] == (0,) else None
    if call.name == "pad":
        return _padded(*call.args, **call.kwargs)
    return None


def _padded(input: Traced, pad: Any, mode: str = "constant", value: Any = None) -> Pad | None:
    widths = [tuple(pad[i : i + 2]) for i in range(0, len(pad), 2)]
    if mode != "constant" or not 0 < len(widths) < len(input.shape):
        return None
    return Pad(tuple(input.shape), ((0, 0),) * (len(input.shape) - len(widths)) + tuple(reversed(widths)))


def _precise(constant: Any) -> Any:
    """A constant that indices may be written into."""
    return constant.double() if isinstance(constant, Tensor) and constant.is_floating_point() else constant


def _numbers(value: Traced, starts: dict[Key, tuple[int, Traced]], moved: Moved) -> Tensor:
    """For each neuron of a value the number of the one that it shows, where its sources begin at ``starts``."""
    if value.key not in moved:
        first = starts[value.key][0]
        return torch.arange(first, first + math.prod(value.shape), device=value.device).reshape(value.shape)
    operation, sources, _ = moved[value.key]
    numbers, start = torch.zeros_like(operation.origin), 1
    for source in sources:
        stop = start + math.prod(source.shape)
        here = (operation.origin >= start) & (operation.origin < stop)
        numbers = torch.where(here, operation.origin - start + starts[source.key][0], numbers)
        start = stop
    return numbers


def as_rearrange(operation: Rearrange | Pass, output: Traced) -> Rearrange:
    """A reshape as the rearrangement that it is, so that others can be put behind it."""
    if isinstance(operation, Rearrange):
        return operation
    numbers = torch.arange(1, 1 + math.prod(output.shape), device=output.device).reshape(output.shape)
    return Rearrange((operation.input,), numbers)


def by_samples(shape: torch.Size, n: int) -> bool:
    """Whether the first axis is that of the samples, or has several rows for each; of one sample that cannot be told."""
    return bool(shape) and (shape[0] == n or (n > 1 and shape[0] > 0 and shape[0] % n == 0))


def mixes_samples(operation: Operation, n: int) -> bool:
    """Whether a neuron of a sample, in the order of memory, shows one of another sample."""
    if not isinstance(operation, Rearrange) or not n:
        return False
    origin = operation.origin.reshape(n, -1)
    own, start = torch.arange(n, device=origin.device)[:, None], 1
    for shape in operation.inputs:
        stop = start + math.prod(shape)
        sample = (origin - start) // (math.prod(shape) // n)
        if bool(((sample != own) & (origin >= start) & (origin < stop)).any()):
            return True
        start = stop
    return False
