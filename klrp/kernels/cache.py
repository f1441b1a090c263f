"""Packed weights, made once for all the batches of klrp.explain_many."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

Packed = TypeVar("Packed")


class _Entry(NamedTuple):
    weight: weakref.ref
    version: int
    packed: object
    size: int


class Cache(Generic[Packed]):
    """What kernels make of weights, the most recently used ``memory`` bytes of it.

    An entry belongs to one tensor object, its version and a layout. Writing to the tensor makes it stale (a write
    through ``.data`` is not seen), and it goes with the tensor. Threads may share a cache.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._entries: OrderedDict[tuple, _Entry] = OrderedDict()
        self._held = 0
        self._lock = threading.RLock()  # the callback of a weak reference may come while this thread holds it

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def held(self) -> int:
        """The bytes of all entries."""
        return self._held

    def get(self, weight: Tensor, layout: Hashable, make: Callable[[], tuple[Packed, int]]) -> Packed:
        """What ``make`` made of the weight in this layout, or makes now: the thing and its size in bytes."""
        if weight.is_inference():  # it has no version
            return make()[0]
        key = id(weight), layout
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.weight() is weight and entry.version == weight._version:
                self._entries.move_to_end(key)
                return entry.packed
        version = weight._version
        packed, size = make()  # outside the lock: two threads may both make it, and the later one stays
        with self._lock:
            self._drop(key)
            if size <= self.memory:
                self._entries[key] = _Entry(weakref.ref(weight, self._dropper(key)), version, packed, size)
                self._held += size
            while self._held > self.memory:
                self._drop(next(iter(self._entries)))
        return packed

    def _dropper(self, key: tuple) -> Callable[[object], None]:
        """What drops an entry when its tensor is gone; it does not keep the cache itself."""
        cache = weakref.ref(self)

        def drop(_: object) -> None:
            if (held := cache()) is not None:
                held._drop(key)

        return drop

    def _drop(self, key: tuple) -> None:
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._held -= entry.size
