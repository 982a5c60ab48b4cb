"""Where an address comes from.

As in Calico: an open block of the node; else a new block of the first pool that has one left; else, unless affinity is
strict, any open block of any node is borrowed from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice

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


Found = tuple[Block, int, Pool]
"""A block, the ordinal in it that is given next, and its pool."""


def allowed(step: Step, request: Request, family: int) -> Mapping[str, Pool]:
    """The pools of a family that a request may be served from, in order, by name."""
    if family not in request.pools:
        return step.view.serving(family)
    named = (step.view.pool(name).value for name in request.pools[family])
    return {pool.name: pool for pool in named if pool and pools.serves(pool) and pools.family(pool) == family}


def choose(step: Step, request: Request, family: int) -> Found:
    """A block with an address to give, which one, and its pool.

    Raises:
        Exhausted: naming the pools tried and why none served.
        Wait: a block is being written.
    """
    usable = allowed(step, request, family)
    node, config = request.handle.node, step.view.settings()
    if taken := _own(step, node, usable):
        return taken
    by_the_settings(step)
    if (taken := _claimed(step, node, usable.values(), config)) or (
            not config.strict_affinity and (taken := _borrowed(step, node, usable))):
        return taken
    raise Exhausted(reasons.exhausted(step, request, family, usable.values(), blocks_of(step, node)))


def by_the_settings(step: Step) -> None:
    """The decision holds only while the settings are what they are."""
    step.rests_on(keys.IPAM_CONFIG)


def blocks_of(step: Step, node: str) -> int:
    """Count of a node's blocks, those claimed in this transaction too."""
    owned = step.view.index.owned(node)
    return len(owned) + sum(block.cidr not in owned for block in step.begun_by(node))


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


def _own(step: Step, node: str, usable: Mapping[str, Pool]) -> Found | None:
    """An open block of the node, begun in this transaction or before."""
    return _first(step, chain(step.begun_by(node), _stored(step, step.view.open_blocks(node))), usable)


def _first(step: Step, candidates: Iterable[Block], usable: Mapping[str, Pool]) -> Found | None:
    """The first block that gives an address."""
    waiting = False
    for block in candidates:
        if not block.node or block.leaving or (pool := usable.get(block.pool)) is None:
            continue
        if (ordinal := _gives(step, block)) is None:
            continue
        if not step.busy(block.cidr):
            return block, ordinal, pool
        waiting = True
    if waiting:
        raise Wait
    return None


def _claimed(step: Step, node: str, usable: Iterable[Pool], config: Config) -> Found | None:
    """A block that nobody has."""
    if reasons.no_claim(config, node, blocks_of(step, node)):
        return None
    raced = False
    for pool in usable:
        tally = step.view.tally(pool.name)
        for cidr in tally.idle:
            if (block := step.block(cidr)) and not block.node and not block.held and not step.busy(cidr) and (
                    (ordinal := _gives(step, block)) is not None):
                return claim(step, node, cidr, pool), ordinal, pool
        if (len(tally.claimed) >= pools.block_count(pool)
                or step.view.index.reserved.count(pool.cidr) >= pools.size(pool)):
            continue
        for first in islice(pools.walk(pool, node), len(tally.claimed) + _RESERVED_LOOK):
            if first in tally.claimed or step.block(cidr := pools.block_at(pool, first)):
                continue
            if step.busy(cidr):
                raced = True
            elif (ordinal := _gives(step, Block(cidr, pool.name, node))) is not None:  # it may be all reserved
                return claim(step, node, cidr, pool), ordinal, pool
    if raced:  # claims that are under way may yet fail
        raise Wait
    return None


def _borrowed(step: Step, node: str, usable: Mapping[str, Pool]) -> Found | None:
    """An open block of another node; nodes look at them in different orders, not to fight for one."""
    found: list[Block] = [block for block in step.begun() if block.node != node]
    for pool in usable.values():
        found += _stored(step, islice(step.view.tally(pool.name).open, _BORROW_LOOK))
    found.sort(key=lambda block: hashlib.sha256(f"{node}\n{block.cidr}".encode()).digest())
    return _first(step, found, usable)


def _stored(step: Step, cidrs: Iterable[str]) -> Iterator[Block]:
    return (block for cidr in cidrs if not step.begins(cidr) and (block := step.view.block(cidr).value))


def _gives(step: Step, block: Block) -> int | None:
    """The ordinal that a block gives next, None if it gives none now."""
    return blocks.next_free(block, step.view.index.barred(block))
