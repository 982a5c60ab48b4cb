"""Records made, given back and changed by hand, beside those that ADD stores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from muslin import selectors
from muslin.errors import AlreadyExists, Conflict, Corrupt, FailedPrecondition, InvalidArgument, NotFound
from muslin.etcd import KeyValue, keys
from services.endpoint import codec, sharing
from services.endpoint.records import NAMESPACE_LABEL, WorkloadEndpoint, follow
from services.endpoint.store import Read, Store


async def create(store: Store, record: WorkloadEndpoint, timeout: float) -> tuple[WorkloadEndpoint, int]:
    """Store a record, with what is known of its pod; as stored, and the revision.

    Raises:
        AlreadyExists: the attachment has a record, or another has one of its addresses.
        Conflict, Unavailable, TimedOut: not known to be done.
    """
    await store.current(timeout)  # the index of addresses must know what was stored until now
    stored = record

    def decide(read: Read) -> Mapping[str, bytes | None]:
        nonlocal stored
        if read(codec.key_of(record)) is not None:
            raise AlreadyExists(f"attachment {record.identity} has an endpoint already")
        if holder := _holder(store, read, record):
            raise AlreadyExists(holder)
        stored = _following(read, record)
        return _making(read, stored)

    revision = await store.transact(decide)
    return stored, revision


@dataclass
class Restored:
    """What became of records that a node knows of."""

    restored: list[WorkloadEndpoint] = field(default_factory=list)
    refused: list[tuple[WorkloadEndpoint, str]] = field(default_factory=list)
    """With the reason. What had a record is in neither list."""


async def restore(store: Store, records: Sequence[WorkloadEndpoint], revision: int, timeout: float) -> Restored:
    """Give back records that were missing at a revision, unless their attachments were deleted after it.

    Raises:
        InvalidArgument: the revision is not one of this store.
        Conflict, Unavailable, TimedOut: not known to be done for all; ask again.
    """
    await store.current(timeout)
    if not 0 < revision <= store.revision:
        raise InvalidArgument(f"revision {revision} is not one of this store, which is at {store.revision}: list the "
                              "records of the node, and say the revision of that list")
    done = Restored()
    for record in records:
        reason, stored = "", False

        def decide(read: Read, record: WorkloadEndpoint = record) -> Mapping[str, bytes | None]:
            nonlocal reason, stored
            reason, stored = "", False
            if read(key := codec.key_of(record)) is not None:
                return {}
            fence = read(keys.endpoint_fence(key))
            if fence is not None and fence.mod_revision > revision:
                reason = f"something was deleted after revision {revision}, perhaps this: list again"
            else:
                reason = _holder(store, read, record)
            stored = not reason
            return _making(read, _following(read, record)) if stored else {}

        await store.transact(decide)
        if stored:
            done.restored.append(record)
        elif reason:
            done.refused.append((record, reason))
    return done


async def relabel(store: Store, key: str, put: Mapping[str, str], remove: Collection[str], revision: int,
                  ) -> tuple[WorkloadEndpoint, int]:
    """Change labels of the record at a key; the record, and the revision at which it was last changed.

    Raises:
        InvalidArgument: a label can not be one.
        NotFound: there is no record.
        FailedPrecondition: it is a pod's: its labels are the pod's.
        Conflict: it was not last changed at `revision`, if that is not 0; or not known to be done.
        Unavailable, TimedOut: not known to be done.
    """
    for label in put:
        if not selectors.KEY.fullmatch(label) or label == NAMESPACE_LABEL:
            raise InvalidArgument(f"set: {label!r} can not be a label: it must match {selectors.KEY.pattern}, and not "
                                  f"be {NAMESPACE_LABEL}, which tells a pod's namespace")
    known = {key: await store.get(key)}
    record: WorkloadEndpoint | None = None
    unchanged = 0

    def decide(read: Read) -> Mapping[str, bytes | None]:
        nonlocal record, unchanged
        if (item := read(key)) is None:
            raise NotFound(f"attachment {key.removeprefix(keys.ENDPOINTS)} has no endpoint")
        expected(item, revision)
        unchanged = item.mod_revision
        before = codec.endpoint(item)
        if before.pod:
            raise FailedPrecondition(f"attachment {before.identity} is of pod {before.namespace}/{before.pod}, whose "
                                     "labels it has: change those of the pod")
        labels = {label: text for label, text in {**before.labels, **put}.items() if label not in remove}
        record = msgspec.structs.replace(before, labels=labels)
        return {key: codec.encode(record)} if record != before else {}

    at = await store.transact(decide, known) or unchanged
    assert record is not None
    return record, at


def expected(item: KeyValue, revision: int) -> None:
    """Check that a record is the one that is meant.

    Raises:
        Conflict: it was last changed at another revision than this, which is not 0.
    """
    if revision and item.mod_revision != revision:
        raise Conflict(f"{item.key.removeprefix(keys.ENDPOINTS)}: was last changed at revision {item.mod_revision}, "
                       f"not {revision}: look at it anew")


def _holder(store: Store, read: Read, record: WorkloadEndpoint) -> str:
    """That another record has one of the addresses, for people; empty if none has."""
    for address in record.addresses:
        for other in store.holders(address):
            if other != codec.key_of(record) and read(other) is not None:
                return f"address {address} is held by {other.removeprefix(keys.ENDPOINTS)}"
    return ""


def _making(read: Read, record: WorkloadEndpoint) -> Mapping[str, bytes | None]:
    """What to write for a new record: outside Kubernetes also that the interface is its network's, if nobody's."""
    writes: dict[str, bytes | None] = {codec.key_of(record): codec.encode(record)}
    if not record.pod and read(interface := keys.endpoint_interface(record.container_id, record.ifname)) is None:
        writes[interface] = sharing.claim(record.network)
    return writes


def _following(read: Read, record: WorkloadEndpoint) -> WorkloadEndpoint:
    """The record with what its pod says, if that is known."""
    if not record.pod or (item := read(keys.pod(record.namespace, record.pod))) is None:
        return record
    try:
        return follow(record, codec.pod(item))
    except Corrupt:
        return record
