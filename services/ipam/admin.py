"""Making and removing pools, safe against other processes that do the same or assign meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from muslin.errors import AlreadyExists, Conflict, Corrupt, FailedPrecondition, NotFound
from muslin.etcd import Delete, Etcd, KeyValue, Put, absent, keys, unchanged
from services.ipam import blocks, pools, store
from services.ipam.blocks import Block
from services.ipam.pools import Pool

log = logging.getLogger(__name__)

_ATTEMPTS = 8
_BLOCKS_AT_ONCE = 60  # two operations each, in one transaction


async def create(etcd: Etcd, pool: Pool) -> None:
    """Store a new pool.

    Raises:
        AlreadyExists: its name is taken, or it shares addresses with another.
    """
    for _ in range(_ATTEMPTS):
        # Read before the pools: whoever makes one after this has changed it.
        generation = await etcd.get(keys.IPAM_POOL_GENERATION)
        others = await _all(etcd)
        if any(other.name == pool.name for other in others):
            raise AlreadyExists(f"pool {pool.name} exists already")
        if other := pools.overlap(pool, others):
            raise AlreadyExists(f"pool.cidr {pool.cidr} overlaps pool {other.name} ({other.cidr})")
        if await _insert(etcd, pool, generation):
            return
    raise Conflict(f"pool {pool.name}: others make pools at the same time; try again")


async def create_first(etcd: Etcd, pool: Pool) -> bool:
    """Store a pool if there is none at all; whether it was stored."""
    for _ in range(_ATTEMPTS):
        generation = await etcd.get(keys.IPAM_POOL_GENERATION)
        if (await etcd.range(keys.IPAM_POOLS)).items:
            return False
        if await _insert(etcd, pool, generation):
            return True
    raise Conflict(f"pool {pool.name}: others make pools at the same time; try again")


async def _insert(etcd: Etcd, pool: Pool, generation: KeyValue | None) -> bool:
    result = await etcd.txn(
        [unchanged(keys.IPAM_POOL_GENERATION, generation.mod_revision if generation else 0),
         absent(keys.pool(pool.name))],
        [Put(keys.IPAM_POOL_GENERATION, store.encode(store.Generation(pool.name))),
         Put(keys.pool(pool.name), store.encode(pool))])
    if result.succeeded:
        log.info("pool %s made: %s in blocks of /%d", pool.name, pool.cidr, pool.block_size)
    return result.succeeded


async def _all(etcd: Etcd) -> Sequence[Pool]:
    snapshot = await etcd.range(keys.IPAM_POOLS)
    return [store.decode(Pool, record.key, record.value) for record in snapshot.items]


async def update(etcd: Etcd, name: str, *, disabled: bool | None = None, node_selector: str | None = None,
                 namespace_selector: str | None = None, cool_down: int | None = None,
                 encapsulation: str | None = None, masquerade: bool | None = None) -> Pool:
    """Change what may change of a pool, where it is not None; the pool as it is then.

    Assignments depend on the pool's record: one that is under way is decided anew.

    Raises:
        NotFound: there is no such pool.
        InvalidArgument: naming the field.
        FailedPrecondition: it is being deleted.
    """
    wanted = {"disabled": disabled, "node_selector": node_selector, "namespace_selector": namespace_selector,
              "cool_down": cool_down, "encapsulation": encapsulation, "masquerade": masquerade}
    for _ in range(_ATTEMPTS):
        record = await etcd.get(keys.pool(name))
        if record is None:
            raise NotFound(f"pool {name} does not exist")
        before = store.decode(Pool, record.key, record.value)
        if before.deleting:
            raise FailedPrecondition(f"pool {name} is being deleted; delete it again to finish that")
        after = pools.check(msgspec.structs.replace(
            before, **{field: value for field, value in wanted.items() if value is not None}))
        if after == before or await _replace(etcd, after, record.mod_revision):
            log.info("pool %s updated: %s", name, after)
            return after
    raise Conflict(f"pool {name}: others change it at the same time; try again")


async def delete(etcd: Etcd, name: str) -> None:
    """Remove a pool and its empty blocks.

    It is marked first. Every assignment depends on the pool's record, so from then on none can succeed, and what is
    found empty stays empty. If this is interrupted the mark stays; deleting again goes on.

    Raises:
        NotFound: there is no such pool.
        FailedPrecondition: an address of it is in use, or a block can not be read.
    """
    for _ in range(_ATTEMPTS):
        record = await etcd.get(keys.pool(name))
        if record is None:
            raise NotFound(f"pool {name} does not exist")
        pool = store.decode(Pool, record.key, record.value)
        await _unused_blocks(etcd, pool)  # refuse before anything is changed
        marked = await _replace(etcd, msgspec.structs.replace(pool, deleting=True), record.mod_revision)
        if not marked:
            continue
        try:
            empty = await _unused_blocks(etcd, pool)
        except FailedPrecondition:
            await _replace(etcd, msgspec.structs.replace(pool, deleting=False), marked)
            raise
        if await _remove(etcd, pool, marked, empty):
            log.info("pool %s (%s) deleted", name, pool.cidr)
            return
    raise Conflict(f"pool {name}: others change it at the same time; try again")


async def _replace(etcd: Etcd, pool: Pool, revision: int) -> int:
    """Write a pool that is at a revision; its new revision, 0 if it had changed."""
    key = keys.pool(pool.name)
    result = await etcd.txn([unchanged(key, revision)], [Put(key, store.encode(pool))])
    return result.revision if result.succeeded else 0


async def _unused_blocks(etcd: Etcd, pool: Pool) -> list[tuple[Block, int]]:
    """The pool's blocks with their revisions; all must be empty."""
    found = []
    for record in (await etcd.range(keys.IPAM_BLOCKS)).items:
        if not pools.holds(pool, keys.parse_block(record.key)):
            continue
        try:
            block = store.decode(Block, record.key, record.value)
        except Corrupt as problem:
            raise FailedPrecondition(f"pool {pool.name}: {problem.message}; what it holds is not known") from None
        if block.held:
            ordinal, holder = min(block.held.items())
            raise FailedPrecondition(f"pool {pool.name} is in use: {blocks.address(block, ordinal)} is held by "
                                     f"{holder.handle}; delete the pool when it is empty")
        found.append((block, record.mod_revision))
    return found


async def _remove(etcd: Etcd, pool: Pool, revision: int, empty: Sequence[tuple[Block, int]]) -> bool:
    """Delete the blocks and then the pool; False if something had changed."""
    mine = unchanged(keys.pool(pool.name), revision)
    for start in range(0, len(empty), _BLOCKS_AT_ONCE):
        some = empty[start:start + _BLOCKS_AT_ONCE]
        result = await etcd.txn(
            [mine, *(unchanged(keys.block(block.cidr), at) for block, at in some)],
            [Delete(key) for block, _ in some
             for key in (keys.block(block.cidr), *([keys.affinity(block.node, block.cidr)] if block.node else []))])
        if not result.succeeded:
            return False
    return (await etcd.txn([mine], [Delete(keys.pool(pool.name))])).succeeded
