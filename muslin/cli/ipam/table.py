"""Tables that fit the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from muslin.cli.console import fancy

__all__ = ["Column", "Look", "table"]

GAP = "  "
NARROWEST = 8
"""Columns of text that a shortened column keeps at least."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the output can show: more than ASCII, colour, and how many columns (0 is no limit)."""

    unicode: bool = True
    colour: bool = False
    width: int = 0

    @classmethod
    def of_stdout(cls) -> Look:
        """What stdout can show. Nothing is coloured or shortened that is not read on a terminal."""
        return cls(*fancy())

    def paint(self, text: str, code: str) -> str:
        """Text in a colour (SGR parameters, ECMA-48)."""
        return f"\033[{code}m{text}\033[0m" if self.colour and text else text


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `right` aligns numbers; `shrink` allows to shorten it where the terminal is narrow."""

    head: str
    right: bool = False
    shrink: bool = False
    paint: Callable[[int, str], str] | None = None
    """Colours the cell of a row, given by number; called with the text as aligned."""


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], look: Look) -> str:
    """Rows under upper-case heads. Columns that may be shortened are, the widest first, until all fits."""
    widths = [max(len(column.head), *(len(row[i]) for row in rows), 0) for i, column in enumerate(columns)]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - look.width if look.width else 0
    while excess > 0:
        wide = [i for i, column in enumerate(columns) if column.shrink and widths[i] > max(NARROWEST, len(column.head))]
        if not wide:
            break
        widths[max(wide, key=lambda i: widths[i])] -= 1
        excess -= 1
    lines = [[_cell(column.head, width, column, look) for column, width in zip(columns, widths, strict=True)]]
    for number, row in enumerate(rows):
        cells = [_cell(text, width, column, look) for text, width, column in zip(row, widths, columns, strict=True)]
        lines.append([column.paint(number, cell) if column.paint and look.colour else cell
                      for cell, column in zip(cells, columns, strict=True)])
    return "\n".join(GAP.join(line).rstrip() for line in lines)


def _cell(text: str, width: int, column: Column, look: Look) -> str:
    if len(text) > width:
        text = text[:width - 1] + ("…" if look.unicode else "~")
    return text.rjust(width) if column.right else text.ljust(width)
