"""Objects of an API server: one, all of a kind in pages, and what changes (Kubernetes documentation, "API Concepts").

Of writing there is as much as is needed: making an object, and changing one.

Credentials are read anew every minute, and when the server refuses them; where certificates have changed, connections
are made anew, and requests under way end as they began.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from muslin.errors import Compacted, Corrupt, NotFound, Unauthenticated, Unavailable
from muslin.kube.access import Load
from muslin.kube.decode import Decoder, Event, Page
from muslin.kube.failures import refusal, status_of
from muslin.kube.kinds import Kind, Name, Resource

if TYPE_CHECKING:
    from muslin.kube.http import Http

__all__ = ["Client", "Listing", "Pace"]

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Resource)
R = TypeVar("R")

_LONGEST_EVENT = 32 << 20
"""Bytes of one event of a watch; an object has 1.5 MB at most."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Times, in seconds, and the size of a page."""

    page: int = 500
    """Objects in a page of a list."""
    list: float = 30.0
    """For each page."""
    watch: float = 240.0
    """After which the server is asked to end a watch, which is begun anew then; up to half is added at random."""
    grace: float = 10.0
    """Beyond that a watch that has not ended is taken for a half-open connection."""
    renew: float = 60.0
    """Credentials are not older."""
    pause: float = 8.0
    """Between attempts, at most: a server that is back is not left alone for long."""
    absent: float = 60.0
    """Between looks for a kind that need not be there, and is not."""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """All objects of a kind, as they were at one version."""

    objects: list[T]
    version: str
    """To watch from."""
    damaged: frozenset[Name] = frozenset()
    """Names of objects that do not decode."""


class Client:
    """A client of one API server, for one event loop. Nothing is connected, nor read, before it is asked for something.

    All methods raise Unavailable and TimedOut if the server does not answer, Unauthenticated and Denied if it does not
    let us, NotFound if it does not serve the kind, and what is wrong with the credentials.
    """

    def __init__(self, load: Load, pace: Pace | None = None) -> None:
        self._load, self.pace = load, pace or Pace()
        self._http: Http | None = None
        self._renewed = 0.0
        self._closed = False

    async def aclose(self) -> None:
        """End all connections. Whoever has requests under way has ended them."""
        self._closed = True
        if self._http is not None:
            await self._http.aclose()

    async def get(self, kind: Kind[T], name: Name, timeout: float) -> T | None:
        """One object as it is now, None if there is none.

        Raises:
            Corrupt: it does not decode.
        """
        try:
            body = await self._asked(lambda http: http.get(kind.path(name), {}, timeout))
        except NotFound:
            return None
        return Decoder(kind).one(body)

    async def create(self, path: str, item: Mapping[str, Any], timeout: float) -> None:
        """Make an object; `path` is of all objects of its kind, in its namespace.

        Raises:
            Conflict: there is one of its name.
        """
        await self._write("POST", path, "application/json", item, timeout)

    async def patch(self, path: str, change: Mapping[str, Any], timeout: float) -> None:
        """Merge a change into an object, or into a part of it (`.../status`), as its kind says that lists are merged.

        That is what Kubernetes calls a strategic merge patch: only its own kinds know it.
        """
        await self._write("PATCH", path, "application/strategic-merge-patch+json", change, timeout)

    async def edit(self, path: str, steps: Sequence[Mapping[str, Any]], timeout: float) -> None:
        """Change an object step by step (JSON Patch, RFC 6902), all steps or none.

        Raises:
            InvalidArgument: a step is a test, and the object is otherwise.
        """
        await self._write("PATCH", path, "application/json-patch+json", steps, timeout)

    async def _write(self, method: str, path: str, media: str, what: Any, timeout: float) -> None:
        content = msgspec.json.encode(what)

        async def send(http: Http) -> bytes:
            from muslin.kube.http import Body

            return await http.send(path, Body(method, media, content), timeout)

        await self._asked(send)

    async def list(self, kind: Kind[T]) -> Listing[T]:
        """All objects of a kind, in pages that all show the same version.

        Pages that are no longer kept halfway are given up for one list without pages, as the documentation asks.

        Raises:
            Corrupt: what the server says is no list.
        """
        try:
            return await self._listed(kind, self.pace.page)
        except Compacted as problem:
            log.info("%s changed too much while they were listed, asking for all at once: %s", kind, problem.message)
            return await self._listed(kind, 0)

    async def _listed(self, kind: Kind[T], size: int) -> Listing[T]:
        decoder, objects, damaged, query = Decoder(kind), list[T](), set[Name](), kind.selection
        if size:
            query["limit"] = str(size)

        async def ask(http: Http) -> bytes:
            # No version is asked for: the answer is as new as the store, not as some cache of the server.
            return await http.get(kind.path(), query, self.pace.list)

        while True:
            page: Page[T] = decoder.page(await self._asked(ask))
            objects += page.objects
            damaged |= page.damaged
            if not page.token:
                return Listing(objects, page.version, frozenset(damaged))
            if page.token == query.get("continue"):
                raise Corrupt(f"{kind}: the server names the same page again")
            query["continue"] = page.token

    async def watch(self, kind: Kind[T], version: str, take: Callable[[Event[T]], None]) -> None:
        """Have `take` called for what changes after a version, until the server ends the watch as it was asked to.

        Bookmarks are among the events: that time has passed and nothing else has.

        Raises:
            Compacted: what changed since that version is no longer kept, list again.
            Corrupt: what the server says is no event.
            Unavailable, TimedOut: the connection is lost, or half open. What was taken counts.
        """
        seconds = self.pace.watch * random.uniform(1.0, 1.5)  # noqa: S311  spreads load
        query = {**kind.selection, "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true",
                 "timeoutSeconds": str(max(int(seconds), 1))}
        decoder = Decoder(kind)

        async def follow(http: Http) -> None:
            lines = _Lines()
            async with http.streamed(kind.path(), query, seconds + self.pace.grace) as pieces:
                async for piece in pieces:
                    for line in lines.take(piece):
                        event = decoder.event(line)
                        if event.type == "ERROR":
                            code, said = status_of(event.raw)
                            raise refusal(code or 500, event.raw, None, f"watch of {kind}: {said}", http.access.source)
                        take(event)

        await self._asked(follow)

    async def _asked(self, request: Callable[[Http], Awaitable[R]]) -> R:
        """The answer to a request; where the credentials are refused and there are other ones by now, to a second."""
        http = await self._connected()
        refused = http.access
        try:
            return await request(http)
        except Unauthenticated:
            self._renewed = 0.0
            http = await self._connected()
            if http.access == refused:
                raise
            log.info("credentials were refused, and there are new ones: %s", http.access.source)
            return await request(http)

    async def _connected(self) -> Http:
        """Connections with credentials that are not old."""
        if self._http is not None and time.monotonic() - self._renewed < self.pace.renew:
            return self._http
        access = await asyncio.to_thread(self._load)
        if self._closed:
            raise Unavailable("the client of the API server was closed")
        before, self._renewed = self._http, time.monotonic()
        if before is not None and replace(before.access, token=access.token) == access:
            before.access = access
            return before
        # aiohttp takes 14 MB, which those who follow no API server need not have.
        from muslin.kube.http import Http

        self._http = Http(access)
        if before is not None:
            await before.retire()
        return self._http


class _Lines:
    """Pieces of a stream in, whole lines out."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self._size = 0

    def take(self, piece: bytes) -> list[bytes]:
        *ended, rest = piece.split(b"\n")
        if ended:
            self._begun.append(ended[0])
            ended[0] = b"".join(self._begun)
            self._begun, self._size = [], 0
        if rest:
            self._begun.append(rest)
            self._size += len(rest)
            if self._size > _LONGEST_EVENT:
                raise Corrupt(f"an event of a watch has more than {_LONGEST_EVENT} bytes")
        return [line for line in ended if line.strip()]
