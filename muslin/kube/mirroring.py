"""What an API server has, kept in a service's store by the one process that is elected to.

It is the difference of two states that is written, so it does not matter how either came about: when a term begins,
everything is compared, and what has vanished meanwhile is deleted; after that what changes on either side is. Only
records that are marked as the API server's are deleted, and only of kinds that were listed. Nothing is written before
all kinds were that must be there: half a state could open what the other half shuts. What is stored of an object that
is not understood stays; where nothing is, something may stand in for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from muslin.errors import InvalidArgument, MuslinError, TimedOut
from muslin.etcd.backoff import Backoff
from muslin.etcd.election import Deposed, Election, Term
from muslin.kube import metrics
from muslin.kube.access import Load
from muslin.kube.client import Client, Listing, Pace
from muslin.kube.kinds import Kind, Name, Resource
from muslin.kube.reflector import Reflector, Sink
from muslin.kube.wanted import Convert, KeyOf, StandIn, Wanted, nothing
from muslin.tasks import TaskSet

__all__ = ["Aside", "Mirroring", "Target"]

log = logging.getLogger(__name__)

R = TypeVar("R")
Stored = TypeVar("Stored", contravariant=True)

_SWEEP = 300.0
"""Seconds between comparisons of everything, which find nothing unless somebody else wrote what is not theirs."""
_WRITE = 30.0
"""Seconds in which what has changed must be written; else it is tried again."""


class Target(Protocol[Stored]):
    """A service's store."""

    async def begin(self, term: Term) -> None:
        """Wait until what is read here is as new as the term. Raises MuslinError if it does not become so."""

    def ours(self) -> Iterable[tuple[Kind[Any], str]]:
        """Kinds and keys of the records that are marked as the API server's."""

    def differs(self, key: str, record: Stored | None) -> bool:
        """Whether what is stored is something else; without a record, whether there is one that is marked."""

    async def write(self, records: Mapping[str, Stored | None], term: Term) -> None:
        """Store records, and delete those that are None, as long as the term lasts.

        Raises:
            Deposed: it is over.
            MuslinError: not known to be done.
        """


class Aside(Protocol):
    """What else the elected process does with the objects, beside storing them.

    The methods but `run` are called between awaits, and do not fail.
    """

    def begin(self) -> None:
        """A term begins: nothing is known of any object."""

    def listed(self, kind: Kind[Any], objects: Sequence[Resource]) -> None:
        """These are all that there are of a kind, but for such as do not decode."""

    def put(self, kind: Kind[Any], item: Resource) -> None:
        """An object was made or changed."""

    def gone(self, kind: Kind[Any], name: Name) -> None:
        """An object was deleted."""

    async def run(self, client: Client) -> None:
        """Do it until cancelled, which the end of the term does. A failure of the API server's does not end it."""


class Mirroring(Generic[R]):
    """Keeps `target` in step with the API server of `load`; `run()` does it, in a task of the owner's."""

    def __init__(self, election: Election, load: Load, kinds: Sequence[Kind[Any]], key_of: KeyOf, convert: Convert[R],
                 target: Target[R], pace: Pace | None = None, aside: Aside | None = None,
                 stand_in: StandIn[R] = nothing) -> None:
        self._election, self._load, self._kinds, self._pace = election, load, kinds, pace
        self._aside, self._stand_in = aside, stand_in
        self._key_of, self._convert, self._target = key_of, convert, target
        self._wanted: Wanted[R] | None = None

    async def run(self) -> None:
        """Stand for election, and write when elected, until cancelled."""
        await self._election.run(self._lead)

    def touched(self, keys: Iterable[str]) -> None:
        """Records at these keys were changed, by whomever: those that are the API server's are compared."""
        if (wanted := self._wanted) is not None and wanted.complete.is_set():
            wanted.mark(key for key in keys if key in wanted.records or key in wanted.doubtful)

    async def _lead(self, term: Term) -> None:
        await self._target.begin(term)
        wanted = self._wanted = Wanted(self._kinds, self._key_of, self._convert, self._stand_in)
        client, tasks = Client(self._load, self._pace), TaskSet()
        metrics.WRITING.set(1)
        try:
            if self._aside:
                self._aside.begin()
                tasks.spawn("beside it", self._aside.run(client))
            for kind in self._kinds:
                sink = wanted.sink(kind)
                tasks.spawn(f"follow {kind}", Reflector(
                    client, kind, _Both(sink, kind, self._aside) if self._aside else sink).run())
            writing = tasks.spawn("write what changes", self._write(wanted, term))
            await asyncio.wait((writing, tasks.failed), return_when=asyncio.FIRST_COMPLETED)
            if tasks.failed.done():
                raise tasks.failed.result()
        finally:
            metrics.WRITING.set(0)
            self._wanted = None
            await tasks.aclose()
            await client.aclose()

    async def _write(self, wanted: Wanted[R], term: Term) -> None:
        """Write what differs, until the term is over."""
        await wanted.complete.wait()
        backoff, swept = Backoff(0.1, 5.0), 0.0
        while True:
            if time.monotonic() - swept >= _SWEEP or not swept or wanted.late:
                wanted.late = False
                wanted.mark([*wanted.records, *(key for kind, key in self._target.ours() if wanted.knows(kind))])
                swept = time.monotonic()
            todo = {key: record for key in wanted.marked() if not self._left(wanted, key)
                    and self._target.differs(key, record := wanted.at(key))}
            metrics.PENDING.set(len(todo))
            try:
                await self._store(todo, term)
            except Deposed:
                return
            except MuslinError as problem:
                log.warning("what the API server has is not stored yet, records=%d: %s", len(todo), problem.message)
                wanted.mark(todo)
                await asyncio.sleep(backoff.next())
                continue
            metrics.PENDING.set(0)
            backoff.reset()
            try:
                async with asyncio.timeout(max(swept + _SWEEP - time.monotonic(), 0.0)):
                    await wanted.moved.wait()
            except TimeoutError:
                pass  # time to compare everything

    def _left(self, wanted: Wanted[R], key: str) -> bool:
        """Whether a record is left as it is: its object is not understood, and was when it was stored."""
        return key in wanted.doubtful and self._target.differs(key, None)

    async def _store(self, todo: Mapping[str, R | None], term: Term) -> None:
        """Store some records; one that can not be, however often it is tried, does not keep the others."""
        if not todo:
            return
        try:
            async with asyncio.timeout(_WRITE):
                await self._target.write(todo, term)
        except TimeoutError:
            raise TimedOut(f"storing them took longer than {_WRITE:.0f} s") from None
        except InvalidArgument as problem:
            if len(todo) == 1:
                log.error("%s can not be stored: %s", next(iter(todo)), problem.message)  # noqa: TRY400
                return
            items = list(todo.items())
            for half in (items[:len(items) // 2], items[len(items) // 2:]):
                await self._store(dict(half), term)
        else:
            metrics.WRITTEN.inc(len(todo))
            log.info("stored what the API server has: records=%d deleted=%d", len(todo),
                     sum(record is None for record in todo.values()))


class _Both:
    """A sink that somebody listens to."""

    def __init__(self, sink: Sink[Any], kind: Kind[Any], aside: Aside) -> None:
        self._sink, self._kind, self._aside = sink, kind, aside

    def listed(self, listing: Listing[Any]) -> None:
        self._aside.listed(self._kind, listing.objects)
        self._sink.listed(listing)

    def put(self, item: Resource) -> None:
        self._aside.put(self._kind, item)
        self._sink.put(item)

    def damaged(self, name: Name) -> None:
        self._sink.damaged(name)

    def gone(self, name: Name) -> None:
        self._aside.gone(self._kind, name)
        self._sink.gone(name)

    def excused(self) -> None:
        self._sink.excused()
