"""The inventory: pods, namespaces and nodes, for whoever decides by them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Iterator

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Compacted
from services.endpoint import metrics
from services.endpoint.convert import InventoryChange, told
from services.endpoint.store import Store

log = logging.getLogger(__name__)

Response = endpoint_pb2.WatchInventoryResponse

MESSAGE = 500
"""Changes in one message, at most."""
BYTES = 1 << 20
"""Size of a message after which the next begins; annotations may be long, gRPC's messages may not."""

_CATCH_UP = 5.0
"""Seconds in which the mirror has to catch up with the store before a watch can begin."""
_BATCHES = 64
_LOOK = 60.0
"""Seconds between looks at a feed that says nothing; its reader is told by an event."""


async def watch_inventory(store: Store, *, fetches: bool = False) -> AsyncGenerator[Response, None]:
    """All pods, namespaces and nodes, and then what changes, in order; `fetches` says whether pods can be asked for.

    Raises:
        Compacted: the reader is slower than what changes: begin again.
        Unavailable, TimedOut: the store can not be reached.
    """
    metrics.WATCHES.inc()
    try:
        await store.current(_CATCH_UP)
        place, snapshot = store.inventory.end, [told(record) for record in store.listed()]
        for response in _messages(snapshot):
            yield response
        yield Response(snapshot_complete=True, fetches_pods=fetches)
        while True:
            batches, place = store.inventory.read(place, _BATCHES)
            for response in _messages(change for batch in batches for change in batch.events):
                metrics.SENT.inc(len(response.changes))
                yield response
            if not batches:
                await store.inventory.grown(_LOOK)
    except Compacted as problem:
        metrics.BEHIND.inc()
        log.info("watch of the inventory ended: %s", problem.message)
        raise
    finally:
        metrics.WATCHES.dec()


def _messages(changes: Iterable[InventoryChange]) -> Iterator[Response]:
    """The changes, in messages of a bearable size."""
    some: list[InventoryChange] = []
    size = 0
    for change in changes:
        some.append(change)
        size += change.ByteSize()
        if len(some) == MESSAGE or size >= BYTES:
            yield Response(changes=some)
            some, size = [], 0
    if some:
        yield Response(changes=some)
