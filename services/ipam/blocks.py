"""A block: a piece of a pool, and who holds which of its addresses.

A block is a value. Assigning and releasing return the block as it will be; making that durable is the business of
whoever writes it, by compare-and-swap on the revision the old value was read at.

Addresses are counted from the start of the block: address = first address + ordinal. All of them are handed out, the
first and the last too: pods have /32 routes, so no address of a block is a network or a broadcast address.

Free ordinals form a queue, so that an address is given again as late as possible. It is kept in two parts: the
ordinals from `fresh` up were never used and come first, in order; `released` follows, the longest free one first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache

import msgspec


class Held(msgspec.Struct, frozen=True):
    """One assigned address."""

    handle: str
    """Identity of the handle that holds it."""
    sequence: int
    """The block's sequence number when it was assigned: tells this assignment from an earlier one to the same
    holder."""


class Block(msgspec.Struct, frozen=True):
    """A block of addresses. `held` is never changed in place."""

    cidr: str
    pool: str
    """Name of the pool it was cut from."""
    node: str
    """The node that has its affinity, and assigns from it first."""
    sequence: int = 0
    """Counts the changes."""
    fresh: int = 0
    """The first ordinal that was never used."""
    held: dict[int, Held] = {}
    """Holder by ordinal."""
    released: tuple[int, ...] = ()
    """Ordinals that were used and are free, in the order in which they are given again."""


@lru_cache(maxsize=65536)
def _span(cidr: str) -> tuple[int, int, int]:
    """Number of the first address, count of addresses, family."""
    network = ipaddress.ip_network(cidr)
    return int(network.network_address), network.num_addresses, network.version


def first(cidr: str) -> int:
    """Number of a range's first address."""
    return _span(cidr)[0]


def size(block: Block) -> int:
    """Count of its addresses."""
    return _span(block.cidr)[1]


def used(block: Block) -> int:
    """Count of addresses that are held."""
    return len(block.held)


def available(block: Block) -> int:
    """Count of addresses that are free."""
    return size(block) - len(block.held)


def free(block: Block) -> Iterator[int]:
    """The free ordinals in the order in which they will be assigned."""
    yield from range(block.fresh, size(block))
    yield from block.released


def address(block: Block, ordinal: int) -> str:
    """The address of an ordinal."""
    first, count, version = _span(block.cidr)
    if not 0 <= ordinal < count:
        raise IndexError(f"block {block.cidr} has no ordinal {ordinal}")
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return str(kind(first + ordinal))


def ordinal_of(block: Block, address: str) -> int | None:
    """The ordinal of an address, None if it is not of this block."""
    first, count, version = _span(block.cidr)
    parsed = ipaddress.ip_address(address)
    ordinal = int(parsed) - first
    return ordinal if parsed.version == version and 0 <= ordinal < count else None


def assign(block: Block, handle: str) -> tuple[Block, int] | None:
    """Give the address that has been free longest to a handle: the new block and the ordinal, None if it is full."""
    if block.fresh < size(block):
        ordinal, fresh, released = block.fresh, block.fresh + 1, block.released
    elif block.released:
        ordinal, fresh, released = block.released[0], block.fresh, block.released[1:]
    else:
        return None
    sequence = block.sequence + 1
    held = {**block.held, ordinal: Held(handle, sequence)}
    return msgspec.structs.replace(block, sequence=sequence, fresh=fresh, held=held, released=released), ordinal


def release(block: Block, ordinal: int, handle: str, sequence: int) -> Block | None:
    """Free an address if exactly this assignment still holds it; None, and nothing to change, if it does not."""
    if block.held.get(ordinal) != Held(handle, sequence):
        return None
    held = {other: holder for other, holder in block.held.items() if other != ordinal}
    return msgspec.structs.replace(
        block, sequence=block.sequence + 1, held=held, released=(*block.released, ordinal))


def held_by(block: Block, handle: str) -> Iterator[tuple[int, int]]:
    """Ordinal and sequence number of each address that a handle holds."""
    for ordinal, holder in block.held.items():
        if holder.handle == handle:
            yield ordinal, holder.sequence


def problems(block: Block) -> tuple[str, ...]:
    """What is wrong with a block, one sentence each; empty if it is well-formed."""
    try:
        count = size(block)
    except ValueError as problem:
        return (f"cidr: {problem}",)
    found = []
    if not 0 <= block.fresh <= count:
        found.append(f"fresh {block.fresh} is outside 0..{count}")
    once = set(block.released)
    if len(once) != len(block.released):
        found.append("an ordinal is released twice")
    if both := once & block.held.keys():
        found.append(f"ordinals {sorted(both)} are both held and free")
    if strange := {o for o in once | block.held.keys() if not 0 <= o < block.fresh}:
        found.append(f"ordinals {sorted(strange)} are in use, but outside 0..{block.fresh - 1}, which were ever given")
    if lost := set(range(min(block.fresh, count))) - once - block.held.keys():
        found.append(f"ordinals {sorted(lost)} are neither held nor free")
    sequences = [holder.sequence for holder in block.held.values()]
    if len(set(sequences)) != len(sequences):
        found.append("two assignments have the same sequence number")
    if any(not 0 < sequence <= block.sequence for sequence in sequences):
        found.append(f"an assignment's sequence number is outside 1..{block.sequence}")
    if any(not holder.handle for holder in block.held.values()):
        found.append("an address is held by nobody")
    return tuple(found)
