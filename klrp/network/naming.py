"""What the steps are called: the path of a module, or the name of a function, numbered as by torch.fx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from torch.nn.modules.batchnorm import _BatchNorm

from klrp.network import vocabulary
from klrp.network.builders import Traced, rearrange
from klrp.network.calls import Call, Frame, Key

_SHORT = {"rsub": "sub", "T": "t", "mT": "transpose"}


def names_of(made: Sequence[tuple[Call, Traced]], inputs: Iterable[str]) -> dict[Key, tuple[str, bool]]:
    """The name of each output that becomes a step, and whether it is that of the module whose forward made it.

    A step has its module's name if it is the only one of that call, or the one that a module of this type is for;
    a module's second call is "path@2". All others have the name of their function: "add", "add_1".
    """
    indices = [(call, output) for call, output in made if _is_index(call, output)]
    made = [(call, output) for call, output in made if not _is_index(call, output)]
    steps_in = Counter(id(frame) for call, _ in made for frame in _frames(call.frame))
    own = [_is_own(call, steps_in) for call, _ in made]
    total = Counter(call.frame.path for (call, _), mine in zip(made, own, strict=True) if mine)
    numbers: Counter[str] = Counter()
    reserved, names = {"input", "output", *inputs}, {}
    used = set(total) | reserved
    for (call, output), mine in zip(made, own, strict=True):
        if mine:
            path = call.frame.path
            name = path
            while total[path] > 1 or path in reserved:
                numbers[path] += 1
                name = f"{path}@{numbers[path]}"
                if name not in used:
                    break
            used.add(name)
            names[output.key] = name, True
        else:
            name = base = _base(call)
            while name in used:
                numbers[base] += 1
                name = f"{base}_{numbers[base]}"
            used.add(name)
            names[output.key] = name, False
    for call, output in indices:
        pool, _ = names.get((output.call, 0), (_base(call), False))
        name = f"{pool}.indices"
        while name in used:
            name += "_"
        names[output.key] = name, False
    return names


def _is_index(call: Call, output: Traced) -> bool:
    """Whether it is where the values of a max-pool come from, which goes with them."""
    return output.item == 1 and "max_pool" in call.name


def _frames(frame: Frame | None) -> Iterator[Frame]:
    """The module calls that a call happened in, from the inside."""
    while frame is not None:
        yield frame
        frame = frame.above


def _is_own(call: Call, steps_in: Counter[int]) -> bool:
    kind, entry = call.frame.kind, vocabulary.FUNCTIONS.get(call.name)
    if not call.frame.path:
        return False
    if call.module is not None or steps_in[id(call.frame)] == 1:
        return True
    norms = entry is not None and issubclass(entry.kind, _BatchNorm) and issubclass(kind, _BatchNorm)
    return norms or entry is not None and issubclass(kind, entry.kind)


def _base(call: Call) -> str:
    entry = vocabulary.FUNCTIONS.get(call.name)
    if len(call.outputs) > 1 and entry is not None and entry.build is rearrange:
        return "getitem"  # the pieces of a chunk
    return _SHORT.get(call.name, call.name.removesuffix("_with_indices"))
