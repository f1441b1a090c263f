"""Small tables that print themselves, as text and in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Table(Sequence):
    """Rows of equal length under their column names; a row is reached by its index."""

    columns: tuple[str, ...]
    rows: tuple[tuple, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.rows)

    def _cells(self) -> list[list[str]]:
        return [[_text(value) for value in row] for row in self.rows]

    def __str__(self) -> str:
        lines = [list(self.columns), *self._cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        example = self.rows[0] if self.rows else ("",) * len(self.columns)
        sides = ["right" if _is_number(value) else "left" for value in example]

        def line(cells: Iterable[str], tag: str) -> str:
            styled = zip(cells, sides, strict=True)
            return "".join(
                f'<{tag} style="text-align:{side};padding:0.2em 0.8em;white-space:{_wrap(cell)}">{escape(cell)}</{tag}>'
                for cell, side in styled
            )

        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in self._cells())
        head = f"<tr>{line(self.columns, 'th')}</tr>"
        table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
        return f'<div style="overflow-x:auto">{table}</div>'


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"
    return str(value)


def _wrap(cell: str) -> str:
    """A sentence may be broken into lines; "+17.3 ± 14.4" may not."""
    return "nowrap" if len(cell) < 30 else "normal"
