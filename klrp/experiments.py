"""What experiments on many images or networks share: resampling, means over runs, and how results print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from klrp import plot
from klrp.errors import KlrpError
from klrp.tables import Table

Ends = tuple[Tensor, Tensor]


class Printed:
    """Prints as its ``table``."""

    def _table(self) -> Table:
        table: Any = self.table
        return table() if callable(table) else table

    def __str__(self) -> str:
        return str(self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def alike(a: Any, b: Any, *names: str) -> None:
    """A KlrpError where two results cannot be added: of another kind, or not the same in ``names``."""
    if type(a) is not type(b):
        raise KlrpError.type(f"+: got {type(a).__name__} and {type(b).__name__}; expected two of one kind.")
    for name in names:
        mine, other = getattr(a, name), getattr(b, name)
        same = torch.equal(mine, other) if isinstance(mine, Tensor) and isinstance(other, Tensor) else mine == other
        if not same:
            raise KlrpError.value(
                f"+: {name} is {mine!r} on the left and {other!r} on the right; expected parts of one run, with the same "
                f"settings."
            )


def behind(a: Any, b: Any) -> Any:
    """The images of b behind those of a: tensors [n, ...], or mappings of them with the same keys."""
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            raise KlrpError.value(f"+: got {', '.join(a)} and {', '.join(b)}; expected parts of one run.")
        return {key: behind(value, b[key]) for key, value in a.items()}
    return torch.cat([a, b])


def resampled(n: int, resamples: int, seed: int) -> Tensor:
    """How often each of n images is drawn, [resamples, n] float64: n draws with replacement, time and again."""
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    ones = torch.ones(drawn.shape, dtype=torch.float64)
    return torch.zeros_like(ones).scatter_add_(1, drawn, ones)


def bootstrap(values: Tensor, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> Ends:
    """The two ends [...] of an interval for the mean of ``values`` [n, ...] over n images.

    Images are drawn n times with replacement, ``resamples`` times over; the interval holds the middle
    ``level`` of the means (percentiles).

    Example:
        >>> low, high = bootstrap(curves.between("LRP-ε"))
    """
    n, values = len(values), values.double()
    times = resampled(n, resamples, seed).to(values.device)
    means = (times @ values.reshape(n, -1) / n).reshape(resamples, *values.shape[1:])
    outside = (1 - level) / 2
    return means.quantile(outside, dim=0), means.quantile(1 - outside, dim=0)


def deviation(values: Tensor) -> Ends | None:
    """One standard deviation over the runs [r, ...] to each side of their mean; None for a single run."""
    mean = values.mean(0)
    return (mean - values.std(0), mean + values.std(0)) if len(values) > 1 else None


def mean_curves(
    xs: Any, runs: Mapping[str, Tensor], band: Callable[[Tensor], Ends | None], ax: Any = None, **settings: Any
) -> plot.Axes:
    """The mean of the runs [r, s] of each label as a line, with the ``band`` of these runs; as plot.curves."""
    means = {label: values.mean(0) for label, values in runs.items()}
    bands = {label: ends for label, values in runs.items() if (ends := band(values))}
    return plot.curves(xs, means, ax, bands=bands, **settings)


def mean_and_deviation(values: Tensor, digits: int) -> str:
    """Mean ± standard deviation of the runs [r]; the value alone of a single run."""
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std():.{digits}f}" if len(values) > 1 else mean
