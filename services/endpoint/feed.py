"""The history of changes that watches are served from. No I/O.

All watches of a process read one list of what changed, each from its own place: a slow one holds nothing back and
costs no memory. The list keeps the last changes only; whoever has fallen behind its beginning begins anew with a
snapshot, as does who comes with a revision older than that.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Compacted

KEPT = 10_000
"""Changes that are kept, at least."""


One = TypeVar("One")
"""One change of one record."""


class Event(NamedTuple):
    """One change of one endpoint."""

    change: endpoint_pb2.Change
    node: str
    """The node the record is, or was, on."""


class Batch(NamedTuple, Generic[One]):
    """Changes that belong together: after them, the state is that of a revision."""

    events: tuple[One, ...]
    revision: int


class Place(NamedTuple):
    """How far a reader has come."""

    epoch: int
    batch: int
    """The one that it reads next."""


class Feed(Generic[One]):
    """The changes, in order, with the revisions they complete."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._epoch = 0
        self._batches: list[Batch[One]] = []
        self._dropped = 0
        """Batches that were dropped from the front."""
        self._events = 0
        self.floor = 0
        """Changes after this revision are kept."""
        self.revision = 0
        """The state is known up to this revision."""
        self._grown = asyncio.Event()

    def begin(self, revision: int) -> None:
        """Forget everything: history begins at a revision, and all readers have to begin anew."""
        self._epoch += 1
        self._batches, self._dropped, self._events = [], 0, 0
        self.floor = self.revision = revision
        self._notify()

    def append(self, events: Sequence[One], revision: int) -> None:
        """The state has moved on to a revision; without events, nothing changed on the way."""
        self.revision = revision
        if not events:
            return
        self._batches.append(Batch(tuple(events), revision))
        self._events += len(events)
        # Trimmed in halves, so that each batch is moved once at most.
        if self._events > 2 * self._kept:
            self._trim()
        self._notify()

    def _trim(self) -> None:
        count = 0
        while self._events > self._kept and count < len(self._batches) - 1:
            self._events -= len(self._batches[count].events)
            count += 1
        if count:
            self.floor = self._batches[count - 1].revision
            del self._batches[:count]
            self._dropped += count

    def _notify(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    @property
    def end(self) -> Place:
        """The place of who knows everything up to `revision`."""
        return Place(self._epoch, self._dropped + len(self._batches))

    def after(self, revision: int) -> Place:
        """The place of who knows everything up to an earlier revision.

        Raises:
            Compacted: what came after it is not kept any longer.
        """
        if revision < self.floor:
            raise Compacted(f"changes after revision {revision} are not kept, only those after {self.floor}: start "
                            "again without a revision")
        index = bisect_right(self._batches, revision, key=lambda batch: batch.revision)
        return Place(self._epoch, self._dropped + index)

    def read(self, place: Place, most: int) -> tuple[Sequence[Batch[One]], Place]:
        """Up to `most` batches from a place, none if there is nothing new, and the place after them.

        Raises:
            Compacted: the reader has fallen behind what is kept.
        """
        if place.epoch != self._epoch or place.batch < self._dropped:
            raise Compacted("the watch has fallen behind the changes that are kept: start again without a revision")
        start = place.batch - self._dropped
        batches = self._batches[start:start + most]
        return batches, Place(self._epoch, place.batch + len(batches))

    async def grown(self, timeout: float) -> bool:
        """Wait until there may be something new; False after `timeout` seconds without."""
        try:
            async with asyncio.timeout(timeout):  # wait_for() would make a task for every change
                await self._grown.wait()
        except TimeoutError:
            return False
        return True
