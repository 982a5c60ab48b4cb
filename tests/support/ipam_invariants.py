"""Checks the address manager's records as they lie in etcd, by reading their JSON and nothing else of the service.

It says what must hold whatever happened: no address with two owners, none held by nobody, none leaked.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from muslin.etcd import Etcd, keys

Records = Mapping[str, bytes]


async def read(etcd: Etcd) -> dict[str, bytes]:
    """All records of the address manager, at one revision."""
    return {item.key: item.value for item in (await etcd.range(keys.IPAM)).items}


async def check(etcd: Etcd, live: Mapping[str, str | Collection[str]] | None = None) -> None:
    """Raise AssertionError with every violation; `live` are the addresses, by attachment, that must be held.

    What is kept for a pod's return is held by nobody who lives.
    """
    records = await read(etcd)
    found = list(violations(records))
    if live is not None:
        wanted = {identity: {held} if isinstance(held, str) else set(held) for identity, held in live.items()}
        held: dict[str, set[str]] = {}
        for address, identity in owners(records).items():
            if identity not in kept(records):
                held.setdefault(identity, set()).add(address)
        found += [f"{identity} should hold {wanted.get(identity, set())}, and holds {held.get(identity, set())}"
                  for identity in wanted | held if wanted.get(identity) != held.get(identity)]
    assert not found, "\n".join(found)


def kept(records: Records) -> set[str]:
    """Identities of the handles whose attachment is gone and whose addresses wait for its pod."""
    return {identity for identity, handle in _under(records, keys.IPAM_HANDLES).items() if handle.get("kept_until_ms")}


def cooling(records: Records) -> dict[str, Mapping[str, Any]]:
    """What is known of the last assignment of freed addresses, by address."""
    return {str(ipaddress.ip_network(block["cidr"]).network_address + int(ordinal)): freed
            for block in _under(records, keys.IPAM_BLOCKS).values()
            for ordinal, freed in block.get("cooling", {}).items()}


def excesses(records: Records, most: int, strict: bool) -> Iterator[str]:
    """Where the settings, if they were the same all the time, are not kept to: `most` blocks a node, no borrowing."""
    blocks, handles = _under(records, keys.IPAM_BLOCKS), _under(records, keys.IPAM_HANDLES)
    for node, count in Counter(block["node"] for block in blocks.values() if block["node"]).items():
        if count > most:
            yield f"node {node} has {count} blocks, at most {most} are allowed"
    for block in blocks.values():
        for address, slot in _held(block):
            node = handles[slot["handle"]]["node"]
            if strict and block["node"] not in ("", node):
                yield f"{address} of a block of {block['node']} is held by {slot['handle']} on {node}"


def _under(records: Records, prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): json.loads(value) for key, value in records.items() if key.startswith(prefix)}


def owners(records: Records) -> dict[str, str]:
    """Attachment by address, as the blocks have it."""
    return {address: held["handle"] for block in _under(records, keys.IPAM_BLOCKS).values()
            for address, held in _held(block)}


def _held(block: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    first = ipaddress.ip_network(block["cidr"]).network_address
    for ordinal, held in block.get("held", {}).items():
        yield str(first + int(ordinal)), held


def violations(records: Records) -> Iterator[str]:
    """What is wrong, a sentence each."""
    blocks, handles = _under(records, keys.IPAM_BLOCKS), _under(records, keys.IPAM_HANDLES)
    for part, block in blocks.items():
        if part.replace("-", "/") != block["cidr"]:
            yield f"block {part} says it is {block['cidr']}"
        yield from _ill_formed(block)
    yield from _disagreements(blocks, handles)
    yield from _affinities(blocks, set(_under(records, keys.IPAM_AFFINITIES)))
    yield from _outside(blocks, _under(records, keys.IPAM_POOLS))


def _ill_formed(block: Mapping[str, Any]) -> Iterator[str]:
    name, size = block["cidr"], ipaddress.ip_network(block["cidr"]).num_addresses
    held, released = [int(ordinal) for ordinal in block.get("held", {})], block.get("released", [])
    fresh = range(block.get("fresh", 0), size)
    if sorted([*held, *released, *fresh]) != list(range(size)):
        yield f"block {name}: held, released and fresh do not make up its {size} ordinals once each"
    if hot := {int(ordinal) for ordinal in block.get("cooling", {})} - set(released):
        yield f"block {name}: ordinals {sorted(hot)} cool down, and are not free"
    if used := {freed["sequence"] for freed in block.get("cooling", {}).values()} & {
            slot["sequence"] for slot in block.get("held", {}).values()}:
        yield f"block {name}: assignments {sorted(used)} have ended, and are held"
    sequences = [slot["sequence"] for slot in block.get("held", {}).values()]
    if len(set(sequences)) != len(sequences) or any(not 0 < s <= block.get("sequence", 0) for s in sequences):
        yield f"block {name}: sequence numbers {sequences} up to {block['sequence']}"


def _disagreements(blocks: Mapping[str, Any], handles: Mapping[str, Any]) -> Iterator[str]:
    slots = [(address, slot["handle"], block["cidr"], slot["sequence"])
             for block in blocks.values() for address, slot in _held(block)]
    claims = [(held["address"], identity, held["block"], held["sequence"])
              for identity, handle in handles.items() for held in handle.get("addresses", ())]
    for address, count in Counter(slot[0] for slot in slots).items():
        if count > 1:
            yield f"{address} is held {count} times"
    for (identity, six), count in Counter((slot[1], ":" in slot[0]) for slot in slots).items():
        if count > 1:
            yield f"{identity} holds {count} addresses of IPv{6 if six else 4}"
    for slot in set(slots) - set(claims):
        yield f"{slot} is held, and no handle says so"
    for claim in set(claims) - set(slots):
        yield f"{claim} is in a handle, and no block says so"
    for identity, handle in handles.items():
        if not handle.get("addresses"):
            yield f"handle {identity} has no address"
        if identity != f"{handle['network']}/{handle['container_id']}/{handle['ifname']}":
            yield f"handle {identity} describes another attachment"


def _affinities(blocks: Mapping[str, Any], present: set[str]) -> Iterator[str]:
    expected = {f"{block['node']}/{part}" for part, block in blocks.items() if block["node"]}
    for affinity in expected - present:
        yield f"the block of {affinity} has no affinity record"
    for affinity in present - expected:
        yield f"affinity {affinity} is of no block"


def _outside(blocks: Mapping[str, Any], pools: Mapping[str, Any]) -> Iterator[str]:
    networks = {name: ipaddress.ip_network(pool["cidr"]) for name, pool in pools.items()}
    for block in blocks.values():
        pool = networks.get(block["pool"])
        if pool is None or not pool.supernet_of(ipaddress.ip_network(block["cidr"])):  # type: ignore[arg-type]
            yield f"block {block['cidr']} is outside its pool {block['pool']}"
    ranges = sorted((ipaddress.ip_network(block["cidr"]) for block in blocks.values()),
                    key=lambda network: (network.version, network))
    for one, other in itertools.pairwise(ranges):
        if one.version == other.version and one.overlaps(other):
            yield f"blocks {one} and {other} overlap"
