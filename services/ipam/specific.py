"""A specific address: the one that was asked for, or an error that says what is in the way."""

from __future__ import annotations

from muslin.errors import AlreadyExists, Exhausted, FailedPrecondition, InvalidArgument
from services.ipam import blocks, pools, reservations, sources
from services.ipam.blocks import Block
from services.ipam.handles import Request
from services.ipam.pools import Pool
from services.ipam.step import Step, Wait


def choose(step: Step, request: Request, address: str) -> tuple[Block, int, Pool]:
    """The block, the ordinal and the pool of a specific address.

    It may be in any pool that is enabled, also in another node's block unless affinity is strict, as in Calico.

    Raises:
        InvalidArgument: it is in no pool, or in one that is disabled.
        AlreadyExists: it is held; the message says by which attachment.
        FailedPrecondition: it is reserved, or in a block that gives nothing to this node.
        Exhausted: it cools down, or the node may have no more blocks.
        Wait: its block is being written.
    """
    pool = step.view.pool_of(address)
    if pool is None:
        raise InvalidArgument(f"address {address} is in no pool; pools are {_pools(step)}")
    if not pools.serves(pool):
        raise InvalidArgument(f"address {address} is in pool {pool.name} ({pool.cidr}), which is "
                              f"{'being deleted' if pool.deleting else 'disabled'}; enable it or ask for another")
    if name := reservations.of(step.view.index.reserved.record, address):
        raise FailedPrecondition(f"address {address} is reserved by {name}; delete the reservation or ask for another")
    cidr = pools.block_of(pool, address)
    if step.busy(cidr):
        raise Wait
    block = step.block(cidr)
    if block is None:
        if step.view.block(cidr).revision:
            raise FailedPrecondition(f"address {address}: the record of its block {cidr} is damaged; "
                                     "see muslin ipam check")
        block = sources.claim(step, request.handle.node, cidr, pool)
    ordinal = blocks.ordinal_of(block, address)
    assert ordinal is not None, "the block was found by the address"
    if holder := block.held.get(ordinal):
        raise AlreadyExists(f"address {address} is taken: {holder.handle} holds it{_kept(step, holder.handle)}")
    _may_give(step, request, address, block)
    _is_cool(step, request, address, block, ordinal)
    return block, ordinal, pool


def _may_give(step: Step, request: Request, address: str, block: Block) -> None:
    if block.leaving:
        raise FailedPrecondition(f"address {address} is in block {block.cidr} of node {block.node}, which is being "
                                 "given up")
    if block.node != request.handle.node and step.view.settings().strict_affinity:
        raise FailedPrecondition(f"address {address} is in block {block.cidr} of "
                                 f"{f'node {block.node}' if block.node else 'no node'}, and affinity is strict: "
                                 f"node {request.handle.node} assigns from its own blocks only")
    sources.by_the_settings(step)


def _is_cool(step: Step, request: Request, address: str, block: Block, ordinal: int) -> None:
    """The cool-down protects against others who still talk to the address' last pod; that pod itself may return."""
    freed, handle = block.cooling.get(ordinal), request.handle
    if freed is None or freed.handle == handle.identity or (
            handle.pod and freed.pod == f"{handle.namespace}/{handle.pod}"):
        return
    if seconds := step.view.index.cools_until(block, ordinal):
        raise Exhausted(f"address {address} was freed by {freed.handle} and cools down: it is given again in "
                        f"{seconds:.0f} s")


def _kept(step: Step, identity: str) -> str:
    handle = step.view.handle(identity).value
    return f", kept for the return of pod {handle.namespace}/{handle.pod}" if handle and handle.kept_until_ms else ""


def _pools(step: Step) -> str:
    return ", ".join(f"{pool.name} ({pool.cidr})" for pool in step.view.pools()) or "not made yet"
