"""Pools: ranges of addresses, cut into blocks of one size."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator

import msgspec

from muslin.errors import InvalidArgument

DEFAULT_BLOCK_SIZE = 26
SMALLEST_PREFIX, LARGEST_PREFIX = 20, 32
"""Prefix lengths a block may have."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?")  # a DNS label, RFC 1123, 2.1


class Pool(msgspec.Struct, frozen=True):
    """A pool as it is stored."""

    name: str
    cidr: str
    block_size: int = DEFAULT_BLOCK_SIZE
    """Prefix length of its blocks."""
    disabled: bool = False
    """Serves no new address; what it gave stays valid."""
    deleting: bool = False
    """Is being deleted: serves no new address, and its empty blocks are going."""


def make(name: str, cidr: str, block_size: int = 0, *, disabled: bool = False) -> Pool:
    """A pool from what a user wrote; a block size of 0 means the default.

    Raises:
        InvalidArgument: naming the field and what it may be.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"pool.name {name!r} must be a DNS label: up to 63 of a-z, 0-9 and '-', "
                              "beginning and ending with a letter or digit")
    network = _network(cidr)
    length = block_size or max(DEFAULT_BLOCK_SIZE, network.prefixlen)
    if not SMALLEST_PREFIX <= length <= LARGEST_PREFIX:
        raise InvalidArgument(f"pool.block_size {block_size} must be {SMALLEST_PREFIX} to {LARGEST_PREFIX}, "
                              f"or 0 for {DEFAULT_BLOCK_SIZE}")
    if length < network.prefixlen:
        raise InvalidArgument(f"pool.block_size {length} makes blocks larger than the pool {cidr}: "
                              f"use {network.prefixlen} to {LARGEST_PREFIX}")
    return Pool(name, str(network), length, disabled)


def _network(cidr: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as problem:
        raise InvalidArgument(f"pool.cidr: {problem}; write it as 192.168.0.0/16") from None
    if not isinstance(network, ipaddress.IPv4Network):
        raise InvalidArgument(f"pool.cidr {cidr}: pools of IPv6 addresses are not supported; use an IPv4 range")
    if "/" not in cidr:
        raise InvalidArgument(f"pool.cidr {cidr!r} has no prefix length; write {network}")
    if network.prefixlen == 0 or any(network.overlaps(special) for special in _UNUSABLE):
        raise InvalidArgument(f"pool.cidr {cidr} holds addresses that no pod can have (this network, loopback, "
                              "link-local, multicast or reserved)")
    return network


_UNUSABLE = tuple(ipaddress.IPv4Network(cidr) for cidr in
                  ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"))
"""RFC 6890 ranges that are no source or destination of a pod; 169.254.1.1 is every pod's gateway."""


def overlap(pool: Pool, others: Iterable[Pool]) -> Pool | None:
    """One of the others that shares addresses with a pool."""
    network = ipaddress.ip_network(pool.cidr)
    return next((other for other in others if network.overlaps(ipaddress.ip_network(other.cidr))), None)


def size(pool: Pool) -> int:
    """Count of its addresses."""
    return ipaddress.ip_network(pool.cidr).num_addresses


def block_count(pool: Pool) -> int:
    """Count of blocks it is cut into."""
    return 1 << (pool.block_size - ipaddress.ip_network(pool.cidr).prefixlen)


def block_at(pool: Pool, first: int) -> str:
    """CIDR of the block whose first address has a number."""
    return f"{ipaddress.ip_address(first)}/{pool.block_size}"


def holds(pool: Pool, cidr: str) -> bool:
    """Whether a range lies within a pool."""
    network, part = ipaddress.ip_network(pool.cidr), ipaddress.ip_network(cidr)
    return network.version == part.version and network.prefixlen <= part.prefixlen and network.overlaps(part)


def walk(pool: Pool, node: str) -> Iterator[int]:
    """The number of every block's first address once, in an order of the node's own, the same each time.

    Nodes that look for a block at the same moment would fight for the same one if they looked in the same order. The
    start and the stride come from a hash; the count of blocks is a power of two, so an odd stride reaches all.
    """
    network, count = ipaddress.ip_network(pool.cidr), block_count(pool)
    base, step = int(network.network_address), 1 << (network.max_prefixlen - pool.block_size)
    seed = hashlib.sha256(f"{node}\n{pool.cidr}".encode()).digest()
    start, stride = int.from_bytes(seed[:16]), int.from_bytes(seed[16:]) | 1
    for turn in range(count):
        yield base + (start + turn * stride) % count * step
