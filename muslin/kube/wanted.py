"""What an API server has, as records of a store, and what of it is still to be written. No I/O.

Records are told apart by the keys of the store. It is the state that counts, not the events: what changed twice is
written once, and what could not be written stays marked until it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from muslin.errors import MuslinError
from muslin.kube.client import Listing
from muslin.kube.kinds import Kind, Name, Resource
from muslin.kube.reflector import Sink

__all__ = ["Convert", "KeyOf", "StandIn", "Wanted", "nothing"]

log = logging.getLogger(__name__)

R = TypeVar("R")
Convert = Callable[[Kind[Any], Any], R | None]
"""The record of an object, None for an object that has none. Raises MuslinError for an object that can have none."""
StandIn = Callable[[Kind[Any], Name, str], R | None]
"""The record to go by for an object that is not understood, and why it is not, where nothing was known of it before;
None to go without."""
KeyOf = Callable[[Kind[Any], Name], str]
"""Where the record of an object is stored."""


def nothing(_kind: Kind[Any], _name: Name, _why: str) -> None:
    """Nothing stands in for anything."""


class Wanted(Generic[R]):
    """The records of objects of some kinds."""

    def __init__(self, kinds: Iterable[Kind[Any]], key_of: KeyOf, convert: Convert[R],
                 stand_in: StandIn[R] = nothing) -> None:
        self._key_of, self._convert, self._stand_in = key_of, convert, stand_in
        self.doubtful: dict[str, R | None] = {}
        """By the key of each object that is not understood, and was not before: what may stand in for it."""
        self._records: dict[str, R] = {}
        self.records: Mapping[str, R] = MappingProxyType(self._records)
        """By key; live."""
        self._of: dict[Kind[Any], set[str]] = {kind: set() for kind in kinds}
        self._doubtful_of: dict[Kind[Any], set[str]] = {kind: set() for kind in self._of}
        self._unlisted, self._excused = set(self._of), set[Kind[Any]]()
        self.complete = asyncio.Event()
        """Set once all kinds that are not excused were listed: before that, half a state is known."""
        self.late = False
        """Whether one that was excused has been listed since: then what is gone of it is to be looked for."""
        self._changed: set[str] = set()
        self.moved = asyncio.Event()
        """Set while something is marked."""

    @property
    def missing(self) -> list[str]:
        """Kinds that were not listed yet, and are waited for."""
        return sorted(map(str, self._unlisted - self._excused))

    def knows(self, kind: Kind[Any]) -> bool:
        """Whether a kind was listed: what is not there of it is gone."""
        return kind not in self._unlisted

    def excuse(self, kind: Kind[Any]) -> None:
        """Do not wait for a kind, of which nothing is known."""
        self._excused.add(kind)
        self._look()

    def _look(self) -> None:
        if not self.missing:
            self.complete.set()

    def sink(self, kind: Kind[Any]) -> Sink[Any]:
        """Who is to be told of a kind's objects."""
        return _Sink(self, kind)

    def mark(self, keys: Iterable[str]) -> None:
        """Have some keys looked at."""
        self._changed.update(keys)
        if self._changed:
            self.moved.set()

    def marked(self) -> set[str]:
        """The keys that are marked, which they are no longer."""
        taken, self._changed = self._changed, set()
        self.moved.clear()
        return taken

    def listed(self, kind: Kind[Any], objects: Iterable[Resource], damaged: Collection[Name]) -> None:
        """These are all objects of a kind; those whose names are damaged are as they were."""
        named = {self._key(kind, name) for name in damaged}
        for name in damaged:
            self.damaged(kind, name)
        for item in objects:
            named.add(self._key(kind, item.name))
            self.put(kind, item)
        for key in self._of[kind] - named:
            self._drop(kind, key)
        for key in self._doubtful_of[kind] - named:
            self._trust(kind, key)
        if kind in self._unlisted and self.complete.is_set():
            self.late = True
            self.moved.set()
        self._unlisted.discard(kind)
        self._look()

    def at(self, key: str) -> R | None:
        """The record that is to be at a key; for what is not understood, what stands in for it."""
        return self.doubtful.get(key) if key in self.doubtful else self._records.get(key)

    def damaged(self, kind: Kind[Any], name: Name, why: str = "it does not decode") -> None:
        """An object is not understood: what was known of it before counts."""
        if (key := self._key(kind, name)) and key not in self._records:
            self._doubtful_of[kind].add(key)
            self.doubtful[key] = self._stand_in(kind, name, why)
            self.mark((key,))

    def _trust(self, kind: Kind[Any], key: str) -> None:
        """An object is understood again, or gone."""
        if key in self.doubtful:
            del self.doubtful[key]
            self._doubtful_of[kind].discard(key)
            self.mark((key,))

    def put(self, kind: Kind[Any], item: Resource) -> None:
        """An object was made or changed."""
        try:
            key, record = self._key(kind, item.name), self._convert(kind, item)
            if not key:
                return
        except MuslinError as problem:
            log.error("%s %s is passed over: %s", kind.kind, "/".join(filter(None, item.name)), problem.message)  # noqa: TRY400
            self.damaged(kind, item.name, problem.message)
            return
        self._trust(kind, key)
        if record is None:
            self._drop(kind, key)
        elif self._records.get(key) != record:
            self._records[key] = record
            self._of[kind].add(key)
            self.mark((key,))

    def gone(self, kind: Kind[Any], name: Name) -> None:
        """An object was deleted."""
        key = self._key(kind, name)
        self._trust(kind, key)
        self._drop(kind, key)

    def _key(self, kind: Kind[Any], name: Name) -> str:
        """Where a record is; empty for a name that no record can have, and that no API server should take."""
        try:
            return self._key_of(kind, name)
        except MuslinError as problem:
            log.error("%s %s is passed over: %s", kind.kind, name, problem.message)  # noqa: TRY400
            return ""

    def _drop(self, kind: Kind[Any], key: str) -> None:
        self._of[kind].discard(key)
        if self._records.pop(key, None) is not None:
            self.mark((key,))


class _Sink:
    def __init__(self, wanted: Wanted[Any], kind: Kind[Any]) -> None:
        self._wanted, self._kind = wanted, kind

    def listed(self, listing: Listing[Any]) -> None:
        self._wanted.listed(self._kind, listing.objects, listing.damaged)

    def put(self, item: Resource) -> None:
        self._wanted.put(self._kind, item)

    def damaged(self, name: Name) -> None:
        self._wanted.damaged(self._kind, name)

    def gone(self, name: Name) -> None:
        self._wanted.gone(self._kind, name)

    def excused(self) -> None:
        self._wanted.excuse(self._kind)
