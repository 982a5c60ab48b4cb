"""Lists of endpoints: which of them, and in pages that all show one revision."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from muslin import selectors
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Corrupt, InvalidArgument
from muslin.etcd import KeyValue
from services.endpoint import codec
from services.endpoint.convert import endpoint_message
from services.endpoint.records import WorkloadEndpoint
from services.endpoint.store import Store

KEPT = 4
"""Revisions that pages are under way of and that are kept at hand; others are read from etcd's history."""


class Token(msgspec.Struct, frozen=True, array_like=True):
    """Where the next page begins. It says all, so any process can serve it."""

    revision: int
    after: str
    """Key of the last record of the page before."""
    filters: tuple[str, str, str, str]
    """What the first page was asked for."""


def encode(token: Token) -> str:
    """A token as text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def decode(text: str) -> Token:
    """A token from its text.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Token)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise InvalidArgument(f"page_token {text[:40]!r} is none: pass next_page_token of the answer before") from None


class Filters(NamedTuple):
    """What a list is asked for; empty for all."""

    node: str
    namespace: str
    selector: str
    network: str

    def matcher(self) -> Callable[[WorkloadEndpoint], bool]:
        """Whether a record is asked for.

        Raises:
            InvalidArgument: the selector does not parse.
        """
        selector = selectors.parse(self.selector) if self.selector.strip() else None

        def matches(record: WorkloadEndpoint) -> bool:
            return (self.node in ("", record.node) and self.namespace in ("", record.namespace)
                    and self.network in ("", record.network) and (selector is None or selector.matches(record.labels)))
        return matches


def page(items: Sequence[KeyValue], after: str, size: int, matches: Callable[[WorkloadEndpoint], bool],
         ) -> tuple[list[tuple[KeyValue, WorkloadEndpoint]], bool]:
    """Up to `size` records (0: all) that match, of items sorted by key, after a key; whether there are more."""
    found: list[tuple[KeyValue, WorkloadEndpoint]] = []
    for item, record in _decoded(items, after):
        if matches(record):
            if size and len(found) == size:
                return found, True
            found.append((item, record))
    return found, False


def _decoded(items: Sequence[KeyValue], after: str) -> Iterator[tuple[KeyValue, WorkloadEndpoint]]:
    for item in items:
        if item.key > after:
            try:
                yield item, codec.endpoint(item)
            except Corrupt:
                continue  # as if it were gone; said when it was seen first


class Lists:
    """Lists of the records of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._revisions: dict[int, Sequence[KeyValue]] = {}

    async def list(self, request: endpoint_pb2.ListRequest, timeout: float) -> endpoint_pb2.ListResponse:
        """Answer a request for a list, or for a page of one.

        Raises:
            InvalidArgument: the selector or the token is wrong.
            Compacted: the revision of the page before is no longer kept.
            Unavailable, TimedOut: the store can not be reached.
        """
        filters = Filters(request.node, request.namespace, request.selector, request.network)
        matches = filters.matcher()
        if request.page_token:
            token = decode(request.page_token)
            if token.filters != filters:
                raise InvalidArgument("page_token belongs to a list with other filters: repeat those of the first page")
            revision, after = token.revision, token.after
            items = await self._items(revision, timeout)
        else:
            await self._store.current(timeout)
            revision, after, items = self._store.revision, "", self._store.endpoints()
        found, more = page(items, after, request.page_size, matches)
        response = endpoint_pb2.ListResponse(
            revision=revision, endpoints=[endpoint_message(record, item.mod_revision) for item, record in found])
        if more:
            self._keep(revision, items)
            response.next_page_token = encode(Token(revision, found[-1][0].key, filters))
        return response

    async def _items(self, revision: int, timeout: float) -> Sequence[KeyValue]:
        if (kept := self._revisions.get(revision)) is not None:
            return kept
        return await self._store.endpoints_at(revision, timeout)

    def _keep(self, revision: int, items: Sequence[KeyValue]) -> None:
        self._revisions.pop(revision, None)
        self._revisions[revision] = items
        while len(self._revisions) > KEPT:
            del self._revisions[next(iter(self._revisions))]
