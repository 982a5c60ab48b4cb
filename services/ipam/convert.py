"""Records as the API shows them."""

from __future__ import annotations

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from services.ipam import blocks, pools
from services.ipam.blocks import Block
from services.ipam.config import Config
from services.ipam.handles import Handle
from services.ipam.pools import Pool
from services.ipam.view import View

_LARGEST = (1 << 64) - 1

_AFFINITIES = {
    "confirmed": ipam_pb2.Block.AFFINITY_CONFIRMED,
    "pendingDeletion": ipam_pb2.Block.AFFINITY_PENDING_DELETION,
    "none": ipam_pb2.Block.AFFINITY_NONE,
}


def pool_message(view: View, pool: Pool) -> ipam_pb2.Pool:
    """A pool and its use."""
    tally = view.tally(pool.name)
    cooling = sum(len(view.index.cools(block)) for cidr in tally.waiting if (block := view.block(cidr).value))
    return ipam_pb2.Pool(
        name=pool.name, cidr=pool.cidr, block_size=pool.block_size, disabled=pool.disabled or pool.deleting,
        used=tally.used, size=min(pools.size(pool), _LARGEST), node_selector=pool.node_selector,
        namespace_selector=pool.namespace_selector, cool_down_seconds=pool.cool_down, cooling=cooling,
        reserved=min(view.index.reserved.count(pool.cidr), _LARGEST), blocks=len(tally.claimed),
        encapsulation=pool.encapsulation, masquerade=pool.masquerade)


def block_message(view: View, block: Block, *, slots: bool) -> ipam_pb2.Block:
    """A block and, if asked for, its slots."""
    foreign = 0
    for holder in block.held.values():
        handle = view.handle(holder.handle).value
        foreign += handle is not None and handle.node != block.node
    message = ipam_pb2.Block(
        cidr=block.cidr, pool=block.pool, node=block.node, used=blocks.used(block), size=blocks.size(block),
        affinity=_AFFINITIES[block.affinity], cooling=len(view.index.cools(block)), borrowed=foreign)
    if slots:
        message.slots.extend(slot for ordinal in range(blocks.size(block))
                             if (slot := slot_message(view, block, ordinal)))
    return message


def slot_message(view: View, block: Block, ordinal: int) -> ipam_pb2.Slot | None:
    """An address that is held or cools down; None if it is neither."""
    address = blocks.address(block, ordinal)
    if holder := block.held.get(ordinal):
        return ipam_pb2.Slot(address=address, handle=holder.handle, sequence=holder.sequence)
    if (freed := block.cooling.get(ordinal)) and view.index.cools_until(block, ordinal):
        return ipam_pb2.Slot(address=address, handle=freed.handle, sequence=freed.sequence,
                             released_ms=freed.released_ms)
    return None


def handle_message(handle: Handle) -> ipam_pb2.Handle:
    """A handle."""
    return ipam_pb2.Handle(
        attachment=cni_pb2.Attachment(network=handle.network, container_id=handle.container_id, ifname=handle.ifname),
        addresses=[a.address for a in handle.addresses], node=handle.node, namespace=handle.namespace, pod=handle.pod,
        created_ms=handle.created_ms, kept_until_ms=handle.kept_until_ms,
        held=[ipam_pb2.Held(address=a.address, block=a.block, sequence=a.sequence) for a in handle.addresses])


def config_message(config: Config) -> ipam_pb2.Config:
    """The settings."""
    return ipam_pb2.Config(strict_affinity=config.strict_affinity, max_blocks_per_node=config.max_blocks_per_node,
                           no_automatic_blocks=config.no_automatic_blocks)
