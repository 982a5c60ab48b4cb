"""What is seen again: nothing is cleaned up that was amiss only for a moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

__all__ = ["Sightings"]

K = TypeVar("K")


class Sightings(Generic[K]):
    """Things that are looked for again and again, and how often in a row each was there, the same each time."""

    def __init__(self, needed: int = 2) -> None:
        """`needed` looks in a row make a thing sure."""
        self._needed = needed
        self._seen: dict[K, tuple[object, int]] = {}

    def look(self, there: Mapping[K, object]) -> list[K]:
        """What is there now, each with what tells it from another of its name; gives what is sure."""
        seen: dict[K, tuple[object, int]] = {}
        for key, mark in there.items():
            before, times = self._seen.get(key, (mark, 0))
            seen[key] = mark, times + 1 if before == mark else 1
        self._seen = seen
        return [key for key, (_, times) in seen.items() if times >= self._needed]
