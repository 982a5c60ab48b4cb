"""Taking affinity from a node, and removing one that is gone. docs/adr/0005-affinity.md has the states."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from muslin.errors import Conflict, InvalidArgument
from muslin.etcd import Delete, Etcd, KeyValue, Op, Put, keys, unchanged
from services.ipam import blocks, handles, ranges, store
from services.ipam.allocator import Allocator
from services.ipam.blocks import Block
from services.ipam.view import View

log = logging.getLogger(__name__)

_ATTEMPTS = 32
_AT_ONCE = 16


async def release_affinity(etcd: Etcd, view: View, node: str, cidr: str) -> tuple[list[str], list[str]]:
    """Take a node's affinity from its blocks, or from those within a range: the CIDRs deleted, and those orphaned.

    A block that holds an address, or in which one cools down, is nobody's from then on. It serves what it holds and
    gives nothing new, until it is empty: then it is claimed again, or collected.

    Raises:
        InvalidArgument: naming the field.
        Conflict: a block was changed again and again; ask again.
    """
    handles.check_node(node)
    if cidr:
        try:
            ranges.span(cidr)
        except ValueError as problem:
            raise InvalidArgument(f"cidr: {problem}; write a block's or a pool's, or leave it out") from None
    deleted: list[str] = []
    orphaned: list[str] = []
    for block in of(view, node):
        if cidr and not ranges.holds(cidr, block.cidr):
            continue
        done = await _settle(etcd, view, node, block.cidr)
        if done is not None:
            (orphaned if done else deleted).append(block.cidr)
    log.info("affinity released node=%s deleted=%d orphaned=%d", node, len(deleted), len(orphaned))
    return deleted, orphaned


async def remove(etcd: Etcd, view: View, allocator: Allocator, node: str,
                 timeout: float) -> tuple[list[str], list[str]]:
    """Free all that a node that is gone held, kept addresses too, and its blocks: the addresses, and the blocks gone.

    The blocks are marked first, so none of them gives an address meanwhile. If this is interrupted the marks stay, and
    doing it again goes on. That nobody uses what is freed is the caller's business.

    Raises:
        InvalidArgument: naming the field.
        Conflict, Unavailable, TimedOut: not known to be done; ask again.
    """
    handles.check_node(node)
    for block in of(view, node):
        await edit(etcd, view, block.cidr, lambda present: None if present.node != node or present.leaving else (
            msgspec.structs.replace(present, sequence=present.sequence + 1, leaving=True)))
    await etcd.put(keys.ipam_node(node), store.encode(store.Node("")))  # stops claims that are under way
    await allocator.refresh()
    mine = []
    for number, (_, known) in enumerate(view.handles()):
        if known.value and known.value.node == node:
            mine.append(known.value)
        if number % 1000 == 0:
            await asyncio.sleep(0)  # there may be very many
    gate = asyncio.Semaphore(_AT_ONCE)

    async def free(handle: handles.Handle) -> tuple[str, ...]:
        async with gate:
            return await allocator.release_exact(handle.identity, handle.addresses, timeout)

    freed = [address for some in await asyncio.gather(*map(free, mine)) for address in some]
    await allocator.refresh()
    gone = []
    for block in of(view, node):
        if await _settle(etcd, view, node, block.cidr) is False:
            gone.append(block.cidr)
    await etcd.delete(keys.ipam_node(node))
    log.info("node removed node=%s addresses=%d blocks=%d", node, len(freed), len(gone))
    return sorted(freed, key=_number), gone


def of(view: View, node: str) -> list[Block]:
    """The blocks of a node, in order."""
    found: Iterable[Block] = (block for cidr in list(view.index.owned(node)) if (block := view.block(cidr).value))
    return sorted(found, key=lambda block: blocks.first(block.cidr))


def _number(address: str) -> tuple[int, int]:
    number, family = ranges.number(address)
    return family, number


async def _settle(etcd: Etcd, view: View, node: str, cidr: str) -> bool | None:
    """Delete a block of the node if it is empty, else orphan it: whether it is left; None if it is not the node's."""
    left: bool | None = None

    def settle(block: Block) -> Block | bool | None:
        nonlocal left
        left = None
        if block.node != node:
            return None
        left = bool(block.held or view.index.cools(block))
        return left and msgspec.structs.replace(block, sequence=block.sequence + 1, node="", leaving=False)

    await edit(etcd, view, cidr, settle)
    return left


async def edit(etcd: Etcd, view: View, cidr: str, change: Callable[[Block], Block | bool | None]) -> None:
    """Change a block by compare-and-swap; `change` returns it anew, False to delete it, None to leave it."""
    key = keys.block(cidr)
    for _ in range(_ATTEMPTS):
        record = await etcd.get(key)
        if record is None:
            return
        before = store.decode(Block, key, record.value)
        after = change(before)
        if after is None:
            return
        writes: list[Op] = [Put(key, store.encode(after))] if isinstance(after, Block) else [Delete(key)]
        if before.node and (not isinstance(after, Block) or after.node != before.node):
            writes.append(Delete(keys.affinity(before.node, cidr)))
        result = await etcd.txn([unchanged(key, record.mod_revision)], writes)
        if result.succeeded:
            put = writes[0]
            view.see(key, KeyValue(key, put.value, record.create_revision, result.revision)
                     if isinstance(put, Put) else None, result.revision)
            return
    raise Conflict(f"block {cidr}: others change it at the same time; ask again")
