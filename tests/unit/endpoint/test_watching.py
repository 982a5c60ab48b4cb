"""Following the history: what a watch costs while there is nothing to tell."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

from services.endpoint.feed import Event, Feed
from services.endpoint.watching import _follow

BOOKMARK = 0.25


class Counted(Feed[Event]):
    """Counts how often it was looked at."""

    looks = 0

    def read(self, *arguments: Any) -> Any:
        self.looks += 1
        return super().read(*arguments)


async def test_a_watch_that_has_nothing_to_tell_sleeps() -> None:
    """It looks once for each bookmark that might be due, and not in between, however long nothing happens."""
    feed = Counted()
    feed.begin(10)
    store: Any = SimpleNamespace(feed=feed, revision=10)
    following: Any = _follow(store, feed.end, 10, "", BOOKMARK)
    began = time.monotonic()
    told = asyncio.ensure_future(anext(following))
    await asyncio.wait((told,), timeout=5 * BOOKMARK)
    looks, seconds = feed.looks, time.monotonic() - began
    store.revision = 11
    assert (await asyncio.wait_for(told, 60)).revision == 11, "a bookmark, since the store has moved on"
    await following.aclose()
    assert looks <= seconds / BOOKMARK + 2
