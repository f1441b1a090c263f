"""What all compiled code needs: whether Numba is there, tensors as flat arrays, tasks on threads.

Numba is the extra ``fast``; without it other kernels do the same work.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

AVAILABLE = find_spec("numba") is not None
# NaN never enters and the sign of a zero does not matter; sums keep their order.
FAST = {"nnan", "nsz"}


class Flat(NamedTuple):
    """A tensor's memory from its first element on, and the stride of each axis.

    One compiled function then serves every order of the axes, and nothing is copied to change it.
    """

    values: np.ndarray
    strides: tuple[int, ...]


def flat(x: Tensor) -> Flat:
    """The tensor as a flat array; what is written to the array is written to the tensor."""
    x = x.detach()
    span = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return Flat(x.as_strided((span if x.numel() else 0,), (1,)).numpy(), x.stride())


_THREADS: ContextVar[int | None] = ContextVar("threads", default=None)


class _Inside:
    """How many threads are in ``torch_on_one_thread``, and how many threads torch had before the first came."""

    lock = threading.Lock()
    count = 0
    before = 1


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Inside, the threads of ``parallel_for`` have the cores to themselves, and torch computes on one.

    After each operation torch's threads spin, some milliseconds long, before they give their cores back. With two
    cores that took a third of our time. torch keeps the number of its threads for the process and for each thread:
    the first to come in saves it, and everyone gives it back on leaving. A thread that finds 1 while another is inside
    cannot know whether that was its own number, and takes what the first had found.
    """
    if _THREADS.get() is not None:
        yield
        return
    with _Inside.lock:
        threads = torch.get_num_threads()
        if not _Inside.count:
            _Inside.before = threads
        elif threads == 1:
            threads = _Inside.before
        _Inside.count += 1
        torch.set_num_threads(1)
    token = _THREADS.set(threads)
    try:
        yield
    finally:
        _THREADS.reset(token)
        with _Inside.lock:
            _Inside.count -= 1
            torch.set_num_threads(threads)


def parallel_for(work: Callable, tasks: int, *arguments: object) -> None:
    """work(first, last, ...) over all tasks, by as many threads as torch has; the result is the same.

    Numba's own threads would double the time to compile, and may not be entered from two threads at once.
    """
    threads = min(_THREADS.get() or torch.get_num_threads(), tasks)
    if threads <= 1:
        work(0, tasks, *arguments)
        return
    pieces = min(tasks, 8 * threads)
    ends = [tasks * i // pieces for i in range(pieces + 1)]
    left = deque(pairwise(ends))

    def help_out() -> None:
        while True:
            try:
                span = left.popleft()
            except IndexError:
                return
            work(*span, *arguments)

    helpers = [_helpers(threads - 1, os.getpid()).submit(help_out) for _ in range(threads - 1)]
    help_out()
    for helper in helpers:
        helper.result()


@cache
def _helpers(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that wait for work. A forked process has none of its parent's and gets its own."""
    return ThreadPoolExecutor(threads)
