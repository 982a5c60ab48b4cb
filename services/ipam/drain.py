"""Draining a node: it gets no new address, and its blocks go as they get empty.

The node's record says so, which claims and what is borrowed for it depend on; and each of its blocks is marked as
leaving, which assignments from it depend on. So from the moment this returns nothing new is given to the node, by any
process, and what it has serves on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from muslin.errors import Conflict
from muslin.etcd import Etcd, KeyValue, Put, keys, unchanged
from services.ipam import handles, store
from services.ipam.allocator import Allocator
from services.ipam.blocks import Block
from services.ipam.nodes import edit, of
from services.ipam.view import View

__all__ = ["Use", "drain", "undo", "use"]

log = logging.getLogger(__name__)

_ATTEMPTS = 16


class Use(msgspec.Struct, frozen=True):
    """What a node has."""

    node: str
    blocks: int = 0
    addresses: int = 0
    draining: bool = False


async def drain(etcd: Etcd, view: View, allocator: Allocator, node: str, timeout: float) -> list[str]:
    """Have a node get nothing new, and delete its blocks that are empty and have nothing that cools down.

    The CIDRs of those. Doing it again goes on; upkeep does the same from time to time.

    Raises:
        InvalidArgument: that is no node's name.
        Conflict, Unavailable, TimedOut: not known to be done; ask again.
    """
    handles.check_node(node)
    if await _mark(etcd, view, node, draining=True):
        log.info("node=%s is drained of addresses", node)
    released = []
    for block in of(view, node):
        await edit(etcd, view, block.cidr, lambda present: _leaving(present, node, leaving=True))
        known = view.block(block.cidr)
        # One with an address that is held, or cools down, is not released.
        if known.value and await allocator.release_block(block.cidr, known.revision, timeout):
            released.append(block.cidr)
    return released


async def undo(etcd: Etcd, view: View, node: str) -> None:
    """Have a node get addresses again, and serve from the blocks that it still has. Raises as `drain`."""
    handles.check_node(node)
    if await _mark(etcd, view, node, draining=False):
        log.info("node=%s is not drained any more", node)
    for block in of(view, node):
        await edit(etcd, view, block.cidr, lambda present: _leaving(present, node, leaving=False))


def use(view: View, held: Iterable[handles.Handle]) -> list[Use]:
    """What each node has that has anything, or is drained, sorted; `held` are all handles."""
    addresses: dict[str, int] = {}
    for handle in held:
        addresses[handle.node] = addresses.get(handle.node, 0) + len(handle.addresses)
    names = addresses.keys() | view.index.owners | view.draining
    return [Use(name, len(view.index.owned(name)), addresses.get(name, 0), name in view.draining)
            for name in sorted(names)]


def _leaving(block: Block, node: str, *, leaving: bool) -> Block | None:
    if block.node != node or block.leaving == leaving:
        return None
    return msgspec.structs.replace(block, sequence=block.sequence + 1, leaving=leaving)


async def _mark(etcd: Etcd, view: View, node: str, *, draining: bool) -> bool:
    """Write whether a node is drained; whether that was otherwise before."""
    key = keys.ipam_node(node)
    for _ in range(_ATTEMPTS):
        record = await etcd.get(key)
        before = store.decode(store.Node, key, record.value) if record else store.Node("")
        if before.draining == draining:
            return False
        value = store.encode(msgspec.structs.replace(before, draining=draining))
        result = await etcd.txn([unchanged(key, record.mod_revision if record else 0)], [Put(key, value)])
        if result.succeeded:
            made = record.create_revision if record else result.revision
            view.see(key, KeyValue(key, value, made, result.revision), result.revision)
            return True
    raise Conflict(f"node {node}: others claim blocks for it at the same time; ask again")
