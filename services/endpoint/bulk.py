"""Storing and deleting many records, in transactions that etcd takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from services.endpoint import codec
from services.endpoint.codec import Listed
from services.endpoint.store import Read, Store

Item = TypeVar("Item")

AT_ONCE = 64
"""Records in one transaction, at most: each has a fence, too, and etcd takes 128 operations of a kind."""
BYTES = 1_000_000
"""Size of the records of one transaction, at most: etcd takes 1.5 MB, and their annotations may be long."""


async def put(store: Store, records: Sequence[Listed]) -> int:
    """Store what is not stored already; the last revision at which something was written, else 0.

    Raises:
        Conflict, Unavailable, TimedOut: not known to be done; ask again.
    """
    revision = 0
    encoded = [(codec.key_of(record), codec.encode(record)) for record in records]
    for some in bundles(encoded):
        revision = await store.transact(_putting(some)) or revision
    return revision


async def delete(store: Store, stored_at: Sequence[str]) -> None:
    """Delete the records at some keys, as far as there are any.

    Raises:
        Conflict, Unavailable, TimedOut: not known to be done; ask again.
    """
    for some in chunks(stored_at, AT_ONCE):
        await store.transact(_deleting(some))


def bundles(encoded: Sequence[tuple[str, bytes]], at_once: int = AT_ONCE) -> Iterator[Sequence[tuple[str, bytes]]]:
    """Keys and values in order, as many at a time as fit into one transaction; one that is too long goes alone."""
    some: list[tuple[str, bytes]] = []
    size = 0
    for key, value in encoded:
        if some and (len(some) == at_once or size + len(value) > BYTES):
            yield some
            some, size = [], 0
        some.append((key, value))
        size += len(value)
    if some:
        yield some


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in order, `size` or fewer at a time."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _putting(encoded: Sequence[tuple[str, bytes]]) -> Callable[[Read], Mapping[str, bytes | None]]:
    def decide(read: Read) -> Mapping[str, bytes | None]:
        return {key: value for key, value in encoded if (item := read(key)) is None or item.value != value}
    return decide


def _deleting(stored_at: Sequence[str]) -> Callable[[Read], Mapping[str, bytes | None]]:
    # What is not there is deleted all the same: that rewrites its fence.
    def decide(read: Read) -> Mapping[str, bytes | None]:
        for key in stored_at:
            read(key)  # one that is made anew meanwhile is not meant
        return dict.fromkeys(stored_at)
    return decide
