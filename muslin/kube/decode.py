"""Bodies of an API server's answers, decoded: objects, pages of lists, events. No I/O.

An object that does not decode does not spoil the rest: it is named, so that who follows it can keep what was before.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import msgspec

from muslin.errors import Corrupt
from muslin.kube.kinds import Kind, Name, Resource

__all__ = ["Decoder", "Event", "Page"]

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Resource)


class _ListMeta(msgspec.Struct):
    version: str | None = msgspec.field(name="resourceVersion", default=None)
    token: str | None = msgspec.field(name="continue", default=None)


class _BareMeta(msgspec.Struct):
    name: str
    namespace: str | None = None


class _Bare(msgspec.Struct):
    """Whatever else is wrong with an object, it has a name."""

    metadata: _BareMeta


class _Envelope(msgspec.Struct):
    """An object's own word on what it is. In a list it may be left out."""

    api_version: str | None = msgspec.field(name="apiVersion", default=None)
    kind: str | None = None


class _Raw(_Envelope, kw_only=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list."""

    objects: list[T]
    version: str
    token: str
    """Of the next; empty if this is the last."""
    damaged: frozenset[Name]


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """One event of a watch."""

    type: str
    """ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""
    version: str
    """To go on watching from; empty for an ERROR."""
    object: T | None
    """None for a BOOKMARK, an ERROR, and what does not decode."""
    raw: msgspec.Raw
    damaged: Name | None = None
    """The name of what does not decode."""


@lru_cache(maxsize=64)
def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(kind)


_PAGES = msgspec.json.Decoder(_Raw)
_EVENTS = msgspec.json.Decoder(_Event)
_ANY = msgspec.json.Decoder(_Bare)
_ENVELOPES = msgspec.json.Decoder(_Envelope)
_FAILURES = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Bookmark(msgspec.Struct):
    metadata: _ListMeta


_BOOKMARKS = msgspec.json.Decoder(_Bookmark)


class Decoder(Generic[T]):
    """For one kind."""

    def __init__(self, kind: Kind[T]) -> None:
        self._kind = kind
        self._typed: msgspec.json.Decoder[T] = _decoder(kind.type)

    def one(self, body: bytes | msgspec.Raw) -> T:
        """An object. Raises Corrupt if it is none, or another kind's or version's."""
        try:
            envelope = _ENVELOPES.decode(body)
            if envelope.api_version not in (None, self._kind.version) or envelope.kind not in (None, self._kind.kind):
                raise Corrupt(f"an object is {envelope.kind} of {envelope.api_version}, and not {self._kind.kind} of "
                              f"{self._kind.version}, which was asked for")
            return self._typed.decode(body)
        except _FAILURES as problem:
            raise Corrupt(f"an object of {self._kind} does not decode: {problem}") from None

    def page(self, body: bytes) -> Page[T]:
        """A page of a list. Raises Corrupt if it is none, or what is in it can not even be named."""
        try:
            raw = _PAGES.decode(body)
        except _FAILURES as problem:
            raise Corrupt(f"the list of {self._kind} does not decode: {problem}") from None
        if raw.api_version not in (None, self._kind.version) or not raw.metadata.version:
            raise Corrupt(f"the list of {self._kind} is {raw.kind} of {raw.api_version} at version "
                          f"{raw.metadata.version!r}: this is no API server that is known here")
        objects, damaged = [], set()
        for item in raw.items or ():
            try:
                objects.append(self.one(item))
            except Corrupt as problem:
                damaged.add(self._named(item, problem))
        return Page(objects, raw.metadata.version, raw.metadata.token or "", frozenset(damaged))

    def event(self, line: bytes) -> Event[T]:
        """An event. Raises Corrupt if it is none."""
        try:
            event = _EVENTS.decode(line)
            if event.type == "ERROR":
                return Event(event.type, "", None, event.object)
            version = _BOOKMARKS.decode(event.object).metadata.version or ""
        except _FAILURES as problem:
            raise Corrupt(f"an event of {self._kind} does not decode: {problem}") from None
        if event.type not in ("ADDED", "MODIFIED", "DELETED"):
            return Event(event.type, version, None, event.object)
        try:
            return Event(event.type, version, self.one(event.object), event.object)
        except Corrupt as problem:
            return Event(event.type, version, None, event.object, self._named(event.object, problem))

    def _named(self, item: msgspec.Raw, problem: Corrupt) -> Name:
        """The name of what does not decode, which the log gets to know, too. Raises Corrupt if it has none."""
        try:
            bare = _ANY.decode(item).metadata
        except _FAILURES:
            raise problem from None
        name = bare.namespace or "", bare.name
        log.error("object is passed over, what was known of it before counts: %s %s: %s", self._kind.plural,
                  "/".join(filter(None, name)), problem.message)
        return name
