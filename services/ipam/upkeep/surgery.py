"""Taking out exactly one record, or one slot, that was found to be nobody's: compare-and-swap on what was judged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from muslin.errors import Conflict, Corrupt
from muslin.etcd import Compare, Delete, Etcd, KeyValue, Op, Put, keys, unchanged
from services.ipam import blocks, metrics, store
from services.ipam.blocks import Block, Held
from services.ipam.handles import Address, Handle
from services.ipam.upkeep.inspection import valid_address

_ATTEMPTS = 16
"""Lost races for a block before it is given up: each one means that somebody else got on."""


@dataclass
class _Edit:
    compares: list[Compare] = field(default_factory=list)
    writes: list[Op] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)


async def remove_handle(etcd: Etcd, record: KeyValue, now_ms: int) -> tuple[str, ...] | None:
    """Delete a handle if its record is still this one, and free what blocks give to it; None if it has changed.

    Raises:
        Corrupt: the handle or one of its blocks does not decode; nothing was changed.
        Conflict, Unavailable, TimedOut: not known to be done.
    """
    handle = store.decode(Handle, record.key, record.value)
    pod = f"{handle.namespace}/{handle.pod}" if handle.pod else ""
    for attempt in range(_ATTEMPTS):
        edit = _Edit([unchanged(record.key, record.mod_revision)], [Delete(record.key)])
        for cidr in {held.block for held in handle.addresses}:
            await _without(etcd, cidr, [(a.address, Held(handle.identity, a.sequence)) for a in handle.addresses
                                        if a.block == cidr], edit, now_ms, pod)
        if (await etcd.txn(edit.compares, edit.writes)).succeeded:
            metrics.RELEASED.inc(len(edit.freed))
            return tuple(edit.freed)
        now = await etcd.get(record.key)
        if now is None or now.mod_revision != record.mod_revision:
            return None
        await _pause(attempt)
    raise Conflict(f"{handle.identity}: its blocks were changed {_ATTEMPTS} times in a row; ask again")


async def free_slot(etcd: Etcd, cidr: str, address: str, held: Held, now_ms: int) -> bool:
    """Free an address that a block gives to a handle which does not say so; whether it was still so.

    Raises:
        Corrupt: the block or the handle does not decode; nothing was changed.
        Conflict, Unavailable, TimedOut: not known to be done.
    """
    key = store.handle_key(held.handle)
    for attempt in range(_ATTEMPTS):
        record = await etcd.get(key)
        if record and _names(store.decode(Handle, key, record.value), cidr, address, held.sequence):
            return False
        edit = _Edit([unchanged(key, record.mod_revision if record else 0)])
        await _without(etcd, cidr, [(address, held)], edit, now_ms)
        if not edit.freed:
            return False
        if (await etcd.txn(edit.compares, edit.writes)).succeeded:
            metrics.RELEASED.inc()
            return True
        await _pause(attempt)
    raise Conflict(f"{address}: its block was changed {_ATTEMPTS} times in a row; ask again")


def _names(handle: Handle, cidr: str, address: str, sequence: int) -> bool:
    return Address(address, cidr, sequence) in handle.addresses


async def _without(etcd: Etcd, cidr: str, slots: Iterable[tuple[str, Held]], edit: _Edit,
                   now_ms: int, pod: str = "") -> None:
    """Add to a transaction what frees those slots of a block that are exactly so."""
    record = await etcd.get(keys.block(cidr))
    # Also that there is no such block, or none of these slots in it, must still be so.
    edit.compares.append(unchanged(keys.block(cidr), record.mod_revision if record else 0))
    if record is None:
        return
    block = store.decode(Block, record.key, record.value)
    if wrong := blocks.problems(block):
        raise Corrupt(f"block {cidr} is damaged: {'; '.join(wrong)}")
    freed = []
    for address, held in slots:
        ordinal = blocks.ordinal_of(block, address) if valid_address(address) else None
        if ordinal is None:
            continue  # no block gives it
        if after := blocks.release(block, ordinal, held.handle, held.sequence, at_ms=now_ms, pod=pod):
            block = after
            freed.append(address)
    if freed:
        edit.writes.append(Put(record.key, store.encode(block)))
        edit.freed += freed


async def _pause(attempt: int) -> None:
    await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 5)))  # noqa: S311  no secret
