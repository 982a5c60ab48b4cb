"""The store: objects and profiles in etcd, written in as few transactions as they fit in."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from muslin.errors import Conflict
from muslin.etcd import Delete, Etcd, Get, KeyValue, Op, Put, absent, keys, unchanged
from muslin.etcd.election import Deposed, Term
from services.policy import records
from services.policy.records import Object, StoredProfile
from services.policy.translate import Ref

MAX_OPERATIONS = 111
"""On objects in one transaction; etcd takes 128, and there are 16 fences, and the place of the one who writes."""
MAX_BYTES = 1_300_000
"""Of values in one transaction; etcd takes requests of 1.5 MiB."""
Known: TypeAlias = dict[str, KeyValue | None]
"""Records by key, None for one that is not there."""

_ATTEMPTS = 32
_RANK = {"Tier": 0, "Namespace": 2}
"""Kinds in the order in which they are stored; the others are 1."""


def batches(puts: Iterable[Put]) -> Iterator[list[Put]]:
    """The same operations in the same order, in groups that etcd takes."""
    batch: list[Put] = []
    size = 0
    for put in puts:
        if batch and (len(batch) == MAX_OPERATIONS or size + len(put.value) > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(put)
        size += len(put.value)
    if batch:
        yield batch


class Store:
    """Writes to etcd; reading is the mirror's.

    A request to etcd may arrive long after it was sent, and its process may be dead by then. So each depends on what
    its sender knew: a record that it changes or deletes is as it was; one that it makes is not there, and nor has any
    record with the same fence been deleted since, as each deletion rewrites the fence of what it deletes, whether that
    was there or not. What a process knows comes from its mirror; where that was wrong etcd says what is right, and the
    same is sent again. So of two that are alive the later prevails.
    """

    def __init__(self, etcd: Etcd, mirrored: Mapping[str, KeyValue]) -> None:
        """`mirrored` holds the records as far as they are known here; live."""
        self._etcd, self._mirrored = etcd, mirrored

    async def put(self, objects: Sequence[Object], timeout: float, term: Term | None = None) -> int:
        """Store objects; the revision at which all are in, 0 if there are none. With a term only while that lasts.

        Where they do not fit in one transaction, Tiers come first, since they order policies, and Namespaces last:
        pods of a namespace that is not there are closed, so nothing is open for a moment that a policy further down
        would have shut.

        Raises:
            Deposed: the term is over.
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        ends = time.monotonic() + timeout
        ordered = sorted(objects, key=lambda item: (_RANK.get(item.kind, 1), item.namespace, item.name))
        revision = 0
        for batch in batches(Put(item.key, records.encode(item)) for item in ordered):
            revision, _ = await self._commit({put.key: put.value for put in batch}, ends, term)
        return revision

    async def delete(self, refs: Sequence[Ref], timeout: float, term: Term | None = None) -> tuple[list[Ref], int]:
        """Remove objects. Those that there were, and the revision at which all are gone, 0 if none was named.

        In the opposite order, for the reason given at `put`.

        Raises:
            Deposed: the term is over.
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        ends = time.monotonic() + timeout
        ordered = sorted(set(refs), key=lambda ref: (-_RANK.get(ref.kind, 1), ref.namespace, ref.name))
        gone: list[Ref] = []
        revision = 0
        for start in range(0, len(ordered), MAX_OPERATIONS):
            batch = {keys.policy_object(ref.kind, ref.namespace, ref.name): ref
                     for ref in ordered[start:start + MAX_OPERATIONS]}
            revision, found = await self._commit(dict.fromkeys(batch), ends, term)
            gone += [ref for key, ref in batch.items() if found[key] is not None]
        return gone, revision

    async def _commit(self, writes: Mapping[str, bytes | None], ends: float,
                      term: Term | None = None) -> tuple[int, Known]:
        """Write records, or delete those of value None, in one transaction. Its revision, and what was there before.

        `ends` is the time, as the monotonic clock counts it, until when it is tried.
        """
        fences = {key: keys.policy_fence(key) for key in writes}
        rewritten = sorted({fences[key] for key, value in writes.items() if value is None})
        operations: list[Op] = [Delete(key) if value is None else Put(key, value) for key, value in writes.items()]
        operations += [Put(fence, b"") for fence in rewritten]
        known: Known = {key: self._mirrored.get(key) for key in (*writes, *sorted(set(fences.values())))}
        for attempt in range(_ATTEMPTS):
            needed = [*writes, *sorted({fences[key] for key, value in writes.items()
                                        if value is not None and known[key] is None})]
            compare = [unchanged(key, item.mod_revision if (item := known[key]) else 0) for key in needed]
            guard = [term.guard] if term else []
            result = await self._etcd.txn([*guard, *compare], operations,
                                          [Get(key) for key in (*(item.key for item in guard), *known)],
                                          timeout=max(ends - time.monotonic(), 0.001))
            if result.succeeded:
                return result.revision, known
            if term and ((place := result.responses[0]) is None or place.mod_revision != term.revision):
                raise Deposed(f"{term.key}: another process writes what the API server has")
            known = dict(zip(known, result.responses[len(guard):], strict=True))
            if attempt:
                await asyncio.sleep(random.uniform(0, 0.001 * 2 ** min(attempt, 6)))  # noqa: S311  no secret
        raise Conflict(f"{next(iter(writes))}: others changed the same records {_ATTEMPTS} times in a row; ask again")

    async def ensure_profile(self, name: str, profile: StoredProfile, timeout: float) -> int:
        """Store a profile unless there is one of that name; the revision at which the one there is was stored."""
        key = keys.profile(name)
        result = await self._etcd.txn([absent(key)], [Put(key, records.encode(profile))], [Get(key)], timeout=timeout)
        if result.succeeded:
            return result.revision
        (existing,) = result.responses
        return existing.mod_revision if existing is not None else 0

    async def has_profile(self, name: str, timeout: float) -> bool:
        """Whether there is a profile of that name."""
        return await self._etcd.get(keys.profile(name), timeout=timeout) is not None
