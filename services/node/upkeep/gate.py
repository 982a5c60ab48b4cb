"""Between what the daemon tears down on its own account and the ADDs that pass through it.

A runtime has one operation at a time on an attachment, but knows nothing of ours: a deletion that is replayed, or a
clean-up after a pod that vanished. While we delete, ADDs of that container's interface wait at the first service they
are passed on to. While an ADD is under way, we do not begin. So neither ever meets the other half-way.

Keys are container id and interface name: reading the network's name out of every configuration would cost more than
the rare wait of another network's ADD for the same interface.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ["Gate", "Key"]

Key = tuple[str, str]
"""Container id, interface name."""

ADD_SECONDS = 60.0
"""How long an ADD that came without a deadline is taken to be under way."""

_SWEEP = 1024


class Gate:
    """Who is at work on what."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._adding: dict[Key, float] = {}
        self._closed: dict[Key, asyncio.Event] = {}

    async def adding(self, key: Key, remaining: float | None) -> None:
        """A step of an ADD passes, once no deletion of ours is in its way. `remaining` is its deadline in seconds."""
        while (closed := self._closed.get(key)) is not None:
            await closed.wait()
        if len(self._adding) >= _SWEEP:
            now = self._clock()
            self._adding = {each: until for each, until in self._adding.items() if until > now}
        self._adding[key] = self._clock() + (ADD_SECONDS if remaining is None else remaining)

    def over(self, key: Key) -> None:
        """The ADD has come to its end, good or bad."""
        self._adding.pop(key, None)

    def busy(self, key: Key) -> bool:
        """Whether an ADD is under way, or a deletion of ours."""
        return key in self._closed or self._adding.get(key, 0.0) > self._clock()

    @asynccontextmanager
    async def closed(self, key: Key) -> AsyncIterator[bool]:
        """Keep ADDs out; gives whether we may delete: not while one is under way, or another deletion of ours."""
        if self.busy(key):
            yield False
            return
        event = self._closed[key] = asyncio.Event()
        try:
            yield True
        finally:
            del self._closed[key]
            event.set()
