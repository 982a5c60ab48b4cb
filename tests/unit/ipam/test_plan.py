"""Decisions: where an address comes from, and what happens when the view is old."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from muslin.errors import FailedPrecondition
from muslin.etcd import keys
from services.ipam import pools, store
from services.ipam.blocks import Block, Held
from services.ipam.handles import Request as Assign
from services.ipam.outcomes import Damaged, Freed, Granted, Release, Short
from services.ipam.plan import Plan, plan
from tests.support import ipam_invariants
from tests.unit.ipam.records import Records, Replica, wanted


def address(outcome: object) -> str:
    assert isinstance(outcome, Granted)
    return outcome.handle.addresses[0].address


def identity(number: int) -> str:
    return f"net/c{number}/eth0"


def assign(replica: Replica, node: str, *numbers: int) -> list[str]:
    done, outcomes = replica.once(node, *(Assign(wanted(number, node)) for number in numbers))
    assert done
    return [address(outcome) for outcome in outcomes]


@pytest.fixture
def replica() -> Replica:
    return Replica(Records(pools.make("a", "10.0.0.0/24", 28), pools.make("b", "10.1.0.0/30", 31)))


def clean(replica: Replica) -> bool:
    return not list(ipam_invariants.violations(replica.records.values))


def test_the_first_address_claims_a_block_for_the_node_in_one_transaction(replica: Replica) -> None:
    assign(replica, "n1", 1)
    assert clean(replica)
    block, = replica.view.blocks()
    assert (block.node, block.pool) == ("n1", "a")
    assert keys.affinity("n1", block.cidr) in replica.records.items
    assert keys.handle("net", "c1", "eth0") in replica.records.items


def test_a_node_uses_up_its_block_before_it_claims_another(replica: Replica) -> None:
    assign(replica, "n1", *range(16))
    assert len(list(replica.view.blocks())) == 1
    assign(replica, "n1", 16)
    assert len(list(replica.view.blocks())) == 2


def test_two_nodes_have_two_blocks(replica: Replica) -> None:
    assign(replica, "n1", 1)
    assign(replica, "n2", 2)
    assert {"n1", "n2"} == {block.node for block in replica.view.blocks()}


def test_many_requests_share_one_transaction_across_blocks(replica: Replica) -> None:
    revision = replica.records.revision
    assert len(set(assign(replica, "n1", *range(40)))) == 40
    assert replica.records.revision == revision + 1
    assert len(list(replica.view.blocks())) == 3
    assert clean(replica)


def test_no_transaction_is_larger_than_etcd_takes(replica: Replica) -> None:
    made = plan(replica.view, [Assign(wanted(number, "n1")) for number in range(200)])
    assert len(made.expect) <= store.TRANSACTION_LIMIT
    assert len(made.writes) <= store.TRANSACTION_LIMIT
    assert None in made.outcomes
    assert replica.commit(made)
    assert clean(replica)


def test_a_full_pool_is_followed_by_the_next_and_then_by_an_error_that_says_why(replica: Replica) -> None:
    for start in range(0, 256, 64):
        assign(replica, "n1", *range(start, start + 64))
    assert all(a.startswith("10.1.0.") for a in assign(replica, "n1", 300, 301, 302, 303))
    _, outcomes = replica.once("n1", Assign(wanted(400, "n1")))
    short, = outcomes
    assert isinstance(short, Short)
    assert "pool a (10.0.0.0/24): 256 of 256 addresses in use" in short.reason
    assert "pool b (10.1.0.0/30): 4 of 4 addresses in use" in short.reason


def test_no_pool_at_all_says_so() -> None:
    _, outcomes = Replica(Records()).once("n1", Assign(wanted(1, "n1")))
    short, = outcomes
    assert isinstance(short, Short)
    assert short.reason.endswith("there is no pool; create one")


def test_borrowing_comes_last(replica: Replica) -> None:
    """Only when neither the node's blocks nor any unclaimed one has an address; the block keeps its affinity."""
    nodes = [f"n{number}" for number in range(16 + 2)]
    for number, node in enumerate(nodes):
        assign(replica, node, number)
    assert {block.node for block in replica.view.blocks()} == set(nodes)
    assign(replica, "late", 100)
    assert "late" not in {block.node for block in replica.view.blocks()}
    assert replica.view.handle(identity(100)).value is not None
    assert clean(replica)


def test_borrowers_go_to_different_blocks() -> None:
    replica = Replica(Records(pools.make("a", "10.0.0.0/24", 28)))
    for number in range(16):
        assign(replica, f"owner{number}", number)
    lent = {plan(replica.view, [Assign(wanted(100 + n, f"late{n}"))]).blocks.pop() for n in range(12)}
    assert len(lent) > 4


def test_the_same_attachment_gets_the_same_address(replica: Replica) -> None:
    first = assign(replica, "n1", 1)
    before = replica.records.values
    assert first == assign(replica, "n1", 1)
    assert before == replica.records.values, "answering again changes nothing"


def test_an_attachment_asked_for_twice_at_once_is_decided_once(replica: Replica) -> None:
    made = plan(replica.view, [Assign(wanted(1, "n1")), Assign(wanted(1, "n1")), Release(identity(1))])
    assert made.outcomes[1:] == [None, None]


def test_a_disabled_pool_keeps_what_it_gave_and_gives_nothing_new(replica: Replica) -> None:
    first = assign(replica, "n1", 1)
    for name in ("a", "b"):
        pool = replica.view.pool(name).value
        assert pool is not None
        replica.records.put(keys.pool(name), store.encode(msgspec.structs.replace(pool, disabled=True)))
    replica.catch_up()
    assert first == assign(replica, "n1", 1)
    _, (short,) = replica.once("n1", Assign(wanted(2, "n1")))
    assert isinstance(short, Short)
    assert short.reason.endswith("pool a (10.0.0.0/24): disabled; pool b (10.1.0.0/30): disabled")


def test_a_release_frees_once(replica: Replica) -> None:
    held = assign(replica, "n1", 1)
    assert (True, [Freed(tuple(held))]) == replica.once("n1", Release(identity(1)))
    assert (True, [Freed(())]) == replica.once("n1", Release(identity(1)))
    assert clean(replica)
    assert not ipam_invariants.owners(replica.records.values)


def test_a_freed_address_is_not_the_next_one_given(replica: Replica) -> None:
    held = assign(replica, "n1", 1)
    replica.once("n1", Release(identity(1)))
    assert held != assign(replica, "n1", 1)


def test_an_old_view_loses_the_race_and_learns(replica: Replica) -> None:
    """The transaction of the slower process fails; what etcd answers shows it the address that the faster one took."""
    slow = Replica(replica.records)
    first = assign(replica, "n1", 1)
    done, _ = slow.once("n1", Assign(wanted(2, "n1")))
    assert not done
    assert first != assign(slow, "n1", 2)
    assert clean(replica)


def test_the_same_attachment_through_two_processes_is_given_one_address(replica: Replica) -> None:
    other = Replica(replica.records)
    first = assign(replica, "n1", 1)
    done, _ = other.once("n1", Assign(wanted(1, "n1")))
    assert not done
    assert first == assign(other, "n1", 1)


def test_a_release_that_another_process_has_overtaken_frees_nothing_of_the_new_owner(replica: Replica) -> None:
    other = Replica(replica.records)
    assign(replica, "n1", *range(16))
    other.catch_up()
    replica.once("n1", Release(identity(3)))
    assign(replica, "n1", 50)
    done, _ = other.once("n1", Release(identity(3)))
    assert not done
    assert (True, [Freed(())]) == other.once("n1", Release(identity(3)))
    assert identity(50) in ipam_invariants.owners(replica.records.values).values()
    assert clean(replica)


def test_a_pool_that_is_being_deleted_stops_an_assignment_under_way(replica: Replica) -> None:
    made = plan(replica.view, [Assign(wanted(1, "n1"))])
    pool = replica.view.pool("a").value
    assert pool is not None
    replica.records.put(keys.pool("a"), store.encode(msgspec.structs.replace(pool, deleting=True)))
    assert not replica.commit(made)


def test_an_assignment_that_got_lost_can_not_arrive_after_its_release(replica: Replica) -> None:
    """A transaction whose answer never came may still be on its way: the release makes it fail."""
    lost = plan(replica.view, [Assign(wanted(1, "n1"))])
    assert lost.pools == {identity(1): {"a"}}
    done, _ = replica.once("n1", Release(identity(1), fence=("a", "gone")))
    assert done
    assert not replica.records.commit(lost.expect, lost.writes)


def test_busy_blocks_are_waited_for_not_fought_for(replica: Replica) -> None:
    assign(replica, "n1", 1)
    block, = replica.view.blocks()
    made = plan(replica.view, [Assign(wanted(2, "n1")), Release(identity(1))], busy={block.cidr})
    assert made.outcomes == [None, None]
    assert not made.expect


def test_claims_under_way_are_not_claimed_again() -> None:
    replica = Replica(Records(pools.make("a", "10.0.0.0/29", 30)))
    first = plan(replica.view, [Assign(wanted(1, "n1"))])
    second = plan(replica.view, [Assign(wanted(2, "n2"))], busy=first.blocks)
    assert not first.blocks & second.blocks
    third = plan(replica.view, [Assign(wanted(3, "n3"))], busy=first.blocks | second.blocks)
    assert third.outcomes == [None], "it waits, as a claim may yet fail"


def test_a_damaged_handle_is_refused_on_add_and_released_by_what_the_blocks_say(replica: Replica) -> None:
    held = assign(replica, "n1", 1)
    replica.records.put(keys.handle("net", "c1", "eth0"), b"{not json")
    replica.catch_up()
    assert [Damaged()] == replica.once("n1", Assign(wanted(1, "n1")))[1]
    assert (True, [Freed(tuple(held))]) == replica.once("n1", Release(identity(1)))
    assert clean(replica)


def test_what_does_not_fit_into_any_transaction_is_refused_and_its_neighbours_are_served(replica: Replica) -> None:
    """A damaged handle can seem to hold any number of addresses: blocks of a /25 pool with one each."""
    replica.records.put(keys.handle("net", "c1", "eth0"), b"{not json")
    replica.records.put(keys.pool("tiny"), store.encode(pools.make("tiny", "10.7.0.0/24", 32)))
    for number in range(130):
        cidr = f"10.7.0.{number}/32"
        replica.records.put(keys.block(cidr), store.encode(Block(cidr, "tiny", "n1", 1, 1, {0: Held(identity(1), 1)})))
    replica.catch_up()
    done, outcomes = replica.once("n1", Release(identity(1)), Assign(wanted(2, "n2")))
    assert done
    refused, given_ = outcomes
    assert isinstance(refused, Short)
    assert isinstance(refused.problem, FailedPrecondition)
    assert "131 records" in refused.reason
    assert isinstance(given_, Granted)


@pytest.mark.parametrize("damage", [
    b"\xff\x00", b"{}", b"[]",
    store.encode(Block("10.0.0.0/28", "a", "n1", 0, 3)),  # decodes, and has lost three addresses
])
def test_a_damaged_block_is_set_aside(replica: Replica, damage: bytes) -> None:
    """It gives no address, nobody claims it anew, and what it holds can still be released."""
    assign(replica, "n1", 1)
    block, = replica.view.blocks()
    replica.records.put(keys.block(block.cidr), damage)
    replica.catch_up()
    assert not list(replica.view.blocks())
    taken = assign(replica, "n1", 2)
    assert store.decode(Block, keys.block(next(replica.view.blocks()).cidr), replica.records.values[
        keys.block(next(replica.view.blocks()).cidr)]).cidr != block.cidr
    assert taken
    assert (True, [Freed(())]) == replica.once("n1", Release(identity(1)))
    assert replica.records.values[keys.block(block.cidr)] == damage


def test_the_echo_of_a_write_is_told_from_another_s(replica: Replica) -> None:
    """Seen before the answer or after it; not any more when somebody else has written since."""
    records, view = replica.records, replica.view
    made = plan(view, [Assign(wanted(1, "n1"))])
    view.writing(made.writes, made.changed.values())
    assert records.commit(made.expect, made.writes)
    replica.catch_up()
    assert view.ours == made.writes.keys(), "its echo comes before its answer"
    view.written(made.writes)
    replica.catch_up()
    assert not view.ours

    made = plan(view, [Assign(wanted(2, "n1"))])
    assert records.commit(made.expect, made.writes)
    for key in made.writes:
        view.see(key, records.items[key], records.revision, ours=True)
    block = next(key for key in made.writes if key.startswith(keys.IPAM_BLOCKS))
    records.put(block, store.encode(msgspec.structs.replace(made.changed[keys.parse_block(block)], leaving=True)))
    replica.catch_up()
    assert view.ours == made.writes.keys() - {block}
    known = view.block(keys.parse_block(block)).value
    assert known
    assert known.leaving, "what another wrote is seen"


class Races(RuleBasedStateMachine):
    """Three processes with views of any age, transactions that are delayed, lost or answered late, on few addresses.

    Whatever the order, nobody's address is another's, nothing is held by nobody, and what was answered is so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records = Records(pools.make("a", "10.0.0.0/29", 30, cool_down=0),
                               pools.make("b", "10.1.0.0/31", 31, cool_down=0))
        self.replicas = [Replica(self.records) for _ in range(3)]
        self.flying: list[Plan] = []
        self.held: dict[str, str] = {}

    @initialize()
    def start(self) -> None:
        assert not list(ipam_invariants.violations(self.records.values))

    replica_ = st.integers(0, 2)
    attachment_ = st.integers(0, 11)

    @rule(which=replica_, numbers=st.lists(attachment_, min_size=1, max_size=4), node=st.sampled_from("xyz"))
    def assign(self, which: int, numbers: list[int], node: str) -> None:
        replica = self.replicas[which]
        done, outcomes = replica.once(node, *(Assign(wanted(n, node)) for n in numbers))
        for number, outcome in zip(numbers, outcomes, strict=True):
            if not isinstance(outcome, Granted) or not done:
                continue
            name = identity(number)
            assert self.held.setdefault(name, address(outcome)) == address(outcome), "ADD repeated, another address"

    @rule(which=replica_, numbers=st.lists(attachment_, min_size=1, max_size=4), node=st.sampled_from("xyz"))
    def assign_and_be_lost(self, which: int, numbers: list[int], node: str) -> None:
        """The transaction hangs on its way to etcd; the process gave up and does not know."""
        self.flying.append(plan(self.replicas[which].view, [Assign(wanted(n, node)) for n in numbers]))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        """It gets there after all; nobody is told."""
        made = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        if self.records.commit(made.expect, made.writes):
            for outcome in made.outcomes:
                if isinstance(outcome, Granted):
                    self.held.setdefault(outcome.handle.identity, address(outcome))

    @rule(which=replica_, number=attachment_, node=st.sampled_from("xyz"))
    def release(self, which: int, number: int, node: str) -> None:
        replica, name = self.replicas[which], identity(number)
        for _ in range(2):  # one conflict shows the present state
            done, (outcome,) = replica.once(node, Release(name))
            if done:
                assert isinstance(outcome, Freed)
                assert set(outcome.addresses) == {self.held.pop(name)} if name in self.held else not outcome.addresses
                return

    @rule(which=replica_)
    def catch_up(self, which: int) -> None:
        self.replicas[which].catch_up()

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert list(ipam_invariants.violations(self.records.values)) == []
        assert self.held == {owner: a for a, owner in ipam_invariants.owners(self.records.values).items()}


TestRaces = Races.TestCase


def sums(replica: Replica) -> Iterator[object]:
    for pool in replica.view.pools():
        tally = replica.view.tally(pool.name)
        yield pool.name, tally.used, tally.claimed, set(tally.open), tally.damaged
    yield {node: set(replica.view.open_blocks(node)) for node in "xyz"}


@given(steps=st.lists(st.tuples(st.integers(0, 30), st.sampled_from("xyz"), st.booleans()), max_size=60))
def test_the_sums_that_are_kept_are_those_that_are_counted(steps: list[tuple[int, str, bool]]) -> None:
    """Kept step by step, or made anew from the records: the same."""
    replica = Replica(Records(pools.make("a", "10.0.0.0/27", 29), pools.make("b", "10.1.0.0/31", 31)))
    for number, node, give in steps:
        replica.once(node, Assign(wanted(number, node)) if give else Release(identity(number)))
        if number % 3 == 0:
            replica.catch_up()
    assert list(sums(Replica(replica.records))) == list(sums(replica))
