"""Tables that fit the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from muslin.cli.console import fancy

__all__ = ["Column", "Look", "table"]

GAPS = "  ", " "
"""What is between columns; the second where the first is too wide."""


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
    """A column. `right` aligns numbers; where the terminal is narrow, `shrink` shortens and `spare` leaves out."""

    head: str
    right: bool = False
    shrink: bool = False
    least: int = 8
    """Characters that are kept of a column that is shortened, if it has so many."""
    spare: bool = False
    paint: Callable[[int, str], str] | None = None
    """Colours the cell of a row, given by number; called with the text as aligned."""


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], look: Look) -> str:
    """Rows under heads.

    What does not fit is made narrower: columns that may be shortened, the widest first; the gaps; and at last columns
    that can be spared are left out, from the right.
    """
    for gap in GAPS:
        widths, fits = _fit(columns, rows, len(gap), look.width)
        if fits:
            break
    else:
        spare = [i for i, column in enumerate(columns) if column.spare]
        if spare:
            kept = [i for i in range(len(columns)) if i != spare[-1]]
            return table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], look)
    lines = [[_cell(column.head, width, column, look) for column, width in zip(columns, widths, strict=True)]]
    for number, row in enumerate(rows):
        cells = [_cell(text, width, column, look) for text, width, column in zip(row, widths, columns, strict=True)]
        lines.append([column.paint(number, cell) if column.paint and look.colour else cell
                      for cell, column in zip(cells, columns, strict=True)])
    return "\n".join(gap.join(line).rstrip() for line in lines)


def _fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], gap: int, room: int) -> tuple[list[int], bool]:
    """Widths of the columns, shortened as far as allowed and needed, and whether they fit."""
    widths = [max(len(column.head), *(len(row[i]) for row in rows), 0) for i, column in enumerate(columns)]
    excess = sum(widths) + gap * (len(widths) - 1) - room if room else 0
    while excess > 0:
        wide = [i for i, column in enumerate(columns)
                if column.shrink and widths[i] > max(column.least, len(column.head))]
        if not wide:
            return widths, False
        widths[max(wide, key=lambda i: widths[i])] -= 1
        excess -= 1
    return widths, True


def _cell(text: str, width: int, column: Column, look: Look) -> str:
    if len(text) > width:
        text = text[:width - 1] + ("…" if look.unicode else "~")
    return text.rjust(width) if column.right else text.ljust(width)
