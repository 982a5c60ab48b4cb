"""Changing what holds for all pools: reservations and settings. Safe against others who do the same or assign."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence

from muslin.errors import Conflict, Corrupt
from muslin.etcd import Etcd, Put, keys, unchanged
from services.ipam import blocks, ranges, reservations, store
from services.ipam.blocks import Block
from services.ipam.config import MAX_BLOCKS, Config
from services.ipam.reservations import Reservations

log = logging.getLogger(__name__)

_ATTEMPTS = 16


async def reservation_list(etcd: Etcd) -> Reservations:
    """All reservations. Raises Corrupt if they do not decode."""
    record = await etcd.get(keys.IPAM_RESERVATIONS)
    return store.decode(Reservations, record.key, record.value) if record else Reservations()


async def reserve(etcd: Etcd, name: str, cidrs: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Store a reservation: its ranges as stored, and the addresses of them that are held; they stay.

    Assignments depend on the record, so none that has not been counted as held can succeed any more.

    Raises:
        InvalidArgument, AlreadyExists: see `reservations.add`.
    """
    parsed = reservations.parse(cidrs)
    await _rewrite(etcd, lambda present: reservations.add(present, name, parsed))
    log.info("reservation %s made: %s", name, ", ".join(parsed))
    return parsed, await _held(etcd, parsed)


async def unreserve(etcd: Etcd, name: str) -> None:
    """Remove a reservation. Raises NotFound if there is none of this name."""
    await _rewrite(etcd, lambda present: reservations.remove(present, name))
    log.info("reservation %s deleted", name)


async def _rewrite(etcd: Etcd, change: Callable[[Reservations], Reservations]) -> None:
    key = keys.IPAM_RESERVATIONS
    for _ in range(_ATTEMPTS):
        record = await etcd.get(key)
        after = change(store.decode(Reservations, key, record.value) if record else Reservations())
        if (await etcd.txn([unchanged(key, record.mod_revision if record else 0)],
                           [Put(key, store.encode(after))])).succeeded:
            return
    raise Conflict("reservations: others change them at the same time; try again")


async def _held(etcd: Etcd, cidrs: Sequence[str]) -> list[str]:
    found = []
    for record in (await etcd.range(keys.IPAM_BLOCKS)).items:
        try:
            cidr = keys.parse_block(record.key)
            if not any(ranges.holds(cidr, wanted) or ranges.holds(wanted, cidr) for wanted in cidrs):
                continue
            block = store.decode(Block, record.key, record.value)
        except (Corrupt, ValueError):
            continue  # what it holds is not known
        found += [address for ordinal in block.held
                  if any(ranges.within(wanted, address := blocks.address(block, ordinal)) for wanted in cidrs)]
    return sorted(found, key=lambda address: ipaddress.ip_address(address).packed)


async def config(etcd: Etcd) -> Config:
    """The settings. Raises Corrupt if they do not decode."""
    record = await etcd.get(keys.IPAM_CONFIG)
    return store.decode(Config, record.key, record.value) if record else Config()


async def configure(etcd: Etcd, wanted: Config) -> Config:
    """Store the settings; a maximum of 0 blocks means the default. Blocks that a node has already stay."""
    if not wanted.max_blocks_per_node:
        wanted = Config(wanted.strict_affinity, MAX_BLOCKS, wanted.no_automatic_blocks)
    await etcd.put(keys.IPAM_CONFIG, store.encode(wanted))
    log.info("configured %s", wanted)
    return wanted
