"""Numbers as users give them: Python's, NumPy's, and tensors without axes."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def as_number(value: Any) -> float:
    """``value`` as a float, and NaN where it is no real number; a truth value is none."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond the largest float
        return math.inf
