"""The store: objects and profiles in etcd, written in as few transactions as they fit in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from muslin.etcd import Delete, Etcd, Get, Op, Put, absent, keys
from services.policy import records
from services.policy.records import Object, StoredProfile
from services.policy.translate import Ref

MAX_OPERATIONS = 120
"""In one transaction; etcd takes 128."""
MAX_BYTES = 1_300_000
"""Of values in one transaction; etcd takes requests of 1.5 MiB."""
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
    """Writes to etcd; reading is the mirror's."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd

    async def put(self, objects: Sequence[Object], timeout: float) -> int:
        """Store objects; the revision at which all are in, 0 if there are none.

        Where they do not fit in one transaction, Tiers come first, since they order policies, and Namespaces last:
        pods of a namespace that is not there are closed, so nothing is open for a moment that a policy further down
        would have shut.
        """
        ordered = sorted(objects, key=lambda item: (_RANK.get(item.kind, 1), item.namespace, item.name))
        revision = 0
        for batch in batches(Put(item.key, records.encode(item)) for item in ordered):
            revision = (await self._etcd.txn((), batch, timeout=timeout)).revision
        return revision

    async def delete(self, refs: Sequence[Ref], timeout: float) -> tuple[list[Ref], int]:
        """Remove objects. Those that there were, and the revision at which the last of them went, 0 if none did.

        In the opposite order, for the reason given at `put`.
        """
        ordered = sorted(set(refs), key=lambda ref: (-_RANK.get(ref.kind, 1), ref.namespace, ref.name))
        gone: list[Ref] = []
        revision = 0
        for start in range(0, len(ordered), MAX_OPERATIONS // 2):
            batch = ordered[start:start + MAX_OPERATIONS // 2]
            operations: list[Op] = []
            for ref in batch:
                key = keys.policy_object(ref.kind, ref.namespace, ref.name)
                operations += [Get(key), Delete(key)]
            result = await self._etcd.txn((), operations, timeout=timeout)
            found = [ref for ref, before in zip(batch, result.responses[::2], strict=True) if before is not None]
            if found:
                gone, revision = gone + found, result.revision
        return gone, revision

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
