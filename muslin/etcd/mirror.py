"""A copy of all records under a prefix in memory, kept in step with the store.

The copy begins with a snapshot and follows a watch from there. When the watch can not go on (history compacted, store
replaced) it takes a new snapshot, and what subscribers are told is the difference: whatever happens, the changes that
they were given add up to the items that the mirror holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from muslin.errors import Compacted, MuslinError, TimedOut, Unavailable
from muslin.etcd.backoff import Backoff
from muslin.etcd.client import Etcd
from muslin.etcd.values import Event, KeyValue, Kind, Snapshot
from muslin.etcd.watch import Watch

__all__ = ["Change", "Callback", "Mirror", "difference", "effect"]

log = logging.getLogger(__name__)

PULSE = 2.0
"""Seconds between two questions to a store that may merely have nothing to tell."""
PULSE_SECONDS = 3.0
"""Patience with the answer."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key that is not as it was; `old` is None if it was not there, `new` if it is there no more."""

    key: str
    old: KeyValue | None
    new: KeyValue | None


Callback = Callable[[Sequence[Change], int], None]


def difference(items: Mapping[str, KeyValue], snapshot: Snapshot) -> list[Change]:
    """The changes that turn `items` into the snapshot: deletions first, then the rest by key."""
    present = {item.key: item for item in snapshot.items}
    gone = [Change(key, old, None) for key, old in items.items() if key not in present]
    return gone + [Change(key, items.get(key), new) for key, new in present.items() if items.get(key) != new]


def effect(items: Mapping[str, KeyValue], events: Iterable[Event]) -> list[Change]:
    """The changes that events make to `items`, in their order; deleting what is not there is none."""
    changes: list[Change] = []
    latest: dict[str, KeyValue | None] = {}
    for event in events:
        old = latest[event.key] if event.key in latest else items.get(event.key)
        new = None
        if event.kind is Kind.PUT:
            new = KeyValue(event.key, event.value, event.create_revision, event.mod_revision, event.lease)
        if old is not None or new is not None:
            changes.append(Change(event.key, old, new))
        latest[event.key] = new
    return changes


class Mirror:
    """The records under `prefix`; `run()` keeps them, in a task that the owner starts and cancels.

    `ready` is set once the first snapshot is in. `items` is a live read-only view, and `revision` is the store's
    revision that it stands for; both change only between awaits. `trouble` is empty while the mirror follows the
    store, else it says why the items may be old.

    With `yields` (seconds) it lets the transactions of the same client go first: once it has caught up with the latest
    one that was answered, it reads on when the next one is answered, or after this time. Reading the echo of a write
    takes about as long as handling its answer, and else comes right before it.
    """

    def __init__(self, etcd: Etcd, prefix: str, yields: float = 0.0) -> None:
        self._yields = yields
        self.ready = asyncio.Event()
        self.revision = 0
        self.relists = 0
        self._etcd = etcd
        self._prefix = prefix
        self._items: dict[str, KeyValue] = {}
        self.items: Mapping[str, KeyValue] = MappingProxyType(self._items)
        self._callbacks: list[Callback] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._watch: Watch | None = None
        self._trouble = "not listed yet"
        self._silence = ""

    @property
    def trouble(self) -> str:
        """Why the items may be out of date; empty if nothing speaks for it."""
        return (self._watch.trouble or self._silence) if self._watch else self._trouble

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Have `callback(changes, revision)` called for each batch from now on; the result ends that.

        It is called synchronously, after `items` and `revision` have changed, with one change or more. What is in
        `items` at the time of subscribing is not reported. An exception from it ends `run()`.
        """
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def reached(self, revision: int, timeout: float) -> None:
        """Wait until the items are at least as new as `revision`, that of a change under the prefix.

        (About revisions of changes elsewhere in the store etcd tells a watch only every few minutes.)
        Raises TimedOut after `timeout` seconds.
        """
        if self.revision >= revision:
            return
        self._etcd.hurry()
        waiting = asyncio.get_running_loop().create_future()
        entry = (revision, waiting)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout):  # as in muslin.etcd.admin
                await waiting
        except TimeoutError:
            raise TimedOut(f"the copy of {self._prefix} is at revision {self.revision}, and did not reach {revision} "
                           f"within {timeout:.3g} s{': ' if self.trouble else ''}{self.trouble}") from None
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    async def run(self) -> None:
        """Follow the store until cancelled.

        Etcd being away is waited out. Raises what etcd forbids (Denied), and Unavailable or Cancelled once the client
        is closed.
        """
        pulse = asyncio.create_task(self._feel(), name=f"pulse of {self._prefix}")
        try:
            await self._follow()
        finally:
            pulse.cancel()
            await asyncio.gather(pulse, return_exceptions=True)

    async def _feel(self) -> None:
        """Ask for something now and then: a watch that is silent may have nothing to tell, or be cut off.

        Its own pings tell after nine seconds; who relies on the items should know earlier.
        """
        while True:
            await asyncio.sleep(PULSE)
            if self._watch is None:
                continue  # that it does not follow is known
            before = self.revision, self.relists
            try:
                await self._etcd.get(self._prefix, timeout=PULSE_SECONDS)
                self._silence = ""
            except MuslinError as error:
                if (self.revision, self.relists) == before:  # else it has been heard of since
                    self._silence = error.message

    async def _follow(self) -> None:
        backoff, yielded = Backoff(), 0
        while True:
            snapshot = await self._list()
            self.relists += 1
            self._silence = ""
            self._commit(difference(self._items, snapshot), snapshot.revision)
            self.ready.set()
            try:
                async with self._etcd.watch(self._prefix, snapshot.revision + 1) as watch:
                    self._watch = watch
                    async for batch in watch:
                        self._commit(effect(self._items, batch.events), batch.revision)
                        backoff.reset()
                        if self._yields and yielded < self._etcd.written <= self.revision:
                            yielded = self._etcd.written
                            await self._etcd.next_write(self._yields)
            except Compacted as error:
                log.warning("etcd mirror lists again prefix=%s revision=%d reason=%s",
                            self._prefix, self.revision, error)
                self._trouble = error.message
            finally:
                self._watch = None
            await asyncio.sleep(backoff.next())

    async def _list(self) -> Snapshot:
        backoff = Backoff()
        while True:
            try:
                return await self._etcd.range(self._prefix)
            except (Unavailable, TimedOut, Compacted) as error:  # Compacted: between two pages
                if self._etcd.closed:
                    raise
                log.warning("etcd mirror can not list prefix=%s error=%s", self._prefix, error)
                self._trouble = error.message
            await asyncio.sleep(backoff.next())

    def _commit(self, changes: Sequence[Change], revision: int) -> None:
        for change in changes:
            if change.new is None:
                del self._items[change.key]
            else:
                self._items[change.key] = change.new
        self.revision = revision
        self._silence = ""
        if changes:
            for callback in tuple(self._callbacks):
                callback(changes, revision)
        for wanted, waiting in self._waiting:
            if wanted <= revision and not waiting.done():
                waiting.set_result(None)
