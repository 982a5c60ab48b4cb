"""Watches: a snapshot or a place in the history, and from there everything that changes."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Compacted
from muslin.etcd import KeyValue
from services.endpoint import codec, metrics
from services.endpoint.convert import addition
from services.endpoint.feed import Batch, Event, Place
from services.endpoint.store import Store

log = logging.getLogger(__name__)

BOOKMARK = 10.0
"""Seconds without a change after which a watch is told how far the store has come."""
MESSAGE = 500
"""Changes in one message, at most."""

_CATCH_UP = 5.0
"""Seconds in which the mirror has to catch up with the store before a watch can begin."""
_BATCHES = 64

Response = endpoint_pb2.WatchResponse


async def watch(store: Store, revision: int, node: str, *, bookmark: float = BOOKMARK,
                ) -> AsyncGenerator[Response, None]:
    """What changes after a revision, or with 0 a snapshot first; of one node, or of all if it is empty.

    A revision is only sent once everything up to it has been, so any of them can be resumed from. On resuming, the
    first message is empty: it says that the watch goes on.

    Raises:
        Compacted: the revision is older than the history that is kept, or the reader is slower than what changes:
            begin again without a revision.
        Unavailable, TimedOut: the store can not be reached.
    """
    metrics.WATCHES.inc()
    try:
        if revision:
            if revision > store.revision:
                await _future(store, revision)
            place = store.feed.after(revision)
            yield Response(revision=revision)
        else:
            await store.current(_CATCH_UP)
            place, revision, items = store.feed.end, store.revision, store.endpoints()
            for response in _snapshot(items, node, revision):
                yield response
        async for response in _follow(store, place, revision, node, bookmark):
            metrics.SENT.inc(len(response.changes))
            yield response
    except Compacted as problem:
        metrics.BEHIND.inc()
        log.info("watch ended node=%s: %s", node or "all", problem.message)
        raise
    finally:
        metrics.WATCHES.dec()


async def _future(store: Store, revision: int) -> None:
    """A revision that this process has not seen: it lags, or the revision is another store's."""
    await store.current(_CATCH_UP)
    if revision > store.revision:
        raise Compacted(f"revision {revision} is in the future, the store is at {store.revision}: its data was "
                        "replaced; start again without a revision")


def _snapshot(items: Sequence[KeyValue], node: str, revision: int) -> Iterator[Response]:
    """All records, the last message with the revision."""
    changes: list[endpoint_pb2.Change] = []
    for item in items:
        record = codec.endpoint(item)
        if node not in ("", record.node):
            continue
        if len(changes) == MESSAGE:
            yield Response(changes=changes)
            changes = []
        changes.append(addition(record, item.mod_revision))
    yield Response(changes=changes, revision=revision, snapshot_complete=True)


async def _follow(store: Store, place: Place, since: int, node: str, bookmark: float) -> AsyncIterator[Response]:
    sent, due = since, time.monotonic() + bookmark
    while True:
        batches, place = store.feed.read(place, _BATCHES)
        changes = list(_changes(batches, since, node))
        known = batches[-1].revision if batches else store.revision
        over = time.monotonic() >= due
        if changes or (over and known > sent):
            while len(changes) > MESSAGE:
                yield Response(changes=changes[:MESSAGE], revision=sent)
                del changes[:MESSAGE]
            sent = max(sent, known)
            yield Response(changes=changes, revision=sent)
        if changes or over:  # also if there was nothing to tell: the next look is as far away
            due = time.monotonic() + bookmark
        if not batches:
            await store.feed.grown(max(due - time.monotonic(), 0.0))


def _changes(batches: Sequence[Batch[Event]], since: int, node: str) -> Iterator[endpoint_pb2.Change]:
    """Of one node, without what the reader knew when it came."""
    for batch in batches:
        for change, where in batch.events:
            if node in ("", where) and change.endpoint.revision > since:
                yield change
