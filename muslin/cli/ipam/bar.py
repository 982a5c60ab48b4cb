"""A bar that shows how full something is."""

from __future__ import annotations

from collections.abc import Sequence

from muslin.cli.ipam.table import Look
from muslin.cli.ipam.usage import Usage

__all__ = ["bar", "cells", "legend"]

UNICODE, ASCII = "█▒▚·", "#~x."
MEANING = ("used", "cooling down", "reserved", "free")
FULL, ALMOST = 95, 80
"""Per cent of use from which a bar is red, and yellow."""


def cells(counts: Sequence[int], width: int) -> list[int]:
    """How many of `width` cells each count gets.

    In proportion, by largest remainder; but what is not nothing has a cell, taken from whoever has most, as far as
    there are cells.
    """
    total = sum(counts)
    if not total or width <= 0:
        return [0] * len(counts)
    shares = [divmod(count * width, total) for count in counts]
    found = [whole for whole, _ in shares]
    for i in sorted(range(len(counts)), key=lambda i: -shares[i][1])[:width - sum(found)]:
        found[i] += 1
    for i, count in enumerate(counts):
        richest = max(range(len(found)), key=found.__getitem__)
        if count and not found[i] and found[richest] > 1:
            found[i], found[richest] = 1, found[richest] - 1
    return found


def bar(usage: Usage, width: int, look: Look) -> str:
    """Used, cooling, reserved and free, in that order; `width` cells without colour."""
    marks = UNICODE if look.unicode else ASCII
    if not usage.size:
        return " " * width
    return "".join(mark * count for mark, count in zip(marks, cells(usage.parts, width), strict=True))


def paint(drawn: str, usage: Usage, look: Look) -> str:
    """A drawn bar in colours: its used part by how full it is."""
    mark = (UNICODE if look.unicode else ASCII)[0]
    full = drawn.rstrip(drawn.lstrip(mark)) if drawn.strip(mark) else drawn
    code = "31" if usage.percent >= FULL else "33" if usage.percent >= ALMOST else "32"
    return look.paint(full, code) + look.paint(drawn[len(full):], "2")


def legend(look: Look) -> str:
    """What the marks mean."""
    marks = UNICODE if look.unicode else ASCII
    return "   ".join(f"{mark} {meaning}" for mark, meaning in zip(marks, MEANING, strict=True))
