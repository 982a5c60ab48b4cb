"""Pools: ranges of addresses, cut into blocks of one size."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator

import msgspec

from muslin.errors import InvalidArgument
from muslin.selectors import parse
from services.ipam import ranges

DEFAULT_BLOCK_SIZE = {4: 26, 6: 122}
"""Prefix length of blocks by family, if nobody says otherwise: 64 addresses."""
BLOCK_SIZES = {4: (20, 32), 6: (116, 128)}
"""The shortest and the longest prefix that blocks may have, by family."""
COOL_DOWN, LONGEST_COOL_DOWN = 30, 1200
"""Seconds: if nobody says otherwise, and at most."""
ENCAPSULATIONS = ("", "none", "vxlan", "cross-subnet")
"""How packets may get from node to node; empty leaves it to each node."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?")  # a DNS label, RFC 1123, 2.1


class Pool(msgspec.Struct, frozen=True):
    """A pool as it is stored."""

    name: str
    cidr: str
    block_size: int = DEFAULT_BLOCK_SIZE[4]
    """Prefix length of its blocks."""
    disabled: bool = False
    """Serves no new address; what it gave stays valid."""
    deleting: bool = False
    """Is being deleted: serves no new address, and its empty blocks are going."""
    node_selector: str = ""
    """Of the nodes that it serves; empty for all."""
    namespace_selector: str = ""
    """Of the namespaces that it serves; empty for all."""
    cool_down: int = COOL_DOWN
    """Seconds for which a freed address is not given again."""
    encapsulation: str = ""
    """One of ENCAPSULATIONS."""
    masquerade: bool = True
    """What its pods send beyond all pools has the node's address as source."""


def make(name: str, cidr: str, block_size: int = 0, *, disabled: bool = False, node_selector: str = "",
         namespace_selector: str = "", cool_down: int = COOL_DOWN, encapsulation: str = "",
         masquerade: bool = True) -> Pool:
    """A pool from what a user wrote; a block size of 0 means the default.

    Raises:
        InvalidArgument: naming the field and what it may be.
    """
    check_name("pool", name)
    network = _network(cidr)
    shortest, longest = BLOCK_SIZES[network.version]
    default = DEFAULT_BLOCK_SIZE[network.version]
    length = block_size or max(default, network.prefixlen)
    if not shortest <= length <= longest:
        raise InvalidArgument(f"pool.block_size {block_size} must be {shortest} to {longest} for IPv{network.version}, "
                              f"or 0 for {default}")
    if length < network.prefixlen:
        raise InvalidArgument(f"pool.block_size {length} makes blocks larger than the pool {cidr}: "
                              f"use {network.prefixlen} to {longest}")
    return check(Pool(name, str(network), length, disabled, False, node_selector, namespace_selector, cool_down,
                      encapsulation, masquerade))


def check_name(what: str, name: str) -> None:
    """Raise InvalidArgument if a name is not a DNS label."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{what}.name {name!r} must be a DNS label: up to 63 of a-z, 0-9 and '-', "
                              "beginning and ending with a letter or digit")


def check(pool: Pool) -> Pool:
    """Raise InvalidArgument if what may change of a pool is not what it may be."""
    for field in ("node_selector", "namespace_selector"):
        if text := getattr(pool, field):
            try:
                parse(text)
            except InvalidArgument as problem:
                raise InvalidArgument(f"pool.{field} {text!r}: {problem.message}") from None
    if not 0 <= pool.cool_down <= LONGEST_COOL_DOWN:
        raise InvalidArgument(f"pool.cool_down_seconds {pool.cool_down} must be 0 to {LONGEST_COOL_DOWN}")
    if pool.encapsulation not in ENCAPSULATIONS:
        raise InvalidArgument(f"pool.encapsulation {pool.encapsulation!r} must be none, vxlan or cross-subnet, or "
                              "empty for what each node is set to")
    return pool


def _network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as problem:
        raise InvalidArgument(f"pool.cidr: {problem}; write it as 192.168.0.0/16 or fd00:10::/64") from None
    if "/" not in cidr:
        raise InvalidArgument(f"pool.cidr {cidr!r} has no prefix length; write {network}")
    if network.prefixlen == 0 or any(network.overlaps(special) for special in _UNUSABLE
                                     if special.version == network.version):
        raise InvalidArgument(f"pool.cidr {cidr} holds addresses that no pod can have (unspecified, loopback, "
                              "link-local, multicast, IPv4-mapped or reserved)")
    return network


_UNUSABLE = tuple(ipaddress.ip_network(cidr) for cidr in (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
    "::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"))
"""RFC 6890 ranges that are no source or destination of a pod; 169.254.1.1 is every pod's gateway."""


def overlap(pool: Pool, others: Iterable[Pool]) -> Pool | None:
    """One of the others that shares addresses with a pool."""
    return next((other for other in others
                 if ranges.holds(pool.cidr, other.cidr) or ranges.holds(other.cidr, pool.cidr)), None)


def family(pool: Pool) -> int:
    """4 or 6."""
    return ranges.span(pool.cidr).family


def size(pool: Pool) -> int:
    """Count of its addresses."""
    return ranges.span(pool.cidr).size


def block_addresses(pool: Pool) -> int:
    """Count of addresses of each of its blocks."""
    return 1 << (ranges.bits(family(pool)) - pool.block_size)


def block_count(pool: Pool) -> int:
    """Count of blocks it is cut into."""
    return size(pool) // block_addresses(pool)


def block_at(pool: Pool, first: int) -> str:
    """CIDR of the block whose first address has a number."""
    return f"{ranges.text(first, family(pool))}/{pool.block_size}"


def block_of(pool: Pool, address: str) -> str:
    """CIDR of the block that an address of the pool is in."""
    number, _ = ranges.number(address)
    return block_at(pool, number - number % block_addresses(pool))


def serves(pool: Pool) -> bool:
    """Whether it gives new addresses."""
    return not pool.disabled and not pool.deleting


def holds(pool: Pool, cidr: str) -> bool:
    """Whether a range lies within a pool."""
    return ranges.holds(pool.cidr, cidr)


def walk(pool: Pool, node: str) -> Iterator[int]:
    """The number of every block's first address once, in an order of the node's own, the same each time.

    Nodes that look for a block at the same moment would fight for the same one if they looked in the same order. The
    start and the stride come from a hash; the count of blocks is a power of two, so an odd stride reaches all.
    """
    count, step, base = block_count(pool), block_addresses(pool), ranges.span(pool.cidr).first
    seed = hashlib.sha256(f"{node}\n{pool.cidr}".encode()).digest()
    start, stride = int.from_bytes(seed[:16]), int.from_bytes(seed[16:]) | 1
    turn = 0
    while turn < count:  # range() would do, were it not for pools of 2**64 blocks
        yield base + (start + turn * stride) % count * step
        turn += 1
