"""Where an address comes from.

As in Calico: an open block of the node; else a new block of the first pool that has one left; else, unless affinity is
strict, any open block of any node is borrowed from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from muslin.errors import Exhausted
from muslin.etcd import keys
from services.ipam import blocks, pools, reasons, store
from services.ipam.blocks import Block
from services.ipam.config import Config
from services.ipam.handles import Request
from services.ipam.pools import Pool
from services.ipam.step import Step, Wait

_BORROW_LOOK = 64
"""Open blocks of others, of each pool, that are looked at to borrow from one."""

_RESERVED_LOOK = 65_536
"""Blocks that are looked at in search of one that is not all reserved: an IPv6 pool may have 2**64 blocks."""


def allowed(step: Step, request: Request, family: int) -> list[Pool]:
    """The pools of a family that a request may be served from, in order."""
    if family in request.pools:
        named = (step.view.pool(name).value for name in request.pools[family])
        found = [pool for pool in named if pool]
    else:
        found = list(step.view.pools())
    return [pool for pool in found if pools.serves(pool) and pools.family(pool) == family]


def choose(step: Step, request: Request, family: int) -> tuple[Block, Pool]:
    """A block with an address to give, and its pool.

    Raises:
        Exhausted: naming the pools tried and why none served.
        Wait: a block is being written.
    """
    usable = allowed(step, request, family)
    node, config = request.handle.node, step.view.settings()
    if taken := _own(step, node, usable):
        return taken
    by_the_settings(step)
    if (taken := _claimed(step, node, usable, config)) or (
            not config.strict_affinity and (taken := _borrowed(step, node, usable))):
        return taken
    raise Exhausted(reasons.exhausted(step, request, family, usable, blocks_of(step, node)))


def by_the_settings(step: Step) -> None:
    """The decision holds only while the settings are what they are."""
    step.rests_on(keys.IPAM_CONFIG)


def blocks_of(step: Step, node: str) -> int:
    """Count of a node's blocks, those claimed in this transaction too."""
    owned = step.view.index.owned(node)
    return len(owned) + sum(block.node == node and block.cidr not in owned for block in step.begun())


def claim(step: Step, node: str, cidr: str, pool: Pool) -> Block:
    """A block that nobody has, with the node's affinity.

    Raises:
        Exhausted: the node may have no more.
    """
    if why := reasons.no_claim(step.view.settings(), node, blocks_of(step, node)):
        raise Exhausted(f"block {cidr} is not claimed: {why}")
    by_the_settings(step)
    block = step.block(cidr)  # of nobody any more, or none
    step.writes[keys.affinity(node, cidr)] = store.encode(store.Affinity(pool.name))
    # Of two processes that claim a block each for this node one fails, and counts its blocks anew.
    step.rests_on(keys.ipam_node(node))
    step.writes[keys.ipam_node(node)] = store.encode(store.Node(cidr))
    return msgspec.structs.replace(block, node=node) if block else Block(cidr, pool.name, node)


def _own(step: Step, node: str, usable: list[Pool]) -> tuple[Block, Pool] | None:
    """An open block of the node, begun in this transaction or before."""
    begun = (block for block in step.begun() if block.node == node)
    waiting = False
    for block, pool in _open(step, [*begun, *_stored(step, step.view.open_blocks(node))], usable):
        if not step.busy(block.cidr):
            return block, pool
        waiting = True
    if waiting:
        raise Wait
    return None


def _claimed(step: Step, node: str, usable: list[Pool], config: Config) -> tuple[Block, Pool] | None:
    """A block that nobody has."""
    if reasons.no_claim(config, node, blocks_of(step, node)):
        return None
    raced = False
    for pool in usable:
        tally = step.view.tally(pool.name)
        for cidr in tally.idle:
            if (block := step.block(cidr)) and not block.node and not block.held and not step.busy(cidr) and (
                    _gives(step, block)):
                return claim(step, node, cidr, pool), pool
        if (len(tally.claimed) >= pools.block_count(pool)
                or step.view.index.reserved.count(pool.cidr) >= pools.size(pool)):
            continue
        for first in islice(pools.walk(pool, node), len(tally.claimed) + _RESERVED_LOOK):
            if first in tally.claimed or step.block(cidr := pools.block_at(pool, first)):
                continue
            if step.busy(cidr):
                raced = True
            elif _gives(step, Block(cidr, pool.name, node)):  # not if all of it is reserved
                return claim(step, node, cidr, pool), pool
    if raced:  # claims that are under way may yet fail
        raise Wait
    return None


def _borrowed(step: Step, node: str, usable: list[Pool]) -> tuple[Block, Pool] | None:
    """An open block of another node; nodes look at them in different orders, not to fight for one."""
    found: list[Block] = [block for block in step.begun() if block.node != node]
    for pool in usable:
        found += _stored(step, islice(step.view.tally(pool.name).open, _BORROW_LOOK))
    found.sort(key=lambda block: hashlib.sha256(f"{node}\n{block.cidr}".encode()).digest())
    waiting = False
    for block, pool in _open(step, found, usable):
        if not step.busy(block.cidr):
            return block, pool
        waiting = True
    if waiting:
        raise Wait
    return None


def _stored(step: Step, cidrs: Iterable[str]) -> Iterator[Block]:
    begun = {block.cidr for block in step.begun()}
    return (block for cidr in cidrs if cidr not in begun and (block := step.view.block(cidr).value))


def _open(step: Step, candidates: Iterable[Block], usable: list[Pool]) -> Iterator[tuple[Block, Pool]]:
    by_name = {pool.name: pool for pool in usable}
    for block in candidates:
        if block.node and not block.leaving and (pool := by_name.get(block.pool)) and _gives(step, block):
            yield block, pool


def _gives(step: Step, block: Block) -> bool:
    return blocks.next_free(block, step.view.index.barred(block)) is not None
