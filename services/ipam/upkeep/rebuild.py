"""Making blocks, handles and affinities anew from what is in use, wherever they differ or do not decode. No I/O.

What is stored and agrees with itself stays, in use or not: an ADD may be under way, and what is left over is the
collector's business. Beyond that, what endpoints use decides:

- an address that an endpoint uses is that endpoint's; of two endpoints the older one's, and the other is named;
- a block that can not be used is made from the endpoints and from the handles that name it;
- a slot that no handle speaks for and no endpoint uses is freed; a handle that holds nothing is deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from muslin.errors import Corrupt
from muslin.etcd import keys
from services.ipam import blocks, pools, ranges, store
from services.ipam.blocks import Block, Cooling, Held
from services.ipam.handles import Address, Handle
from services.ipam.pools import Pool
from services.ipam.upkeep.checker import users
from services.ipam.upkeep.claims import Claim
from services.ipam.upkeep.collector import ADD_LIMIT
from services.ipam.upkeep.inspection import Inspection, valid_address

_WRITES = 50
"""Records in one step; each is two operations, as its old bytes are kept, and guards come on top."""
_GUARDS = 60


@dataclass(frozen=True)
class Write:
    """A record to be replaced or deleted, if it is still at a revision (0: absent)."""

    key: str
    revision: int
    value: bytes | None


@dataclass
class Step:
    """What is written together."""

    writes: list[Write] = field(default_factory=list)
    guards: dict[str, int] = field(default_factory=dict)
    """Other keys that must still be at a revision."""
    actions: list[str] = field(default_factory=list)
    """What it does, a sentence each."""


@dataclass
class Repair:
    """All that is to be done."""

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What has to be done by people, a sentence each."""

    @property
    def actions(self) -> list[str]:
        """Everything, a sentence each, in order."""
        return [action for step in self.steps for action in step.actions] + self.notes


def plan(found: Inspection, claims: Mapping[str, Claim], now_ms: int) -> Repair:
    """What to write so that the records agree with each other and with the claims, by identity."""
    return _Planner(found, claims, now_ms).plan()


class _Planner:
    def __init__(self, found: Inspection, claims: Mapping[str, Claim], now_ms: int) -> None:
        self._found, self._claims, self._now_ms = found, claims, now_ms
        self._repair = Repair()
        self._steps: dict[str, Step] = {}
        self._owners: dict[str, dict[str, Claim]] = {}
        """By CIDR of the block, then by address: who uses it."""
        self._named: dict[str, list[tuple[str, Address]]] = {}
        """By CIDR of the block: what handles name."""
        self._held: dict[str, list[Address]] = {}
        """By identity: what blocks will give to it."""
        self._blocks: dict[str, Block] = {}
        """By CIDR: the blocks as they will be."""
        self._left: set[str] = set()
        """CIDRs of blocks that can not be repaired, and are left alone."""

    def plan(self) -> Repair:
        self._note_undecodable()
        self._sort_claims()
        for identity, handle in self._found.handles.items():
            for held in handle.addresses:
                self._named.setdefault(held.block, []).append((identity, held))
        for cidr in sorted({*self._found.blocks, *self._found.damaged, *self._owners}, key=_place):
            self._block(cidr)
        for identity in sorted({*self._found.handles, *self._found.unreadable_handles, *self._held}):
            self._handle(identity)
        self._affinities()
        self._strays()
        self._repair.steps = [part for _, step in sorted(self._steps.items()) for part in _parts(step)]
        return self._repair

    def _note_undecodable(self) -> None:
        for key, reason in self._found.undecodable.items():
            if not key.startswith((keys.IPAM_BLOCKS, keys.IPAM_HANDLES, keys.IPAM_AFFINITIES)):
                self._repair.notes.append(f"{reason}; it can not be made from endpoint records: delete it, and make it "
                                          "anew if it is needed")

    def _sort_claims(self) -> None:
        """Find out who owns which address of which block."""
        for address, claimants in users(self._claims.values()).items():
            owner, *others = claimants
            self._repair.notes += [
                f"{address} is used by {_named(owner)} and by {_named(other)}; {owner.identity} keeps it, being older: "
                f"create {_named(other)} anew" for other in others]
            pool = self._found.pool_of(address) if valid_address(address) else None
            if pool is None:
                self._repair.notes.append(f"{address}, used by {_named(owner)}, is in no pool: create the pool, or the "
                                          "endpoint anew")
                continue
            self._owners.setdefault(pools.block_of(pool, address), {})[address] = owner

    # Blocks

    def _block(self, cidr: str) -> None:
        stored = self._found.blocks.get(cidr)
        pool = next((pool for pool in self._found.pools.values() if _is_block(pool, cidr)), None)
        if pool is None:
            self._misplaced(cidr)
            return
        held = self._keep(cidr, stored)
        sequence = self._first_sequence(cidr, stored)
        base = Block(cidr, pool.name, "") if stored is None else stored
        for address, claim in self._owners.get(cidr, {}).items():
            ordinal = blocks.ordinal_of(base, address)
            assert ordinal is not None, "addresses are sorted by block"
            if ordinal not in held:
                sequence += 1
                held[ordinal] = Held(claim.identity, sequence)
                self._act(cidr, f"{address} is given to {_named(claim)}, which uses it")
        if stored is not None and held != stored.held:
            sequence = max(sequence, stored.sequence + 1)
        made = None
        if stored is not None or held:
            made = _compose(cidr, pool, self._node(cidr, stored, held), sequence, held, stored, self._now_ms)
        if made is not None:
            self._blocks[cidr] = made
            for ordinal, holder in sorted(held.items()):
                given = Address(blocks.address(made, ordinal), cidr, holder.sequence)
                self._held.setdefault(holder.handle, []).append(given)
        if made != stored or cidr in self._found.damaged:
            self._write_block(cidr, pool, made)

    def _misplaced(self, cidr: str) -> None:
        """A block that is no block of any pool."""
        if any(ranges.holds(pool.cidr, cidr) or ranges.holds(cidr, pool.cidr) for pool in self._found.pools.values()):
            self._act(cidr, f"block {cidr} is deleted: it is no block of its pool")
            self._write(cidr, keys.block(cidr), None)
        else:
            self._left.add(cidr)
            self._repair.notes.append(f"block {cidr} is in no pool: create the pool that it was cut from")

    def _keep(self, cidr: str, stored: Block | None) -> dict[int, Held]:
        """The slots that stay as they are."""
        owners = self._owners.get(cidr, {})
        if stored is None:
            return self._from_handles(cidr)
        held = {}
        for ordinal, holder in stored.held.items():
            address, identity = blocks.address(stored, ordinal), holder.handle
            owner, handle = owners.get(address), self._found.handles.get(identity)
            if owner is not None:
                stays = owner.identity == identity
            elif identity in self._found.unreadable_handles:
                stays = True
            else:
                stays = (handle is not None and Address(address, cidr, holder.sequence) in handle.addresses
                         and not self._uses_another(handle))
            if stays:
                held[ordinal] = holder
            elif owner is None:
                self._act(cidr, f"{address} is freed: no handle speaks for it, or its endpoint uses another "
                          f"(it was given to {identity})")
            else:
                self._act(cidr, f"{address} is taken from {identity}, which does not use it")
        return held | self._restored(cidr, stored, held)

    def _uses_another(self, handle: Handle) -> bool:
        """Whether the endpoint is there, with addresses: then it uses those, and no other that its handle names."""
        claim = self._claims.get(handle.identity)
        return bool(claim and claim.addresses) and self._now_ms - handle.created_ms > ADD_LIMIT * 1000

    def _restored(self, cidr: str, stored: Block, held: Mapping[int, Held]) -> dict[int, Held]:
        """Slots that a block has lost: the handle names them, and its endpoint uses them."""
        used = {holder.sequence for holder in held.values()}
        found = {}
        for address, claim in self._owners.get(cidr, {}).items():
            ordinal = blocks.ordinal_of(stored, address)
            for identity, named in self._named.get(cidr, ()):
                theirs = (identity, named.address) == (claim.identity, address)
                if (theirs and ordinal is not None and ordinal not in held and named.sequence not in used
                        and 0 < named.sequence <= stored.sequence):
                    found[ordinal] = Held(identity, named.sequence)
                    used.add(named.sequence)
                    self._act(cidr, f"{address} is given to {_named(claim)} again, which uses it")
        return found

    def _from_handles(self, cidr: str) -> dict[int, Held]:
        """What handles say of a block that can not be read, or is not there."""
        owners, block = self._owners.get(cidr, {}), Block(cidr, "", "")
        held: dict[int, Held] = {}
        used: set[int] = set()
        if cidr not in self._found.damaged:  # there is no such block: what handles say of it is not true
            named = [(i, n) for i, n in self._named.get(cidr, ()) if (o := owners.get(n.address)) and o.identity == i]
        else:
            named = self._named.get(cidr, [])
        for identity, address in sorted(named, key=lambda item: -item[1].sequence):
            ordinal = blocks.ordinal_of(block, address.address) if valid_address(address.address) else None
            owner = owners.get(address.address)
            if (ordinal is not None and ordinal not in held and address.sequence > 0 and address.sequence not in used
                    and (owner is None or owner.identity == identity)):
                held[ordinal] = Held(identity, address.sequence)
                used.add(address.sequence)
        return held

    def _first_sequence(self, cidr: str, stored: Block | None) -> int:
        """A number that no assignment of this block has had."""
        if stored is not None:
            return stored.sequence
        # Each transaction changes a block as often as it has operations, at most.
        named = (address.sequence for _, address in self._named.get(cidr, ()))
        return max(self._found.revision * store.TRANSACTION_LIMIT, *named, 0)

    def _node(self, cidr: str, stored: Block | None, held: Mapping[int, Held]) -> str:
        """Whose affinity a block has: what it says, else its affinity record, else most of its holders."""
        if stored is not None:
            return stored.node
        if claimed := sorted(node for node, of in self._found.affinities if of == cidr):
            return claimed[0]
        nodes: Counter[str] = Counter()
        for holder in held.values():
            claim, handle = self._claims.get(holder.handle), self._found.handles.get(holder.handle)
            nodes[claim.node if claim else handle.node if handle else ""] += 1
        return min(nodes, key=lambda node: (-nodes[node], node)) if nodes else ""

    def _write_block(self, cidr: str, pool: Pool, made: Block | None) -> None:
        key = keys.block(cidr)
        self._write(cidr, key, None if made is None else store.encode(made))
        step = self._step(cidr)
        step.guards[keys.pool(pool.name)] = self._found.revision_of(keys.pool(pool.name))
        if cidr in self._found.damaged:
            kept = f"made anew with {len(made.held)} addresses" if made else "deleted: nothing says that it is in use"
            step.actions.insert(0, f"block {cidr} can not be used, and is {kept}")
            # Its handles can be deleted while it can not be read: what it is made of must still be so.
            for identity, _ in self._named.get(cidr, ()):
                handle = store.handle_key(identity)
                step.guards[handle] = self._found.revision_of(handle)

    # Handles

    def _handle(self, identity: str) -> None:
        stored, claim = self._found.handles.get(identity), self._claims.get(identity)
        wanted = self._held.get(identity, [])
        if stored is not None:
            elsewhere = [held for held in stored.addresses if held.block in self._left]
            order = {held.address: place for place, held in enumerate(stored.addresses)}
            wanted = sorted([*wanted, *elsewhere], key=lambda held: order.get(held.address, len(order)))
            if tuple(wanted) == stored.addresses and wanted:
                return
        unit = wanted[0].block if wanted else stored.addresses[0].block if stored and stored.addresses else ""
        listed = ", ".join(held.address for held in wanted)
        if not wanted:
            self._act(unit, f"handle {identity} is deleted: no address is its own")
            self._write(unit, store.handle_key(identity), None)
            return
        if stored is not None:
            made = msgspec.structs.replace(stored, addresses=tuple(wanted))
        else:
            network, container_id, ifname = identity.split("/")
            node = claim.node if claim else self._blocks[wanted[0].block].node
            made = Handle(network, container_id, ifname, node, claim.namespace if claim else "",
                          claim.pod if claim else "", tuple(wanted), self._now_ms)
        self._act(unit, f"handle {identity} is made anew with {listed}")
        self._write(unit, store.handle_key(identity), store.encode(made))

    # Affinities

    def _affinities(self) -> None:
        wanted = {(block.node, cidr): block.pool for cidr, block in self._blocks.items() if block.node}
        for (node, cidr), pool in sorted(wanted.items()):
            if (node, cidr) not in self._found.affinities:
                self._act(cidr, f"affinity of node {node} for block {cidr} is made anew")
                self._write(cidr, keys.affinity(node, cidr), store.encode(store.Affinity(pool)))
        for node, cidr in sorted(self._found.affinities - wanted.keys()):
            if cidr not in self._left:
                self._act(cidr, f"affinity of node {node} for block {cidr} is deleted: the block is not its own")
                self._write(cidr, keys.affinity(node, cidr), None)

    def _strays(self) -> None:
        """Records that do not decode, and that nothing above has replaced."""
        written = {write.key for step in self._steps.values() for write in step.writes}
        for key, reason in sorted(self._found.undecodable.items()):
            ours = key.startswith((keys.IPAM_BLOCKS, keys.IPAM_HANDLES, keys.IPAM_AFFINITIES))
            if ours and key not in written and not self._is_left(key):
                self._act("", f"{reason}: it is deleted")
                self._write("", key, None)

    def _is_left(self, key: str) -> bool:
        try:
            return key.startswith(keys.IPAM_BLOCKS) and keys.parse_block(key) in self._left
        except Corrupt:
            return False

    # Writing down

    def _step(self, unit: str) -> Step:
        return self._steps.setdefault(unit, Step())

    def _act(self, unit: str, action: str) -> None:
        self._step(unit).actions.append(action)

    def _write(self, unit: str, key: str, value: bytes | None) -> None:
        revision = self._found.revision_of(key)
        if revision or value is not None:
            self._step(unit).writes.append(Write(key, revision, value))


def _parts(step: Step) -> Iterator[Step]:
    """A step, or several if it is too large for a transaction: the block comes first, and with it what it rests on."""
    written = {write.key for write in step.writes}
    guards = [(key, revision) for key, revision in step.guards.items() if key not in written][:_GUARDS]
    for start in range(0, len(step.writes), _WRITES):
        yield Step(step.writes[start:start + _WRITES], dict(guards) if start == 0 else {},
                   step.actions if start == 0 else [])


def _compose(cidr: str, pool: Pool, node: str, sequence: int, held: Mapping[int, Held], stored: Block | None,
             now_ms: int) -> Block:
    """A block that gives exactly these addresses. What it stops giving, or may have given lately, cools down."""
    size = blocks.size(Block(cidr, pool.name, node))
    fresh = size if stored is None else max([stored.fresh, *(ordinal + 1 for ordinal in held)])
    before = () if stored is None else stored.released
    lately: Iterable[int] = range(size) if stored is None else sorted(stored.held)
    last = {} if stored is None else stored.held
    ended = [ordinal for ordinal in lately if ordinal not in held]
    known = {*before, *ended}
    passed = [o for o in range(fresh) if o not in held and o not in known]
    released = (*passed, *(ordinal for ordinal in before if ordinal not in held), *ended)
    cooling = {} if stored is None else {o: freed for o, freed in stored.cooling.items() if o not in held}
    for ordinal in ended:
        holder = last.get(ordinal, Held("", 0))
        cooling[ordinal] = Cooling(holder.handle, holder.sequence, now_ms)
    return Block(cidr, pool.name, node, sequence, fresh, dict(held), released, cooling,
                 stored.leaving if stored else False)


def _is_block(pool: Pool, cidr: str) -> bool:
    return pools.holds(pool, cidr) and cidr.endswith(f"/{pool.block_size}")


def _place(cidr: str) -> tuple[int, int]:
    span = ranges.span(cidr)
    return span.family, span.first


def _named(claim: Claim) -> str:
    pod = f" (pod {claim.namespace}/{claim.pod})" if claim.pod else ""
    return f"{claim.identity}{pod}"
