"""The records as they are: what decodes, and what does not. No I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from muslin.errors import Corrupt
from muslin.etcd import KeyValue, keys
from services.ipam import blocks, pools, ranges, store
from services.ipam.blocks import Block
from services.ipam.config import Config
from services.ipam.handles import Handle
from services.ipam.pools import Pool
from services.ipam.reservations import Reservations

OTHER = (keys.IPAM_POOL_GENERATION, keys.IPAM_BARRIER, keys.IPAM_CLUSTER)
"""Keys whose values are not looked at."""


@dataclass
class Inspection:
    """All records of the address manager at one revision."""

    revision: int
    records: dict[str, KeyValue] = field(default_factory=dict)
    """By key, whatever they are."""
    pools: dict[str, Pool] = field(default_factory=dict)
    """By name."""
    blocks: dict[str, Block] = field(default_factory=dict)
    """By CIDR: those that can be used."""
    invalid: dict[str, str] = field(default_factory=dict)
    """By CIDR, what is wrong with the other blocks that decode."""
    unreadable_blocks: set[str] = field(default_factory=set)
    """CIDRs of blocks that do not decode."""
    handles: dict[str, Handle] = field(default_factory=dict)
    """By identity."""
    unreadable_handles: set[str] = field(default_factory=set)
    """Identities of handles that do not decode."""
    affinities: set[tuple[str, str]] = field(default_factory=set)
    """Node and CIDR."""
    undecodable: dict[str, str] = field(default_factory=dict)
    """By key, why it does not decode."""

    @property
    def damaged(self) -> set[str]:
        """CIDRs of all blocks that can not be used."""
        return self.unreadable_blocks | self.invalid.keys()

    def pool_of(self, address: str) -> Pool | None:
        """The pool that an address is in."""
        return next((pool for pool in self.pools.values() if ranges.within(pool.cidr, address)), None)

    def revision_of(self, key: str) -> int:
        """Of a record; 0 if there is none."""
        record = self.records.get(key)
        return record.mod_revision if record else 0


def inspect(items: Iterable[KeyValue], revision: int) -> Inspection:
    """Decode all that does."""
    found = Inspection(revision, {item.key: item for item in items})
    for key, item in found.records.items():
        try:
            _take(found, key, item)
        except Corrupt as problem:
            found.undecodable[key] = problem.message
    for cidr, block in list(found.blocks.items()):
        if wrong := "; ".join(_wrong(found, block)):
            found.invalid[cidr] = wrong
    _overlaps(found)
    for cidr in found.invalid:
        found.blocks.pop(cidr, None)
    return found


def _take(found: Inspection, key: str, item: KeyValue) -> None:
    for prefix, take in _KINDS.items():
        if key.startswith(prefix):
            take(found, key, item)
            return
    if key not in OTHER:
        raise Corrupt(f"record {key} is of no kind that is known: nothing of ours wrote it")


def _take_pool(found: Inspection, key: str, item: KeyValue) -> None:
    found.pools[keys.parse_pool(key)] = store.decode(Pool, key, item.value)


def _take_block(found: Inspection, key: str, item: KeyValue) -> None:
    cidr = _network(key, keys.parse_block(key))
    found.unreadable_blocks.add(cidr)
    found.blocks[cidr] = store.decode(Block, key, item.value)
    found.unreadable_blocks.discard(cidr)


def _take_handle(found: Inspection, key: str, item: KeyValue) -> None:
    identity = "/".join(keys.parse_handle(key))
    found.unreadable_handles.add(identity)
    found.handles[identity] = store.decode(Handle, key, item.value)
    found.unreadable_handles.discard(identity)


def _take_affinity(found: Inspection, key: str, item: KeyValue) -> None:
    node, cidr = keys.parse_affinity(key)
    _network(key, cidr)
    store.decode(store.Affinity, key, item.value)
    found.affinities.add((node, cidr))


_KINDS: dict[str, Callable[[Inspection, str, KeyValue], None]] = {
    keys.IPAM_POOLS: _take_pool,
    keys.IPAM_BLOCKS: _take_block,
    keys.IPAM_HANDLES: _take_handle,
    keys.IPAM_AFFINITIES: _take_affinity,
    keys.IPAM_RESERVATIONS: lambda _, key, item: _ignore(store.decode(Reservations, key, item.value)),
    keys.IPAM_CONFIG: lambda _, key, item: _ignore(store.decode(Config, key, item.value)),
    keys.IPAM_NODES: lambda *_: None,
    keys.IPAM_QUARANTINE: lambda *_: None,
}


def _ignore(_: object) -> None:
    """That it decodes is all that is asked."""


def _network(key: str, cidr: str) -> str:
    try:
        ipaddress.ip_network(cidr)
    except ValueError as problem:
        raise Corrupt(f"etcd key {key!r}: {problem}") from None
    return cidr


def _wrong(found: Inspection, block: Block) -> Iterable[str]:
    yield from blocks.problems(block)
    pool = found.pools.get(block.pool)
    if pool is None:
        yield f"its pool {block.pool} is not there"
    elif not pools.holds(pool, block.cidr) or not block.cidr.endswith(f"/{pool.block_size}"):
        yield f"it is no block of /{pool.block_size} of its pool {pool.name} ({pool.cidr})"


def _overlaps(found: Inspection) -> None:
    ranges = sorted((ipaddress.ip_network(cidr) for cidr in found.blocks),
                    key=lambda network: (network.version, int(network.network_address), network.prefixlen))
    reach = None
    for network in ranges:
        if reach is not None and reach.version == network.version and reach.overlaps(network):
            found.invalid.setdefault(str(network), f"it overlaps block {reach}")
        else:
            reach = network


def valid_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

