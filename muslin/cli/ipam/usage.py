"""How many addresses of pools, blocks and nodes are used, cooling, reserved, borrowed and free: sums, without I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muslin.api.ipam.v1 import ipam_pb2

__all__ = ["BlockUse", "NodeUse", "PoolUse", "Ranges", "Usage", "of_blocks", "of_nodes", "of_pools", "size"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of addresses. `reserved` may be held too, as a reservation leaves what is held: see `free`."""

    size: int = 0
    used: int = 0
    cooling: int = 0
    reserved: int = 0
    borrowed: int = 0
    """Held by attachments of another node than the block's."""
    taken: int = 0
    """Reserved, and used or cooling all the same."""

    @property
    def free(self) -> int:
        """What could be assigned."""
        return max(0, self.size - self.used - self.cooling - self.reserved + self.taken)

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """Used, cooling, reserved only, free: they add up to the size."""
        return self.used, self.cooling, self.reserved - self.taken, self.free

    @property
    def percent(self) -> float:
        """Used, of 100; 0 of nothing."""
        return 100 * self.used / self.size if self.size else 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.size + other.size, self.used + other.used, self.cooling + other.cooling,
                     self.reserved + other.reserved, self.borrowed + other.borrowed, self.taken + other.taken)


@dataclass(frozen=True, slots=True)
class BlockUse:
    """A block and its use."""

    block: ipam_pb2.Block
    usage: Usage


@dataclass(frozen=True, slots=True)
class PoolUse:
    """A pool and its use."""

    pool: ipam_pb2.Pool
    usage: Usage


@dataclass(frozen=True, slots=True)
class NodeUse:
    """The blocks that have a node's affinity, together. `node` is empty for those of no node."""

    node: str
    blocks: int
    usage: Usage


class Ranges:
    """Ranges of addresses of both families, overlaps counted once."""

    def __init__(self, reservations: Iterable[ipam_pb2.Reservation]) -> None:
        """The ranges of reservations."""
        networks = [ipaddress.ip_network(cidr) for item in reservations for cidr in item.cidrs]
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = [
            *ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network)),
            *ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network))]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def count(self, cidr: str) -> int:
        """How many addresses of a range are in these."""
        network = ipaddress.ip_network(cidr)
        return sum(min(network.num_addresses, other.num_addresses) for other in self._networks
                   if other.version == network.version and other.overlaps(network))

    def __contains__(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._networks)


def of_blocks(blocks: Iterable[ipam_pb2.Block], reserved: Ranges) -> list[BlockUse]:
    """The use of each block. Slots are needed only if there are reservations."""
    found = []
    for block in blocks:
        inside = reserved.count(block.cidr)
        taken = sum(slot.address in reserved for slot in block.slots) if inside else 0
        found.append(BlockUse(block, Usage(block.size, block.used, block.cooling, inside, block.borrowed, taken)))
    return found


def of_pools(pools: Iterable[ipam_pb2.Pool], blocks: Sequence[BlockUse]) -> list[PoolUse]:
    """The use of each pool: its own counts, and of its blocks what it does not say itself."""
    found = []
    for pool in pools:
        own = [use.usage for use in blocks if use.block.pool == pool.name]
        found.append(PoolUse(pool, Usage(size(pool), pool.used, pool.cooling, pool.reserved,
                                         sum(usage.borrowed for usage in own), sum(usage.taken for usage in own))))
    return found


def of_nodes(blocks: Iterable[BlockUse]) -> list[NodeUse]:
    """The use of each node's blocks, sorted by node; those of no node last."""
    found: dict[str, NodeUse] = {}
    for use in blocks:
        node = use.block.node if use.block.affinity != ipam_pb2.Block.AFFINITY_NONE else ""
        known = found.get(node, NodeUse(node, 0, Usage()))
        found[node] = NodeUse(node, known.blocks + 1, known.usage + use.usage)
    return sorted(found.values(), key=lambda use: (not use.node, use.node))


def size(pool: ipam_pb2.Pool) -> int:
    """Count of a pool's addresses, which the message can not hold for a large IPv6 pool."""
    return ipaddress.ip_network(pool.cidr).num_addresses
