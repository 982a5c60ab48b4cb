"""The checker and the rebuild on stores that were damaged on purpose."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.ipam.v1 import ipam_pb2
from muslin.etcd import keys
from services.ipam import blocks, store
from services.ipam.blocks import Block
from services.ipam.handles import Handle
from services.ipam.outcomes import Granted
from services.ipam.upkeep import rebuild
from services.ipam.upkeep.checker import Problem, check
from services.ipam.upkeep.claims import Claim
from services.ipam.upkeep.inspection import Inspection, inspect
from tests.unit.ipam.records import Assign, Records, Replica, pools, wanted

Kind = ipam_pb2.Problem.Kind
Expected = set[tuple[int, str]]
"""Kind and subject."""

NOW = 1_700_001_000_000


class Damaged:
    """A store in which everything agrees, and what is done to it.

    `said` is what a check must say, `lost` who has no address of ours, and `by_hand` is what no rebuild mends.
    """

    def __init__(self, seed: int, attachments: int = 24) -> None:
        self.random = random.Random(seed)
        self.replica = Replica(Records(pools.make("default", "10.0.0.0/22", 29), pools.make("v6", "fd00::/116", 125)))
        self.claims: dict[str, Claim] = {}
        for number in range(attachments):
            node = f"n{self.random.randrange(4)}"
            request = Assign(wanted(number, node), families=self.random.choice(((4,), (6,), (4, 6))))
            _, (outcome,) = self.replica.once(node, request)
            assert isinstance(outcome, Granted)
            handle = outcome.handle
            self.claims[handle.identity] = Claim(handle.identity, node, tuple(a.address for a in handle.addresses),
                                                 revision=number + 1)
        self.records = self.replica.records
        self.said: Expected = set()
        self.by_hand: Expected = set()
        self.lost: set[str] = set()
        self._blocks: list[Block] = [self.decoded(Block, key) for key in self.under(keys.IPAM_BLOCKS)]
        self._cut = {block.cidr for block in self._blocks}
        self.random.shuffle(self._blocks)
        self._spared = self._blocks[len(self._blocks) // 2:]  # single addresses are damaged only in these
        del self._blocks[len(self._blocks) // 2:]
        spared = {block.cidr for block in self._spared}
        every = [self.decoded(Handle, key) for key in self.under(keys.IPAM_HANDLES)]
        self._handles = [handle for handle in every if {a.block for a in handle.addresses} <= spared]
        self.random.shuffle(self._handles)

    def under(self, prefix: str) -> list[str]:
        return [key for key in self.records.items if key.startswith(prefix)]

    def decoded(self, kind: type[store.Record], key: str) -> store.Record:
        return store.decode(kind, key, self.records.items[key].value)

    def inspect(self) -> Inspection:
        return inspect(self.records.items.values(), self.records.revision)

    def problems(self) -> tuple[Problem, ...]:
        return check(self.inspect(), self.claims, NOW).problems

    def found(self) -> Expected:
        return {(line.kind, line.subject) for line in self.problems()}

    def unused(self) -> str:
        """An address that nobody has, of a block that was never there."""
        taken = {address for claim in self.claims.values() for address in claim.addresses}
        cut = self._cut
        return next(address for number in range(1024)
                    if (address := f"10.0.{number >> 8}.{number & 255}") not in taken
                    and f"10.0.{number >> 8}.{number & 248}/29" not in cut)

    # What can be done to it; each takes something that nothing was done to before.

    def block_garbage(self) -> None:
        cidr = self._blocks.pop().cidr
        self.records.put(keys.block(cidr), self.random.choice((b"", b"\xff\xfe", b"{}", b'{"cidr": 5}', b"null")))
        self.said.add((Kind.KIND_UNDECODABLE, keys.block(cidr)))

    def block_invalid(self) -> None:
        block = self._blocks.pop()
        wrong = self.random.choice(({"fresh": 9}, {"released": (0, 0)}, {"pool": "nowhere"}, {"sequence": 0}))
        self.records.put(keys.block(block.cidr), store.encode(msgspec.structs.replace(block, **wrong)))
        self.said.add((Kind.KIND_INVALID_BLOCK, block.cidr))

    def affinity_missing(self) -> None:
        block = self._spared.pop()
        self.records.put(keys.affinity(block.node, block.cidr), None)
        self.said.add((Kind.KIND_AFFINITY, block.cidr))

    def affinity_of_another(self) -> None:
        block = self._spared.pop()
        key = keys.affinity("elsewhere", block.cidr)
        self.records.put(key, store.encode(store.Affinity(block.pool)))
        self.said.add((Kind.KIND_AFFINITY, key))

    def affinity_garbage(self) -> None:
        block = self._spared.pop()
        self.records.put(keys.affinity(block.node, block.cidr), b"garbage")
        self.said.add((Kind.KIND_UNDECODABLE, keys.affinity(block.node, block.cidr)))

    def handle_garbage(self) -> None:
        key = store.handle_key(self._handles.pop().identity)
        self.records.put(key, self.random.choice((b"", b"\x00", b"{}", b'{"network":"net"}')))
        self.said.add((Kind.KIND_UNDECODABLE, key))

    def handle_missing(self) -> None:
        handle = self._handles.pop()
        self.records.put(store.handle_key(handle.identity), None)
        self.said |= {(Kind.KIND_ADDRESS_WITHOUT_HANDLE, a.address) for a in handle.addresses}

    def handle_of_nothing(self) -> None:
        handle = Handle("net", f"empty{self.random.random()}", "eth0", "n1")
        self.records.put(store.handle_key(handle.identity), store.encode(handle))
        self.said.add((Kind.KIND_HANDLE_WITHOUT_ADDRESS, handle.identity))

    def slot_missing(self) -> None:
        held = self._handles.pop().addresses[0]
        block = self.decoded(Block, keys.block(held.block))
        ordinal = blocks.ordinal_of(block, held.address)
        assert ordinal is not None
        after = blocks.release(block, ordinal, block.held[ordinal].handle, held.sequence)
        assert after is not None
        self.records.put(keys.block(held.block), store.encode(after))
        self.said |= {(Kind.KIND_HANDLE_WITHOUT_ADDRESS, held.address), (Kind.KIND_NOT_ALLOCATED, held.address)}

    def leak(self) -> None:
        handle = self._handles.pop()
        del self.claims[handle.identity]
        lines = {(Kind.KIND_NOT_IN_USE, a.address) for a in handle.addresses}
        self.said |= lines
        self.by_hand |= lines  # the collector frees it, or a release from the report

    def double(self) -> None:
        address = self._handles.pop().addresses[0].address
        other = f"net/younger{self.random.random()}/eth0"
        self.claims[other] = Claim(other, "n1", (address,), revision=1000)
        self.said.add((Kind.KIND_DOUBLE, address))
        self.by_hand.add((Kind.KIND_DOUBLE, address))
        self.lost.add(other)

    def outside(self) -> None:
        address = f"172.16.{self.random.randrange(256)}.{self.random.randrange(256)}"
        other = f"net/outside{self.random.random()}/eth0"
        self.claims[other] = Claim(other, "n1", (address,), revision=1000)
        self.said.add((Kind.KIND_OUTSIDE_POOLS, address))
        self.by_hand.add((Kind.KIND_OUTSIDE_POOLS, address))
        self.lost.add(other)

    def unallocated(self) -> None:
        address, other = self.unused(), f"net/unknown{self.random.random()}/eth0"
        self.claims[other] = Claim(other, "n9", (address,), revision=1000)
        self.said.add((Kind.KIND_NOT_ALLOCATED, address))

    def endpoint_uses_another(self) -> None:
        handle = self._handles.pop()
        old, new = handle.addresses[0].address, self.unused()
        claim = self.claims[handle.identity]
        self.claims[handle.identity] = claim._replace(
            addresses=tuple(new if address == old else address for address in claim.addresses))
        self.said |= {(Kind.KIND_NOT_IN_USE, old), (Kind.KIND_NOT_ALLOCATED, new)}

    def stray(self) -> None:
        self.records.put(keys.IPAM + "v1/blocks/nonsense", b"x")
        self.said.add((Kind.KIND_UNDECODABLE, keys.IPAM + "v1/blocks/nonsense"))


DAMAGES: Mapping[str, Callable[[Damaged], None]] = {
    name: getattr(Damaged, name) for name in (
        "block_garbage", "block_invalid", "affinity_missing", "affinity_of_another", "affinity_garbage",
        "handle_garbage", "handle_missing", "handle_of_nothing", "slot_missing", "leak", "double", "outside",
        "unallocated", "endpoint_uses_another",
        "stray")}

SEEDS = st.integers(0, 2**32)
HURTS = st.lists(st.sampled_from(sorted(DAMAGES)), max_size=8)


def hurt(seed: int, hurts: list[str]) -> Damaged:
    damaged = Damaged(seed)
    for name in hurts:
        try:
            DAMAGES[name](damaged)
        except IndexError:  # nothing is left that it could be done to
            continue
    return damaged


def mend(damaged: Damaged, steps: int = 0) -> rebuild.Repair:
    """What a rebuild does, or its first steps."""
    found = damaged.inspect()
    made = rebuild.plan(found, damaged.claims, NOW)
    for step in made.steps[:steps or None]:
        assert len(step.writes) * 2 <= store.TRANSACTION_LIMIT
        assert len(step.writes) + len(step.guards) <= store.TRANSACTION_LIMIT
        expect = {write.key: write.revision for write in step.writes} | step.guards
        assert damaged.records.commit(expect, {write.key: write.value for write in step.writes})
    return made


@given(SEEDS)
def test_a_store_in_order_has_no_lines(seed: int) -> None:
    damaged = Damaged(seed)
    found = check(damaged.inspect(), damaged.claims, NOW)
    addresses = sum(len(claim.addresses) for claim in damaged.claims.values())
    assert (found.problems, found.allocated, found.in_use) == ((), addresses, addresses)
    assert mend(damaged).actions == []


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_each_damage_is_reported_as_what_it_is(name: str) -> None:
    damaged = hurt(7, [name])
    assert damaged.said
    assert damaged.found() == damaged.said


@given(SEEDS, HURTS)
def test_exactly_the_damages_are_reported(seed: int, hurts: list[str]) -> None:
    damaged = hurt(seed, hurts)
    assert damaged.found() == damaged.said


@given(SEEDS, HURTS)
def test_a_rebuild_mends_all_it_can_and_every_live_endpoint_keeps_its_addresses(seed: int, hurts: list[str]) -> None:
    damaged = hurt(seed, hurts)
    mend(damaged)
    assert damaged.found() == damaged.by_hand
    found = damaged.inspect()
    for identity, claim in damaged.claims.items():
        if identity not in damaged.lost:
            assert {a.address for a in found.handles[identity].addresses} == set(claim.addresses)
    assert mend(damaged).steps == [], "what is mended needs no mending"


@given(SEEDS, HURTS, st.integers(1, 5))
def test_a_rebuild_that_was_interrupted_is_ended_by_the_next(seed: int, hurts: list[str], steps: int) -> None:
    damaged = hurt(seed, hurts)
    mend(damaged, steps)
    mend(damaged)
    assert damaged.found() == damaged.by_hand


@given(SEEDS, st.dictionaries(st.integers(0, 60), st.binary(max_size=30), max_size=10))
def test_no_bytes_at_all_make_it_crash(seed: int, garbage: dict[int, bytes]) -> None:
    damaged = Damaged(seed, 12)
    every = sorted(damaged.records.items)
    for number, value in garbage.items():
        damaged.records.put(every[number % len(every)], value)
    damaged.problems()
    mend(damaged)
    damaged.problems()


def test_of_two_owners_the_older_keeps_the_address_and_the_other_is_named() -> None:
    damaged = Damaged(1, 4)
    identity, claim = next(iter(damaged.claims.items()))
    damaged.claims["net/older/eth0"] = Claim("net/older/eth0", "n8", claim.addresses, "prod", "web", 0)
    made = mend(damaged)
    assert any(f"create {identity} anew" in note for note in made.notes)
    handles = damaged.inspect().handles
    assert identity not in handles
    assert {a.address for a in handles["net/older/eth0"].addresses} == set(claim.addresses)
    assert (handles["net/older/eth0"].namespace, handles["net/older/eth0"].pod) == ("prod", "web")


def test_what_was_given_before_a_rebuild_can_not_be_freed_by_a_late_release_after_it() -> None:
    """Sequence numbers go on above all that there were; what a block may have given lately cools down."""
    damaged = Damaged(1, 4)
    key = damaged.under(keys.IPAM_BLOCKS)[0]
    before = damaged.decoded(Block, key)
    damaged.records.put(key, b"")
    for held in before.held.values():
        damaged.records.put(store.handle_key(held.handle), None)
    mend(damaged)
    after = damaged.decoded(Block, key)
    assert all(held.sequence > before.sequence for held in after.held.values())
    assert set(after.cooling) == set(after.released)
    assert blocks.problems(after) == ()
