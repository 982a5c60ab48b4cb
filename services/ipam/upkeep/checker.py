"""Comparing the records with each other and with what is in use. No I/O.

What can not be read is reported as that, and not once more for everything that follows from it: an address whose block
is damaged is not said to be unallocated, nor a slot whose handle is damaged to be without one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from muslin.api.ipam.v1 import ipam_pb2
from muslin.etcd import keys
from services.ipam import blocks, pools, ranges
from services.ipam.handles import Address, Handle
from services.ipam.upkeep.claims import Claim
from services.ipam.upkeep.inspection import Inspection, valid_address

Kind = ipam_pb2.Problem.Kind


class Problem(NamedTuple):
    """One line of a report."""

    kind: int
    """`Kind`."""
    subject: str
    """The address, block or key that it is about."""
    detail: str
    """In a sentence."""
    handle: str = ""
    """Identity of the handle or endpoint, if one is concerned."""
    sequence: int = 0
    """Of the assignment, if one is concerned."""

    @property
    def essence(self) -> tuple[int, str, str, int]:
        """All but the wording: the same problem, seen twice, has the same."""
        return self.kind, self.subject, self.handle, self.sequence


@dataclass(frozen=True)
class Compared:
    """What a check found."""

    problems: tuple[Problem, ...]
    """Sorted by kind and subject."""
    allocated: int
    """Addresses that blocks give to handles."""
    in_use: int
    """Addresses that are claimed."""


def check(found: Inspection, claims: Mapping[str, Claim], now_ms: int) -> Compared:
    """Hold the records against each other and against the claims, by identity."""
    problems = [*_undecodable(found), *_blocks(found), *_affinities(found), *_slots(found, claims, now_ms),
                *_handles(found), *_claims(found, claims)]
    in_use = {address for claim in claims.values() for address in claim.addresses}
    return Compared(tuple(sorted(problems)), sum(map(blocks.used, found.blocks.values())), len(in_use))


def _undecodable(found: Inspection) -> Iterator[Problem]:
    for key, reason in found.undecodable.items():
        yield Problem(Kind.KIND_UNDECODABLE, key, reason)


def _blocks(found: Inspection) -> Iterator[Problem]:
    for cidr, reason in found.invalid.items():
        yield Problem(Kind.KIND_INVALID_BLOCK, cidr, reason)


def _affinities(found: Inspection) -> Iterator[Problem]:
    expected = {(block.node, cidr) for cidr, block in found.blocks.items() if block.node}
    for node, cidr in expected - found.affinities:
        if keys.affinity(node, cidr) not in found.undecodable:
            yield Problem(Kind.KIND_AFFINITY, cidr, f"node {node} has no affinity record for its block")
    for node, cidr in found.affinities - expected:
        if cidr not in found.damaged:
            block = found.blocks.get(cidr)
            what = f"the block is of node {block.node}" if block and block.node else \
                "the block is nobody's" if block else "there is no such block"
            yield Problem(Kind.KIND_AFFINITY, keys.affinity(node, cidr), f"node {node} has affinity for {cidr}; {what}")


def _slots(found: Inspection, claims: Mapping[str, Claim], now_ms: int) -> Iterator[Problem]:
    """What blocks give, held against handles, and where these agree, against claims."""
    for cidr, block in found.blocks.items():
        for ordinal, held in block.held.items():
            address, identity = blocks.address(block, ordinal), held.handle
            handle = found.handles.get(identity)
            if identity in found.unreadable_handles:
                continue
            if handle is None or Address(address, cidr, held.sequence) not in handle.addresses:
                why = "there is no such handle" if handle is None else "the handle does not say so"
                yield Problem(Kind.KIND_ADDRESS_WITHOUT_HANDLE, address, f"block {cidr} gives it to {identity}; {why}",
                              identity, held.sequence)
                continue
            claim = claims.get(identity)
            if not handle.kept_until_ms and (claim is None or address not in claim.addresses):
                yield Problem(Kind.KIND_NOT_IN_USE, address, _unused(handle, claim, now_ms), identity, held.sequence)


def _unused(handle: Handle, claim: Claim | None, now_ms: int) -> str:
    if claim is not None:
        return f"the endpoint of {handle.identity} uses {', '.join(claim.addresses) or 'no address'}, and not this one"
    age = f", assigned {max(0, now_ms - handle.created_ms) // 1000} s ago" if handle.created_ms else ""
    return f"no endpoint uses it; its handle is {handle.identity} on node {handle.node}{age}"


def _handles(found: Inspection) -> Iterator[Problem]:
    """What handles name, held against blocks."""
    for identity, handle in found.handles.items():
        if not handle.addresses:
            yield Problem(Kind.KIND_HANDLE_WITHOUT_ADDRESS, identity, "the handle names no address", identity)
        for held in handle.addresses:
            if held.block not in found.damaged and not gives(found, identity, held):
                yield Problem(Kind.KIND_HANDLE_WITHOUT_ADDRESS, held.address,
                              f"handle {identity} names it, and block {held.block} does not give it to that handle",
                              identity, held.sequence)


def gives(found: Inspection, identity: str, held: Address) -> bool:
    """Whether a block gives an address to a handle, as exactly that assignment."""
    block = found.blocks.get(held.block)
    if block is None or not valid_address(held.address):
        return False
    ordinal = blocks.ordinal_of(block, held.address)
    slot = None if ordinal is None else block.held.get(ordinal)
    return slot is not None and (slot.handle, slot.sequence) == (identity, held.sequence)


def _claims(found: Inspection, claims: Mapping[str, Claim]) -> Iterator[Problem]:
    """What is in use, held against blocks."""
    holders = {blocks.address(block, ordinal): held for block in found.blocks.values()
               for ordinal, held in block.held.items()}
    for address, claimants in users(claims.values()).items():
        first, *others = claimants
        for claim in others:
            yield Problem(Kind.KIND_DOUBLE, address, f"{claim.identity} on node {claim.node} uses it, and "
                          f"{first.identity} on node {first.node} does, which is older", claim.identity)
        if not valid_address(address):
            yield Problem(Kind.KIND_NOT_ALLOCATED, address, f"{first.identity} uses it; it is no address",
                          first.identity)
            continue
        pool = found.pool_of(address)
        if pool is None or not pools.serves(pool):
            where = f"pool {pool.name} is disabled" if pool else "it is in no pool"
            yield Problem(Kind.KIND_OUTSIDE_POOLS, address, f"{first.identity} uses it; {where}", first.identity)
        if pool is None or covered(found.damaged, address):
            continue
        holder = holders.get(address)
        if holder is None or holder.handle != first.identity:
            held = f"held by {holder.handle}" if holder else "not allocated"
            yield Problem(Kind.KIND_NOT_ALLOCATED, address,
                          f"{first.identity} on node {first.node} uses it; it is {held}", first.identity)


def users(claims: Iterable[Claim]) -> dict[str, list[Claim]]:
    """Who claims each address, the oldest first."""
    found: dict[str, list[Claim]] = {}
    for claim in sorted(claims, key=lambda claim: (claim.revision, claim.identity)):
        for address in claim.addresses:
            found.setdefault(address, []).append(claim)
    return found


def covered(cidrs: Collection[str], address: str) -> bool:
    """Whether an address is in one of some ranges."""
    return any(ranges.within(cidr, address) for cidr in cidrs)


def common(first: Compared, second: Compared) -> Compared:
    """What both of two checks found: what one alone saw was a change that was under way."""
    essences = {problem.essence for problem in first.problems}
    return Compared(tuple(problem for problem in second.problems if problem.essence in essences),
                    second.allocated, second.in_use)
