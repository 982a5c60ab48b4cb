"""Telling many what holds now: values by key, of which only the latest counts.

Each reader has its own list of keys that have changed since it last read. So a slow one holds nothing back, and what it
has to catch up with never exceeds the values there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Generic, TypeVar

__all__ = ["Latest", "Reader"]

Key = TypeVar("Key")
Value = TypeVar("Value")


class Reader(Generic[Key, Value]):
    """One who reads; made by `Latest.reader`."""

    def __init__(self, values: Mapping[Key, Value]) -> None:
        self._values = values
        self._changed: dict[Key, None] = dict.fromkeys(values)
        self._moved = asyncio.Event()

    def touch(self, key: Key) -> None:
        """A value has changed."""
        self._changed[key] = None
        self._moved.set()

    async def moved(self) -> None:
        """Wait until there is something to take."""
        await self._moved.wait()

    def take(self, most: int) -> dict[Key, Value | None]:
        """Up to `most` values that have changed, in the order in which they first did; None for one that is gone."""
        taken = [key for key, _ in zip(self._changed, range(most), strict=False)]
        for key in taken:
            del self._changed[key]
        if not self._changed:
            self._moved.clear()
        return {key: self._values.get(key) for key in taken}


class Latest(Generic[Key, Value]):
    """The values, and those who read them. For one event loop."""

    def __init__(self) -> None:
        self._values: dict[Key, Value] = {}
        self.values: Mapping[Key, Value] = MappingProxyType(self._values)
        self._readers: set[Reader[Key, Value]] = set()

    def put(self, key: Key, value: Value | None) -> None:
        """A value is this now, or with None gone; nobody is told of what has not changed."""
        if self._values.get(key) == value:
            return
        if value is None:
            del self._values[key]
        else:
            self._values[key] = value
        for reader in self._readers:
            reader.touch(key)

    @contextmanager
    def reader(self) -> Iterator[Reader[Key, Value]]:
        """One who is told everything that holds first, and then what changes."""
        reader = Reader(self.values)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
