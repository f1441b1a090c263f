"""The calls of a network: what was recorded of each, and how to compute them again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

from klrp.network import builders, vocabulary
from klrp.network.builders import Traced

Key = tuple[int, int]  # (number of the call, which of its outputs); the inputs are those of call -1
# Whose lines are not the user's.
_FOLDERS = (os.path.dirname(torch.__file__) + os.sep, str(Path(__file__).parents[1]) + os.sep, "<")


class Frame(NamedTuple):
    """A call of a module: its path and type, and which call it happened in."""

    path: str
    kind: type
    above: Frame | None


@dataclass(frozen=True, eq=False)
class Call:
    """A recorded call: a pure function, its arguments with a Traced for each value that depends on the input, what is
    known of its outputs, and where it happened."""

    name: str
    function: Callable
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[Traced, ...]
    frame: Frame
    where: str
    module: nn.Module | None = None  # a registered one

    @cached_property
    def sources(self) -> list[Traced]:
        """What it reads, in the order of its arguments."""
        return [x for x in leaves((self.args, self.kwargs)) if isinstance(x, Traced)]

    def again(self, value: Callable[[Traced], Any], constant: Callable[[Any], Any] = lambda x: x) -> Any:
        """Compute it from the values of what it reads; ``constant`` is applied to all else."""
        put = lambda x: value(x) if isinstance(x, Traced) else constant(x)  # noqa: E731
        return self.function(*mapped(put, self.args), **mapped(put, self.kwargs))


def input_key(number: int) -> Key:
    """What names the value of an input."""
    return -1, number


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of nested lists, tuples, dictionaries and slices."""
    if isinstance(tree, dict):
        tree = tree.values()
    elif isinstance(tree, slice):
        tree = (tree.start, tree.stop, tree.step)
    elif not isinstance(tree, list | tuple) or isinstance(tree, Traced):
        yield tree
        return
    for item in tree:
        yield from leaves(item)


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree with the function applied to each leaf."""
    if isinstance(tree, dict):
        return {key: mapped(function, item) for key, item in tree.items()}
    if isinstance(tree, Traced) or not isinstance(tree, list | tuple):
        return function(tree)
    items = [mapped(function, item) for item in tree]
    return items if isinstance(tree, list) else tuple(items)


def tensors_of(out: Any) -> tuple:
    """What a function returned as a tuple of outputs."""
    return tuple(out) if isinstance(out, tuple | list) else (out,)


def recomputable(call: Call) -> bool:
    """Whether the value of a call costs little to compute again, and is the same whenever it is."""
    entry = vocabulary.FUNCTIONS.get(call.name)
    if entry is None or call.module is not None or entry.registered or call.name in vocabulary.RANDOM:
        return False
    return call.name in vocabulary.SQUASHING or entry.build is builders.activation


def line_of_user() -> str:
    """The line of the user's code that is running: the innermost one that is neither torch's nor klrp's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_FOLDERS):
        frame = frame.f_back
    if frame is None:
        return "an unknown line"
    name, line = frame.f_code.co_filename, frame.f_lineno
    if "ipykernel" in name:
        return f"line {line} of a cell"
    *_, inside = name.split(f"site-packages{os.sep}")
    near = os.path.relpath(inside) if os.path.isabs(inside) else inside
    return f"{inside if near.startswith(os.pardir) else near}:{line}"


def first_line(error: Exception) -> str:
    """The first line of an error's text, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(" .:") + "."
