"""Freeing: what an attachment holds goes back, or is kept for the return of its pod."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from muslin.etcd import keys
from muslin.rpc import require_own
from services.ipam import blocks, store
from services.ipam.handles import Handle
from services.ipam.outcomes import Freed, Release, ReleaseExact
from services.ipam.step import Step


def release(step: Step, request: Release) -> Freed:
    """Free what the attachment holds; nothing is a success. Raises Denied if it is on another node than it must be."""
    known = step.view.handle(request.identity)
    if known.value:
        require_own(request.bound, known.value.node, f"attachment {request.identity}")
    key = store.handle_key(request.identity)
    step.expect[key] = known.revision
    _fence(step, request.fence)
    handle = known.value
    if handle and handle.kept_until_ms:
        return Freed(())  # released before
    if handle and handle.sticky and handle.pod:
        until = step.view.clock.wall_ms() + handle.sticky * 1000
        step.writes[key] = store.encode(msgspec.structs.replace(handle, kept_until_ms=until))
        return Freed(())
    return Freed(free(step, request.identity))


def free(step: Step, identity: str) -> tuple[str, ...]:
    """Free what a handle holds, and delete it."""
    known, key = step.view.handle(identity), store.handle_key(identity)
    step.expect[key] = known.revision
    if known.revision:
        step.writes[key] = None
    for address in known.value.addresses if known.value else ():
        # The handle may be newer than what is known of its block: that must hold too, also that there is none.
        step.rests_on(keys.block(address.block))
    held = list(_slots(step, identity, known.value))
    rested = step.view.kept.seconds(identity)
    freed = (give_back(step, *slot, identity, known.value, rested) for slot in held)
    return tuple(address for address in freed if address)


def give_back(step: Step, cidr: str, ordinal: int, sequence: int, identity: str, handle: Handle | None,
              rested: float = 0.0) -> str:
    """Free one address, that has been out of use for some seconds; empty if exactly this assignment is over."""
    block = step.block(cidr)
    if block is None:
        return ""
    pool = step.view.pool(block.pool).value
    cools = pool is None or pool.cool_down > rested
    pod = f"{handle.namespace}/{handle.pod}" if handle and handle.pod else ""
    after = blocks.release(block, ordinal, identity, sequence, at_ms=step.view.clock.wall_ms() if cools else 0, pod=pod)
    if after is None:
        return ""
    step.change(after)
    return blocks.address(block, ordinal)


def release_exact(step: Step, request: ReleaseExact) -> Freed:
    """Free these assignments if each is exactly as it is said to be, in the handle or in its block.

    If they are all that the handle has, it goes with them. If they are none of the handle's, they are addresses that
    blocks give to it without its knowing. Anything between is neither, and nothing is done.
    """
    identity, wanted = request.identity, set(request.held)
    known, key = step.view.handle(identity), store.handle_key(identity)
    step.expect[key] = known.revision
    if known.revision and known.value is None:
        return Freed(())
    mine = set(known.value.addresses) if known.value else set()
    if not wanted or (mine and wanted & mine and not mine <= wanted):
        return Freed(())
    found = []
    for held in sorted(wanted, key=lambda held: held.address):
        step.rests_on(keys.block(held.block))
        block = step.block(held.block)
        ordinal = blocks.ordinal_of(block, held.address) if block else None
        if block and ordinal is not None and block.held.get(ordinal) == blocks.Held(identity, held.sequence):
            found.append((block.cidr, ordinal, held.sequence))
        elif held not in mine:
            return Freed(())
    if mine & wanted:
        step.writes[key] = None
    rested = step.view.kept.seconds(identity)
    return Freed(tuple(give_back(step, *slot, identity, known.value, rested) for slot in found))


def _slots(step: Step, identity: str, handle: Handle | None) -> Iterator[tuple[str, int, int]]:
    """Block, ordinal and sequence number of what a handle says it holds; if it is damaged, of what blocks say."""
    if handle:
        for held in handle.addresses:
            block = step.block(held.block)
            if block and (ordinal := blocks.ordinal_of(block, held.address)) is not None:
                yield block.cidr, ordinal, held.sequence
    elif step.view.handle(identity).revision:
        for block in step.view.blocks():
            for ordinal, sequence in blocks.held_by(step.block(block.cidr) or block, identity):
                yield block.cidr, ordinal, sequence


def _fence(step: Step, names: Sequence[str]) -> None:
    for name in names:
        known = step.view.pool(name)
        if known.value:
            step.expect[keys.pool(name)] = known.revision
            step.writes[keys.pool(name)] = store.encode(known.value)
