"""Sets of ports as ranges, in order and without overlaps."""

from __future__ import annotations

from collections.abc import Iterable

from services.policy.model import PortRange

LAST = 65535


def merged_ranges(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The same ports in the fewest ranges."""
    result: list[PortRange] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1].last + 1:
            result[-1] = PortRange(result[-1].first, max(last, result[-1].last))
        else:
            result.append(PortRange(first, last))
    return tuple(result)


def without(ranges: Iterable[PortRange], excluded: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The ports of the first that are not among the second."""
    holes = merged_ranges(excluded)
    result: list[PortRange] = []
    for first, last in merged_ranges(ranges):
        start = first
        for hole in holes:
            if hole.last < start or hole.first > last:
                continue
            if hole.first > start:
                result.append(PortRange(start, hole.first - 1))
            start = hole.last + 1
        if start <= last:
            result.append(PortRange(start, last))
    return tuple(result)
