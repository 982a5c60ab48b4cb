"""Deciding: from a view and the requests that wait, what to write and what to answer. No I/O.

Requests of one node are decided together and committed in one transaction: each gets its own answer, and the price of
a commit is shared. What cannot be answered in this transaction stays for the next one.

Where an address comes from (as in Calico): an open block of the node; else a new block of the first pool, by name,
that has one left; else, borrowed, any open block of any node.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from muslin.etcd import keys
from services.ipam import blocks, pools, store
from services.ipam.blocks import Block
from services.ipam.handles import Address, Handle, Request
from services.ipam.pools import Pool
from services.ipam.view import View

_BORROW_LOOK = 64
"""Open blocks of others that are looked at to borrow from one."""


@dataclass(frozen=True, slots=True)
class Release:
    """Free what the attachment holds."""

    identity: str
    fence: tuple[str, ...] = ()
    """Pools in which an assignment to this attachment was sent and never answered. Their records are rewritten, so
    that the lost transaction, should it still arrive, fails."""


Asked = Request | Release


@dataclass(frozen=True, slots=True)
class Granted:
    """The attachment holds this."""

    handle: Handle
    new: bool
    """Whether it is given now."""


@dataclass(frozen=True, slots=True)
class Freed:
    """The attachment held this, and nothing any more."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Short:
    """As far as the view knows no address is left."""

    reason: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """The attachment's record does not decode; it can be released, not extended."""


Outcome = Granted | Freed | Short | Damaged


@dataclass(frozen=True)
class Plan:
    """One transaction and what it answers."""

    outcomes: list[Outcome | None] = field(default_factory=list)
    """One for each request, in order; None: not in this transaction. Granted and Freed hold once it is committed."""
    expect: dict[str, int] = field(default_factory=dict)
    """Keys that must still be at a revision (0: absent) for the decisions to hold."""
    writes: dict[str, bytes | None] = field(default_factory=dict)
    """New values; None deletes."""
    blocks: set[str] = field(default_factory=set)
    """CIDRs of the blocks it writes."""
    pools: set[str] = field(default_factory=set)
    """Names of the pools it assigns from."""


def plan(view: View, node: str, requests: Sequence[Asked], busy: Collection[str] = ()) -> Plan:
    """Decide what can be decided for requests of one node.

    Blocks in `busy` are being written by another transaction of this process: what needs one of them waits.
    """
    draft = _Draft(view, node, busy)
    for request in requests:
        draft.decide(request)
    return draft.finish()


class _Wait(Exception):
    """The decision has to wait for a busy block."""


class _Draft:
    def __init__(self, view: View, node: str, busy: Collection[str]) -> None:
        self._view, self._node, self._busy = view, node, busy
        self._plan = Plan()
        self._changed: dict[str, Block] = {}
        self._decided: set[str] = set()

    def decide(self, request: Asked) -> None:
        """Add a request, or leave it for later."""
        outcome = None
        if request.identity not in self._decided and self._room():
            try:
                outcome = self._assign(request.handle) if isinstance(request, Request) else self._release(request)
            except _Wait:
                pass
            # A second request of the same attachment is decided when the outcome of the first is known.
            self._decided.add(request.identity)
        self._plan.outcomes.append(outcome)

    def finish(self) -> Plan:
        """The plan of all that was decided."""
        for cidr, block in self._changed.items():
            self._plan.writes[keys.block(cidr)] = store.encode(block)
        self._plan.blocks.update(self._changed)
        return self._plan

    def _room(self) -> bool:
        """Whether the largest single decision still fits."""
        return (len(self._plan.expect) + 3 <= store.TRANSACTION_LIMIT
                and len(self._plan.writes) + len(self._changed) + 3 <= store.TRANSACTION_LIMIT)

    def _assign(self, handle: Handle) -> Outcome:
        known, key = self._view.handle(handle.identity), store.handle_key(handle.identity)
        if known.revision:
            if known.value is None:
                return Damaged()
            self._plan.expect[key] = known.revision
            return Granted(known.value, new=False)
        taken = self._own() or self._claimed() or self._borrowed()
        if taken is None:
            return Short(self._why())
        block, pool = taken
        given = blocks.assign(block, handle.identity)
        assert given is not None, "an open block has a free address"
        self._change(given[0])
        address = Address(blocks.address(block, given[1]), block.cidr, given[0].sequence)
        handle = msgspec.structs.replace(handle, addresses=(address,))
        self._plan.expect[key] = 0
        self._plan.expect[keys.pool(pool.name)] = self._view.pool(pool.name).revision
        self._plan.pools.add(pool.name)
        self._plan.writes[key] = store.encode(handle)
        return Granted(handle, new=True)

    def _own(self) -> tuple[Block, Pool] | None:
        """An open block of the node, begun in this plan or before."""
        begun = (block for block in self._changed.values() if block.node == self._node)
        return self._first_open(*begun, *self._stored_open(self._view.open_blocks(self._node)), wait=True)

    def _claimed(self) -> tuple[Block, Pool] | None:
        """A block that nobody has yet, with the node's affinity."""
        raced = False
        for pool in self._serving():
            claimed = self._view.tally(pool.name).claimed
            if len(claimed) >= pools.block_count(pool):
                continue
            for first in pools.walk(pool, self._node):
                if first in claimed or (cidr := pools.block_at(pool, first)) in self._changed:
                    continue
                if cidr in self._busy:
                    raced = True
                    continue
                self._plan.writes[keys.affinity(self._node, cidr)] = store.encode(store.Affinity(pool.name))
                return Block(cidr, pool.name, self._node), pool
        if raced:  # claims that are under way may yet fail
            raise _Wait
        return None

    def _borrowed(self) -> tuple[Block, Pool] | None:
        """An open block of another node; nodes look at them in different orders, not to fight for one."""
        found: list[Block] = [block for block in self._changed.values() if block.node != self._node]
        for pool in self._serving():
            found += self._stored_open(islice(self._view.tally(pool.name).open, _BORROW_LOOK))
        found.sort(key=lambda block: hashlib.sha256(f"{self._node}\n{block.cidr}".encode()).digest())
        if taken := self._first_open(*found, wait=False):
            return taken
        if any(block.cidr in self._busy for block in found):
            raise _Wait
        return None

    def _stored_open(self, cidrs: Iterator[str]) -> Iterator[Block]:
        for cidr in cidrs:
            if cidr not in self._changed and (block := self._view.block(cidr).value):
                yield block

    def _first_open(self, *candidates: Block, wait: bool) -> tuple[Block, Pool] | None:
        waiting = False
        for block in candidates:
            pool = self._view.pool(block.pool).value
            if pool is None or pool.disabled or pool.deleting or not blocks.available(block):
                continue
            if block.cidr not in self._busy:
                return block, pool
            waiting = wait
        if waiting:
            raise _Wait
        return None

    def _release(self, request: Release) -> Outcome:
        known, key = self._view.handle(request.identity), store.handle_key(request.identity)
        held = list(self._slots(request.identity, known.value))
        if any(cidr in self._busy for cidr, _, _ in held):
            raise _Wait
        self._plan.expect[key] = known.revision
        if known.revision:
            self._plan.writes[key] = None
        self._fence(request.fence)
        for address in known.value.addresses if known.value else ():
            # The handle may be newer than what is known of its block: that must hold too, also that there is none.
            self._plan.expect[keys.block(address.block)] = self._view.block(address.block).revision
        freed = []
        for cidr, ordinal, sequence in held:
            block = self._block(cidr)
            if block and (after := blocks.release(block, ordinal, request.identity, sequence)):
                self._change(after)
                freed.append(blocks.address(block, ordinal))
        return Freed(tuple(freed))

    def _slots(self, identity: str, handle: Handle | None) -> Iterator[tuple[str, int, int]]:
        """Block, ordinal and sequence number of what a handle says it holds; if it is damaged, of what blocks say."""
        if handle:
            for held in handle.addresses:
                block = self._block(held.block)
                if block and (ordinal := blocks.ordinal_of(block, held.address)) is not None:
                    yield block.cidr, ordinal, held.sequence
        elif self._view.handle(identity).revision:
            for block in self._view.blocks():
                for ordinal, sequence in blocks.held_by(block, identity):
                    yield block.cidr, ordinal, sequence

    def _fence(self, names: Sequence[str]) -> None:
        for name in names:
            known = self._view.pool(name)
            if known.value:
                self._plan.expect[keys.pool(name)] = known.revision
                self._plan.writes[keys.pool(name)] = store.encode(known.value)

    def _block(self, cidr: str) -> Block | None:
        return self._changed.get(cidr) or self._view.block(cidr).value

    def _change(self, block: Block) -> None:
        self._plan.expect[keys.block(block.cidr)] = self._view.block(block.cidr).revision
        self._changed[block.cidr] = block

    def _serving(self) -> Iterator[Pool]:
        return (pool for pool in self._view.pools() if not pool.disabled and not pool.deleting)

    def _why(self) -> str:
        """The pools tried and why none gave an address."""
        reasons = []
        for pool in self._view.pools():
            tally = self._view.tally(pool.name)
            if pool.deleting or pool.disabled:
                reason = "being deleted" if pool.deleting else "disabled"
            else:
                reason = f"{tally.used} of {pools.size(pool)} addresses in use"
                if tally.damaged:
                    reason += f", {tally.damaged} blocks damaged"
            reasons.append(f"pool {pool.name} ({ipaddress.ip_network(pool.cidr)}): {reason}")
        return "; ".join(reasons) or "there is no pool; create one"
