"""How measured costs are summed up."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ["quantiles", "row"]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Smallest, median and 99th percentile of seconds, in milliseconds."""
    ordered = sorted(value * 1000 for value in values)
    return {"min_ms": ordered[0], "p50_ms": statistics.median(ordered), "p99_ms": ordered[int(len(ordered) * 0.99)]}


def row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line of a table: the first column to the left, the others to the right."""
    first, *others = [f"{cell:<{width}}" if number == 0 else f"{cell:>{width}}"
                      for number, (cell, width) in enumerate(zip(cells, widths, strict=False))]
    return "".join([first, *others]).rstrip()
