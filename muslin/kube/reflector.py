"""All objects of a kind, followed: a list, what changes after it, and a list again when that can not be told.

::

    list -> watch -> watch -> ...      a watch that ends, or is lost, goes on from the last version that was seen
      ^----------------'               410 Gone: that version is no longer kept
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Generic, Protocol, TypeVar

from muslin.errors import Compacted, Corrupt, Denied, MuslinError, NotFound
from muslin.etcd.backoff import Backoff
from muslin.kube import metrics
from muslin.kube.client import Client, Listing
from muslin.kube.decode import Event
from muslin.kube.failures import Busy
from muslin.kube.kinds import Kind, Name, Resource

__all__ = ["Reflector", "Sink"]

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Resource)

_SHORT = 1.0
"""Seconds; a watch that ends earlier, and without an event, is followed by a pause, as if it had failed."""


class Sink(Protocol[T]):
    """Who is told. The methods are called between awaits, and do not fail."""

    def listed(self, listing: Listing[T]) -> None:
        """These are all that there are; those whose names are damaged are as they were."""

    def put(self, item: T) -> None:
        """An object was made or changed."""

    def damaged(self, name: Name) -> None:
        """An object was made or changed, and does not decode: it is as it was."""

    def gone(self, name: Name) -> None:
        """An object was deleted."""

    def excused(self) -> None:
        """Of a kind that need not be there nothing is known, and it is not to be waited for."""


class Reflector(Generic[T]):
    """Follows a kind; `run()` does it, in a task of the owner's. While the server is away the last state stays."""

    def __init__(self, client: Client, kind: Kind[T], sink: Sink[T]) -> None:
        self._client, self._kind, self._sink = client, kind, sink
        self._backoff = Backoff(min(0.1, client.pace.pause), client.pace.pause)
        self.version = ""
        """The last that was seen; empty if a list is needed."""
        self.lists = 0
        """How many there were."""
        self.trouble = f"{kind}: not listed yet"
        """Why what was told may be old; empty if nothing speaks for it."""
        self._absent = 0  # how often in a row the kind was not there

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                if not self.version:
                    await self._list()
                await self._watch()
            except MuslinError as problem:
                await asyncio.sleep(self._after(problem))

    def _after(self, problem: MuslinError) -> float:
        """Seconds to wait after a failure, which the log gets to know once."""
        absent = isinstance(problem, NotFound)
        self._absent = self._absent + 1 if absent else 0
        if absent or isinstance(problem, Compacted | Corrupt):
            self.version = ""
        trouble = f"{self._kind}: {problem.message}"
        if self._kind.optional and isinstance(problem, NotFound | Denied):
            return self._without(trouble)
        if absent:
            trouble = f"{self._kind}: the API server does not serve this kind in this version: {problem.message}"
        if trouble != self.trouble:
            (log.info if isinstance(problem, Compacted) else log.warning)("%s", trouble)
        self.trouble = trouble
        metrics.FOLLOWED.labels(str(self._kind)).set(0)
        asked = problem.seconds if isinstance(problem, Busy) else 0.0
        return max(self._backoff.next(), asked)

    def _without(self, trouble: str) -> float:
        """A kind that need not be there is not, or may not be read; seconds until the next look.

        A server that has just been started does not know yet which such kinds it has: they are gone when it says so
        twice, and until then, or if they may not be read, what is known of them stays.
        """
        if trouble != self.trouble:
            (log.debug if self._absent else log.warning)("%s", trouble)
        self.trouble = trouble
        if self._absent > 1:
            self._sink.listed(Listing([], ""))
            self._well()
        else:
            self._sink.excused()
        return self._client.pace.absent

    async def _list(self) -> None:
        listing = await self._client.list(self._kind)
        self._sink.listed(listing)
        self.version = listing.version
        self._absent = 0
        self.lists += 1
        metrics.LISTS.labels(str(self._kind)).inc()
        self._well()
        log.info("listed %s: %d objects at version %s", self._kind, len(listing.objects), listing.version)

    async def _watch(self) -> None:
        began, told = time.monotonic(), 0

        def take(event: Event[T]) -> None:
            nonlocal told
            told += 1
            self._take(event)
            self._backoff.reset()
            self._well()

        await self._client.watch(self._kind, self.version, take)
        if not told and time.monotonic() - began < _SHORT:
            await asyncio.sleep(self._backoff.next())
        self._well()

    def _take(self, event: Event[T]) -> None:
        if event.object is not None:
            if event.type == "DELETED":
                self._sink.gone(event.object.name)
            else:
                self._sink.put(event.object)
        elif event.damaged and event.type == "DELETED":
            self._sink.gone(event.damaged)
        elif event.damaged:
            self._sink.damaged(event.damaged)
        if event.version:
            self.version = event.version

    def _well(self) -> None:
        self.trouble = ""
        metrics.FOLLOWED.labels(str(self._kind)).set(1)
