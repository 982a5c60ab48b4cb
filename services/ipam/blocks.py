"""A block: a piece of a pool, and who holds which of its addresses.

A block is a value. Assigning and releasing return the block as it will be; making that durable is the business of
whoever writes it, by compare-and-swap on the revision the old value was read at.

Addresses are counted from the start of the block: address = first address + ordinal. All of them are handed out, the
first and the last too: pods have /32 or /128 routes, so no address of a block is a network or a broadcast address.

Free ordinals form a queue, so that an address is given again as late as possible. It is kept in two parts: the
ordinals from `fresh` up were never used and come first, in order; `released` follows, the longest free one first.
Ordinals that were passed over, for a specific one or because they are reserved, are put before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from services.ipam import ranges


class Held(msgspec.Struct, frozen=True):
    """One assigned address."""

    handle: str
    """Identity of the handle that holds it."""
    sequence: int
    """The block's sequence number when it was assigned: tells this assignment from an earlier one to the same
    holder."""


class Cooling(msgspec.Struct, frozen=True, omit_defaults=True):
    """An assignment that ended: its address is not given to another for a while."""

    handle: str
    """Identity of the handle that held it."""
    sequence: int
    """Of the assignment."""
    released_ms: int
    """Unix milliseconds, by the clock of whoever freed it."""
    pod: str = ""
    """`namespace/name` of the holder's pod, which may have it back at once; empty outside Kubernetes."""


class Block(msgspec.Struct, frozen=True, omit_defaults=True):
    """A block of addresses. `held` and `cooling` are never changed in place."""

    cidr: str
    pool: str
    """Name of the pool it was cut from."""
    node: str
    """The node that has its affinity, and assigns from it first; empty if none has: it gives nothing new then."""
    sequence: int = 0
    """Counts the changes."""
    fresh: int = 0
    """The first ordinal that was never used."""
    held: dict[int, Held] = {}
    """Holder by ordinal."""
    released: tuple[int, ...] = ()
    """Ordinals below `fresh` that are free, in the order in which they are given."""
    cooling: dict[int, Cooling] = {}
    """What is known of the last assignment of released ordinals."""
    leaving: bool = False
    """Its node is being removed, or drained: it gives nothing new, and goes when it is empty."""

    @property
    def affinity(self) -> Literal["confirmed", "pendingDeletion", "none"]:
        """What its node's affinity is. docs/adr/0005-affinity.md says why it is never pending."""
        return "none" if not self.node else "pendingDeletion" if self.leaving else "confirmed"


Barred = Callable[[int], bool]
"""Whether an ordinal must not be given now: it is reserved, or cooling down."""


def never(ordinal: int) -> bool:
    """Bars nothing."""
    return False


def first(cidr: str) -> int:
    """Number of a range's first address."""
    return ranges.span(cidr).first


def size(block: Block) -> int:
    """Count of its addresses."""
    return ranges.span(block.cidr).size


def used(block: Block) -> int:
    """Count of addresses that are held."""
    return len(block.held)


def available(block: Block) -> int:
    """Count of addresses that are free, barred ones too."""
    return size(block) - len(block.held)


def free(block: Block) -> Iterator[int]:
    """The free ordinals in the order in which they will be assigned."""
    yield from range(block.fresh, size(block))
    yield from block.released


def address(block: Block, ordinal: int) -> str:
    """The address of an ordinal."""
    first, count, family = ranges.span(block.cidr)
    if not 0 <= ordinal < count:
        raise IndexError(f"block {block.cidr} has no ordinal {ordinal}")
    return ranges.text(first + ordinal, family)


def ordinal_of(block: Block, address: str) -> int | None:
    """The ordinal of an address, None if it is not of this block."""
    first, count, family = ranges.span(block.cidr)
    number, version = ranges.number(address)
    return number - first if version == family and 0 <= number - first < count else None


def next_free(block: Block, barred: Barred = never) -> int | None:
    """The ordinal that is given next, None if there is none."""
    if barred is never:
        if block.fresh < size(block):
            return block.fresh
        return block.released[0] if block.released else None
    return next((ordinal for ordinal in free(block) if not barred(ordinal)), None)


def assign(block: Block, handle: str, barred: Barred = never) -> tuple[Block, int] | None:
    """Give the address that has been free longest to a handle: the new block and the ordinal, None if there is none."""
    ordinal = next_free(block, barred)
    return None if ordinal is None else (take(block, ordinal, handle), ordinal)


def take(block: Block, ordinal: int, handle: str) -> Block:
    """Give one address, that is free, to a handle."""
    assert ordinal not in block.held, f"{address(block, ordinal)} is held"
    sequence, fresh, released, cooling = block.sequence + 1, block.fresh, block.released, block.cooling
    if ordinal >= fresh:
        released, fresh = (*range(fresh, ordinal), *released), ordinal + 1
    elif released[0] == ordinal:
        released = released[1:]
    else:
        released = tuple(other for other in released if other != ordinal)
    if ordinal in cooling:
        cooling = {other: freed for other, freed in cooling.items() if other != ordinal}
    return Block(block.cidr, block.pool, block.node, sequence, fresh,
                 {**block.held, ordinal: Held(handle, sequence)}, released, cooling, block.leaving)


def release(block: Block, ordinal: int, handle: str, sequence: int, *, at_ms: int = 0, pod: str = "") -> Block | None:
    """Free an address if exactly this assignment still holds it; None, and nothing to change, if it does not.

    `at_ms` is the time, from which on it cools down; 0 if it may be given again at once.
    """
    if block.held.get(ordinal) != Held(handle, sequence):
        return None
    held = {other: holder for other, holder in block.held.items() if other != ordinal}
    cooling = {**block.cooling, ordinal: Cooling(handle, sequence, at_ms, pod)} if at_ms else block.cooling
    return Block(block.cidr, block.pool, block.node, block.sequence + 1, block.fresh, held,
                 (*block.released, ordinal), cooling, block.leaving)


def hand_over(block: Block, ordinal: int, handle: str, sequence: int, to: str) -> Block | None:
    """Give an address from one handle to another, as a new assignment; None if exactly this one does not hold it."""
    if block.held.get(ordinal) != Held(handle, sequence):
        return None
    held = {**block.held, ordinal: Held(to, block.sequence + 1)}
    return msgspec.structs.replace(block, sequence=block.sequence + 1, held=held)


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
    if hot := block.cooling.keys() - once:
        found.append(f"ordinals {sorted(hot)} cool down, and are not released")
    sequences = [holder.sequence for holder in block.held.values()]
    if len(set(sequences)) != len(sequences):
        found.append("two assignments have the same sequence number")
    if any(not 0 < sequence <= block.sequence for sequence in sequences):
        found.append(f"an assignment's sequence number is outside 1..{block.sequence}")
    if any(not holder.handle for holder in block.held.values()):
        found.append("an address is held by nobody")
    return tuple(found)
