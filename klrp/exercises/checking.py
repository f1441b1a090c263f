"""What a checker is, and the two that nearly every exercise needs: of a value, and of a function.

The checkers of chapter 4 stand in `klrp.exercises.ch04`, as a dictionary from labels to checkers.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from klrp.errors import KlrpError

Check = Callable[[Any], str | None]  # from an answer to what was checked, "on 20 inputs"; None: no answer; or NotYet
UNANSWERED = (None, ...)
LONGEST = 300  # characters of a value in a message


class NotYet(AssertionError):
    """An answer that is not right yet. A notebook shows its message alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def check(label: str, answer: Any) -> None:
    """Say whether ``answer`` solves the exercise ``label`` of the book.

    It prints one line where the answer is right, and another where there is none yet (None, ``...``, or a function that
    returns one of them). What a function of yours raises is shown as it is, with the input as a note.

    Args:
        label: as it stands at the exercise, for example "ex-04-step".
        answer: the value or the function that the exercise asks for.

    Raises:
        NotYet: with what was expected, what came, and on which input.
        KlrpError: no exercise has this label.

    Example:
        >>> check("ex-04-step", lambda d, R, theta: ((d >= theta) & R).any(1))
        ✓ ex-04-step: right, on 20 inputs.
    """
    checker = find(label)
    try:
        told = None if unanswered(answer) else checker(answer)
    except NotYet as error:
        raise NotYet(f"✗ {label}: not yet. {error}") from None
    if told is None:
        print(f"{label}: no answer yet. Write it in this cell and run it again.")
    else:
        print(f"✓ {label}: right{told and f', {told}'}.")


def labels() -> list[str]:
    """The labels of all exercises that have a checker, by chapter."""
    names = sorted(m.name for m in pkgutil.iter_modules(importlib.import_module("klrp.exercises").__path__))
    return [label for name in names if name.startswith("ch") and name != "checking" for label in chapter(name)]


def chapter(name: str) -> Mapping[str, Check]:
    return importlib.import_module(f"klrp.exercises.{name}").CHECKS


def module_of(label: str) -> str:
    """Where the checker of an exercise stands: that of "ex-04-step" in ch04, that of "ex-silent-half" in ch_silent."""
    found = re.match(r"ex-(?:(\d+)|([a-z]+))-", str(label))
    return "" if found is None else f"ch{int(found[1]):02d}" if found[1] else f"ch_{found[2]}"


def find(label: str) -> Check:
    """The checker of an exercise."""
    try:
        known = chapter(module_of(label))
    except (ModuleNotFoundError, AttributeError):
        known = {}
    if label not in known:
        raise KlrpError.key(
            f"label: got {label!r}; expected the label of an exercise, {', '.join(known) or 'such as ex-04-step'}. It "
            "stands in the stub below the exercise."
        )
    return known[label]


def unanswered(answer: Any) -> bool:
    return any(answer is nothing for nothing in UNANSWERED)


def value(expected: Any, *, within: float = 0.0, hints: Sequence[tuple[Any, str]] = ()) -> Check:
    """A checker of one value: a number, text, tensor, or lists, tuples, sets and dictionaries of them.

    Args:
        expected: the right answer, or a function without arguments that computes it.
        within: the largest difference of numbers that still counts as right, relative to the larger of 1 and the number.
        hints: pairs of a wrong answer that one may well give, and what to tell whoever gives it.
    """

    def checker(answer: Any) -> str | None:
        right = expected() if callable(expected) else expected
        if not same(answer, right, within):
            told = [hint for wrong, hint in hints if same(answer, wrong, within)]
            raise NotYet(f"Your answer is {shown(answer)}. {told[0] if told else 'It is another one.'}")
        return ""

    return checker


def function(
    reference: Callable, cases: Iterable[tuple] | Callable[[], Iterable[tuple]], *, within: float = 1e-6
) -> Check:
    """A checker of a function: on each case it gives what ``reference`` gives.

    Args:
        reference: the slow, obvious solution. Its parameters' names are used in the messages.
        cases: tuples of arguments, or a function that makes them when they are needed. The small ones come first: the first
            that differs is shown.
        within: as in `value`.
    """

    def checker(answer: Any) -> str | None:
        if not callable(answer):
            raise NotYet(f"A function is asked for; your answer is {shown(answer)}.")
        n = 0
        for case in cases() if callable(cases) else cases:
            got, right = called(answer, reference, case), reference(*copies(case))
            if n == 0 and unanswered(got):
                return None
            if not same(got, right, within):
                raise NotYet(
                    f"For {named(reference, case)}: expected {shown(right)}, your function gave {shown(got)}"
                    f"{told_apart(got, right)}."
                )
            n += 1
        return f"on {n} input{'s' * (n > 1)}"

    return checker


def told_apart(got: Any, right: Any) -> str:
    """What tells two values apart that are written in the same way; empty where they are not."""
    if shown(got) != shown(right):
        return ""
    kinds = [f"{v.dtype} {list(v.shape)}" if isinstance(v, Tensor) else type(v).__name__ for v in (got, right)]
    return (
        f", which is {kinds[0]} in the place of {kinds[1]}" if kinds[0] != kinds[1] else ", which is not precise enough"
    )


def called(answer: Callable, reference: Callable, case: tuple) -> Any:
    try:
        return answer(*copies(case))
    except Exception as error:
        error.add_note(f"This happened for {named(reference, case)}.")
        raise


def copies(case: tuple) -> tuple:
    """The arguments, with tensors copied: a function that writes into its input does not change the next one's."""
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in case)


def same(got: Any, right: Any, within: float = 0.0) -> bool:
    """Whether two values agree: numbers and tensors up to ``within``, all else exactly; a list is as good as a tensor."""
    if isinstance(right, Mapping):
        return (
            isinstance(got, Mapping)
            and got.keys() == right.keys()
            and all(same(got[k], right[k], within) for k in right)
        )
    if isinstance(right, str):
        return isinstance(got, str) and plain(got) == plain(right)
    if isinstance(right, set | frozenset):
        return isinstance(got, set | frozenset | list | tuple) and set(got) == right
    if isinstance(right, Sequence) and not numeric(right):
        got = list(got) if isinstance(got, Tensor) and got.ndim else got
        return (
            isinstance(got, Sequence)
            and len(got) == len(right)
            and all(map(lambda a, b: same(a, b, within), got, right))
        )
    try:
        a, b = (torch.as_tensor(v).detach().cpu() for v in (got, right))
    except (TypeError, ValueError, RuntimeError):
        return bool(got == right)
    if a.shape != b.shape:
        return False
    if (a.dtype == torch.bool) != (b.dtype == torch.bool) and (isinstance(got, Tensor) or a.dtype == torch.bool):
        return False  # of a tensor the dtype is part of the answer; in a list 1 and 0 are as good as truth values
    a, b = a.double(), b.double()
    near = (a - b).abs() <= within * b.abs().clamp(min=1)
    return bool((near & b.isfinite() | (a == b)).all())


def plain(text: str) -> str:
    """Of "B", "(b)" and "b." the letter; of other texts, without spaces at the ends and capitals."""
    return text.strip().strip("().*").casefold()


def numeric(values: Sequence) -> bool:
    """Whether a (nested) list is one array of numbers."""
    try:
        torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def named(reference: Callable, case: tuple) -> str:
    names = list(inspect.signature(reference).parameters)
    return ", ".join(f"{name} = {shown(arg)}" for name, arg in zip(names, case, strict=False))


def shown(value: Any) -> str:
    """A value in a message: a tensor as a list with four digits, cut where it is long."""
    if isinstance(value, Tensor):
        size = "" if value.numel() <= 24 else f"a tensor {list(value.shape)}: "
        flat = value.detach().cpu()
        text = size + repr(rounded(flat.tolist() if value.numel() <= 24 else flat.flatten()[:12].tolist()))
    else:
        text = repr(rounded(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def rounded(value: Any) -> Any:
    """Numbers with four digits; a tensor inside a tuple or list as a list, where it is short."""
    if isinstance(value, Tensor):
        return rounded(value.detach().cpu().tolist()) if value.numel() <= 24 else f"a tensor {list(value.shape)}"
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list | tuple):
        return type(value)(map(rounded, value)) if type(value) in (list, tuple) else value
    return value
