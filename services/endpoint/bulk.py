"""Storing and deleting many records, in transactions that etcd takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from services.endpoint import codec
from services.endpoint.codec import Listed
from services.endpoint.store import Read, Store

Item = TypeVar("Item")

AT_ONCE = 32
"""Records in one transaction: their annotations may be long, and etcd takes 1.5 MB."""


async def put(store: Store, records: Sequence[Listed]) -> int:
    """Store what is not stored already; the last revision at which something was written, else 0.

    Raises:
        Conflict, Unavailable, TimedOut: not known to be done; ask again.
    """
    revision = 0
    for some in chunks(records, AT_ONCE):
        revision = await store.transact(_putting(some)) or revision
    return revision


async def delete(store: Store, stored_at: Sequence[str]) -> None:
    """Delete the records at some keys, as far as there are any.

    Raises:
        Conflict, Unavailable, TimedOut: not known to be done; ask again.
    """
    for some in chunks(stored_at, AT_ONCE):
        await store.transact(_deleting(some))


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in order, `size` or fewer at a time."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _putting(records: Sequence[Listed]) -> Callable[[Read], Mapping[str, bytes | None]]:
    def decide(read: Read) -> Mapping[str, bytes | None]:
        wanted = {codec.key_of(record): codec.encode(record) for record in records}
        return {key: value for key, value in wanted.items() if (item := read(key)) is None or item.value != value}
    return decide


def _deleting(stored_at: Sequence[str]) -> Callable[[Read], Mapping[str, bytes | None]]:
    def decide(read: Read) -> Mapping[str, bytes | None]:
        return {key: None for key in stored_at if read(key)}
    return decide
