"""Records as the API shows them."""

from __future__ import annotations

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from services.ipam import blocks, pools
from services.ipam.blocks import Block
from services.ipam.handles import Handle
from services.ipam.pools import Pool


def pool(pool: Pool, used: int) -> ipam_pb2.Pool:
    """A pool and its use."""
    return ipam_pb2.Pool(name=pool.name, cidr=pool.cidr, block_size=pool.block_size,
                         disabled=pool.disabled or pool.deleting, used=used, size=pools.size(pool))


def block(block: Block) -> ipam_pb2.Block:
    """A block."""
    return ipam_pb2.Block(cidr=block.cidr, pool=block.pool, node=block.node, used=blocks.used(block),
                          size=blocks.size(block))


def handle(handle: Handle) -> ipam_pb2.Handle:
    """A handle."""
    attachment = cni_pb2.Attachment(network=handle.network, container_id=handle.container_id, ifname=handle.ifname)
    return ipam_pb2.Handle(attachment=attachment, addresses=[a.address for a in handle.addresses], node=handle.node,
                           namespace=handle.namespace, pod=handle.pod)
