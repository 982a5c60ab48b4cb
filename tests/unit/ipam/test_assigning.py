"""What can be asked for: both families, specific and sticky addresses, pools; and what limits it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import AlreadyExists, Corrupt, Exhausted, FailedPrecondition, InvalidArgument, MuslinError
from muslin.etcd import keys
from services.ipam import handles, pools, store
from services.ipam.config import Config
from services.ipam.handles import Handle, Request
from services.ipam.outcomes import Freed, Granted, Release, ReleaseExact, Short
from services.ipam.plan import plan
from services.ipam.pools import Pool
from services.ipam.reservations import Reservations
from tests.support import ipam_invariants
from tests.unit.ipam.records import Records, Replica, attachment

FOUR, SIX = pools.make("four", "10.0.0.0/28", 30), pools.make("six", "fd00::/124", 126)


def ask(number: int, node: str = "n1", pod: str = "", **fields: object) -> Request:
    handle = handles.of(attachment(number), node, "ns" if pod else "", pod)
    return Request(handle, **fields)  # type: ignore[arg-type]  # the fields of a request, as the tests need them


def give(replica: Replica, request: Request) -> Handle:
    done, (outcome,) = replica.once(request.handle.node, request)
    assert done
    assert isinstance(outcome, Granted), outcome
    return outcome.handle


def addresses(handle: Handle) -> list[str]:
    return [held.address for held in handle.addresses]


def refused(replica: Replica, request: Request) -> MuslinError:
    _, (outcome,) = replica.once(request.handle.node, request)
    assert isinstance(outcome, Short), outcome
    return outcome.problem


def free(replica: Replica, number: int) -> tuple[str, ...]:
    done, (outcome,) = replica.once("n1", Release(f"net/c{number}/eth0"))
    assert done
    assert isinstance(outcome, Freed)
    return outcome.addresses


def put(replica: Replica, key: str, record: msgspec.Struct) -> None:
    replica.records.put(key, store.encode(record))
    replica.catch_up()


def with_pools(*made: Pool) -> Replica:
    return Replica(Records(*made))


@pytest.fixture
def replica() -> Replica:
    return with_pools(FOUR, SIX)


# Families


def test_one_of_each_family(replica: Replica) -> None:
    four, six = addresses(give(replica, ask(1, families=(4, 6))))
    assert four.startswith("10.0.0.")
    assert six.startswith("fd00::")
    assert free(replica, 1) == (four, six)


def test_both_or_none() -> None:
    replica = with_pools(FOUR, pools.make("six", "fd00::/127", 128))
    for number in range(2):
        give(replica, ask(number, families=(6,)))
    before = replica.records.values
    problem = refused(replica, ask(5, families=(4, 6)))
    assert isinstance(problem, Exhausted)
    assert "IPv6" in problem.message
    assert "2 of 2 addresses in use" in problem.message
    assert before == replica.records.values


def test_a_neighbour_that_fails_costs_nothing(replica: Replica) -> None:
    """In one transaction: the failing one leaves no trace, the others get theirs."""
    made = plan(replica.view, [ask(1), ask(2, addresses=("192.0.2.1",)), ask(3)])
    assert replica.commit(made)
    one, two, three = made.outcomes
    assert isinstance(one, Granted)
    assert isinstance(two, Short)
    assert isinstance(three, Granted)
    assert keys.handle("net", "c2", "eth0") not in replica.records.items


def test_a_defect_met_by_one_request_is_not_its_neighbours(replica: Replica) -> None:
    broken = Request(handles.of(attachment(1), "n1"), addresses=("no address",))
    made = plan(replica.view, [broken, ask(2)])
    assert isinstance(made.outcomes[0], Short)
    assert isinstance(made.outcomes[1], Granted)


def test_an_attachment_that_has_other_addresses_is_told_so(replica: Replica) -> None:
    held, = addresses(give(replica, ask(1)))
    for request in (ask(1, addresses=("10.0.0.15",)), ask(1, families=(4, 6))):
        problem = refused(replica, request)
        assert isinstance(problem, AlreadyExists)
        assert held in problem.message
    assert addresses(give(replica, ask(1, addresses=(held,)))) == [held]


# Specific addresses


def test_a_specific_address(replica: Replica) -> None:
    assert addresses(give(replica, ask(1, addresses=("10.0.0.6",)))) == ["10.0.0.6"]
    assert addresses(give(replica, ask(2, addresses=("fd00::9", "10.0.0.4"), families=(4, 6)))) == [
        "10.0.0.4", "fd00::9"]
    assert ipam_invariants.owners(replica.records.values)["fd00::9"] == "net/c2/eth0"


def test_what_is_passed_over_is_given_later(replica: Replica) -> None:
    give(replica, ask(1, addresses=("10.0.0.7",)))
    rest = [addresses(give(replica, ask(number)))[0] for number in (2, 3, 4)]
    assert sorted(rest) == ["10.0.0.4", "10.0.0.5", "10.0.0.6"]


def test_a_taken_one_says_by_whom(replica: Replica) -> None:
    give(replica, ask(1, addresses=("10.0.0.6",)))
    problem = refused(replica, ask(2, addresses=("10.0.0.6",)))
    assert isinstance(problem, AlreadyExists)
    assert "net/c1/eth0 holds it" in problem.message


@pytest.mark.parametrize(("address", "error", "named"), [
    ("192.0.2.1", InvalidArgument, "in no pool"),
    ("10.9.0.1", InvalidArgument, "disabled"),
    ("10.0.0.3", FailedPrecondition, "reserved by gateway"),
])
def test_one_that_can_not_be_given_says_why(replica: Replica, address: str, error: type[MuslinError],
                                            named: str) -> None:
    put(replica, keys.pool("off"), pools.make("off", "10.9.0.0/24", disabled=True))
    put(replica, keys.IPAM_RESERVATIONS, Reservations({"gateway": ("10.0.0.3/32",)}))
    problem = refused(replica, ask(1, addresses=(address,)))
    assert isinstance(problem, error)
    assert named in problem.message


def test_strict_affinity_keeps_from_others_blocks(replica: Replica) -> None:
    put(replica, keys.IPAM_CONFIG, Config(strict_affinity=True))
    give(replica, ask(1, "n1", addresses=("10.0.0.6",)))
    problem = refused(replica, ask(2, "n2", addresses=("10.0.0.7",)))
    assert isinstance(problem, FailedPrecondition)
    assert "node n1" in problem.message


# Pools


def test_only_the_pools_allowed() -> None:
    replica = with_pools(FOUR, pools.make("other", "10.1.0.0/30", 30))
    assert addresses(give(replica, ask(1, pools={4: ("other",)})))[0].startswith("10.1.0.")
    for number in (2, 3, 4):
        give(replica, ask(number, pools={4: ("other",)}))
    problem = refused(replica, ask(5, pools={4: ("other",)}))
    assert "pool other" in problem.message
    assert "pool four" not in problem.message
    assert addresses(give(replica, ask(5, pools={4: ("other", "four")})))[0].startswith("10.0.0.")


# Reservations


def test_reserved_addresses_are_never_given(replica: Replica) -> None:
    put(replica, keys.IPAM_RESERVATIONS, Reservations({"a": ("10.0.0.0/29",), "b": ("10.0.0.15/32",)}))
    given = [addresses(give(replica, ask(number)))[0] for number in range(7)]
    assert sorted(given) == sorted(f"10.0.0.{n}" for n in range(8, 15))
    assert "9 reserved" in refused(replica, ask(9)).message


def test_a_reservation_made_meanwhile_stops_an_assignment_under_way(replica: Replica) -> None:
    made = plan(replica.view, [ask(1)])
    replica.records.put(keys.IPAM_RESERVATIONS, store.encode(Reservations({"all": ("10.0.0.0/28",)})))
    assert not replica.commit(made)


def test_a_wholly_reserved_pool_is_not_searched() -> None:
    replica = with_pools(pools.make("large", "fd00::/56"))
    put(replica, keys.IPAM_RESERVATIONS, Reservations({"all": ("fd00::/48",)}))
    assert isinstance(refused(replica, ask(1, families=(6,))), Exhausted)


def test_damaged_reservations_stop_new_addresses_only(replica: Replica) -> None:
    held = give(replica, ask(1))
    replica.records.put(keys.IPAM_RESERVATIONS, b"{")
    replica.catch_up()
    assert isinstance(refused(replica, ask(2)), Corrupt)
    assert give(replica, ask(1)) == held


# Limits


def test_a_node_has_no_more_blocks_than_it_may() -> None:
    replica = with_pools(FOUR)
    put(replica, keys.IPAM_CONFIG, Config(max_blocks_per_node=2, strict_affinity=True))
    for number in range(8):
        give(replica, ask(number))
    problem = refused(replica, ask(8))
    assert "node n1 has 2 of at most 2 blocks" in problem.message
    assert "affinity is strict" in problem.message


def test_two_processes_do_not_pass_the_limit_together() -> None:
    replica = with_pools(FOUR, pools.make("other", "10.1.0.0/28", 30))
    put(replica, keys.IPAM_CONFIG, Config(max_blocks_per_node=1, strict_affinity=True))
    other = Replica(replica.records)
    first = plan(replica.view, [ask(1, pools={4: ("four",)})])
    second = plan(other.view, [ask(2, pools={4: ("other",)})])
    assert replica.commit(first)
    assert not other.commit(second)


def test_no_automatic_blocks() -> None:
    replica = with_pools(FOUR)
    put(replica, keys.IPAM_CONFIG, Config(no_automatic_blocks=True))
    assert "no_automatic_blocks" in refused(replica, ask(1)).message


def test_settings_changed_meanwhile_stop_a_loan_under_way() -> None:
    replica = with_pools(pools.make("one", "10.0.0.0/30", 30))
    give(replica, ask(1, "n1"))
    loan = plan(replica.view, [ask(2, "n2")])
    replica.records.put(keys.IPAM_CONFIG, store.encode(Config(strict_affinity=True)))
    assert not replica.commit(loan)


# Cool-down


def cooling() -> tuple[Replica, str]:
    """A full pool of two, of which one address was freed just now."""
    replica = with_pools(pools.make("tiny", "10.0.0.0/31", 31, cool_down=30))
    give(replica, ask(1))
    give(replica, ask(2))
    freed, = free(replica, 1)
    return replica, freed


def test_a_freed_address_cools_down() -> None:
    replica, freed = cooling()
    problem = refused(replica, ask(3))
    assert isinstance(problem, Exhausted)
    assert "1 cooling down (the next is free in 30 s)" in problem.message
    replica.clock.advance(29)
    refused(replica, ask(3))
    replica.clock.advance(1)
    assert addresses(give(replica, ask(3))) == [freed]


@pytest.mark.parametrize("jump", [-3600, -60, 60, 3600])
def test_a_clock_that_is_set_changes_nothing(jump: int) -> None:
    replica, freed = cooling()
    replica.clock.wall += jump * 1000
    replica.clock.advance(29)
    refused(replica, ask(3))
    replica.clock.advance(1)
    assert addresses(give(replica, ask(3))) == [freed]


@given(ahead=st.integers(-3600, 3600), later=st.integers(0, 100_000))
def test_a_start_elsewhere_never_shortens_it(ahead: int, later: int) -> None:
    """Another process, whose clock may be an hour off, starts some time after the release."""
    replica, freed = cooling()
    replica.clock.advance(later)
    other = Replica(replica.records)
    other.clock.wall = replica.clock.wall + ahead * 1000
    other.view.index.ripen()
    block, = other.view.blocks()
    left = other.view.index.cools_until(block, int(freed.rpartition(".")[2]))
    assert left >= 30 - later
    assert left <= 30, "and is never longer than one cool-down from the start"
    if later > 30 + 2 * 3600 + 600:
        assert left == 0, "and it is over long after"


def test_no_cool_down_if_the_pool_has_none() -> None:
    replica = with_pools(pools.make("tiny", "10.0.0.0/32", 32, cool_down=0))
    first = addresses(give(replica, ask(1)))
    free(replica, 1)
    assert addresses(give(replica, ask(2))) == first


def test_a_specific_address_cools_down_for_others_but_not_for_its_pod(replica: Replica) -> None:
    give(replica, ask(1, pod="web-0", addresses=("10.0.0.6",)))
    free(replica, 1)
    problem = refused(replica, ask(2, pod="web-1", addresses=("10.0.0.6",)))
    assert isinstance(problem, Exhausted)
    assert "freed by net/c1/eth0" in problem.message
    assert addresses(give(replica, ask(3, pod="web-0", addresses=("10.0.0.6",)))) == ["10.0.0.6"]


# Sticky addresses


def test_the_pod_that_returns_gets_its_addresses_again(replica: Replica) -> None:
    first = give(replica, ask(1, pod="db-0", families=(4, 6), sticky_seconds=600))
    assert free(replica, 1) == ()
    assert free(replica, 1) == (), "again"
    kept = replica.view.handle("net/c1/eth0").value
    assert kept is not None
    assert kept.kept_until_ms == replica.clock.wall + 600_000
    second = give(replica, ask(2, "n2", pod="db-0", families=(4, 6), sticky_seconds=600))
    assert addresses(second) == addresses(first)
    assert keys.handle("net", "c1", "eth0") not in replica.records.items
    late = plan(replica.view, [ReleaseExact("net/c1/eth0", first.addresses)])
    assert isinstance(late.outcomes[0], Freed)
    assert late.outcomes[0].addresses == (), "the old attachment has no part in them any more"


def test_others_do_not_get_them(replica: Replica) -> None:
    first = addresses(give(replica, ask(1, pod="db-0", sticky_seconds=600)))
    free(replica, 1)
    for number in range(2, 17):
        assert addresses(give(replica, ask(number, pod=f"web-{number}"))) != first
    refused(replica, ask(20))
    assert addresses(give(replica, ask(21, pod="db-0"))) == first


def test_once_the_time_is_up_they_are_freed_for_who_needs_them() -> None:
    replica = with_pools(pools.make("tiny", "10.0.0.0/32", 32))
    first = give(replica, ask(1, pod="db-0", sticky_seconds=60))
    free(replica, 1)
    refused(replica, ask(2))
    replica.clock.advance(61)
    assert addresses(give(replica, ask(2))) == addresses(first)
    assert addresses(first) == [*ipam_invariants.owners(replica.records.values)]


def test_the_same_attachment_may_return_too(replica: Replica) -> None:
    first = give(replica, ask(1, pod="db-0", sticky_seconds=60))
    free(replica, 1)
    again = give(replica, ask(1, pod="db-0", sticky_seconds=60))
    assert addresses(again) == addresses(first)
    assert again.kept_until_ms == 0
    assert again.addresses[0].sequence > first.addresses[0].sequence


def test_kept_addresses_are_freed_when_told_exactly(replica: Replica) -> None:
    first = give(replica, ask(1, pod="db-0", sticky_seconds=60))
    free(replica, 1)
    done, (outcome,) = replica.once("n1", ReleaseExact("net/c1/eth0", first.addresses))
    assert done
    assert outcome == Freed(tuple(addresses(first)))


def test_what_the_pod_wants_differently_is_given_anew_and_the_old_is_freed(replica: Replica) -> None:
    first = addresses(give(replica, ask(1, pod="db-0", families=(4, 6), sticky_seconds=60)))
    free(replica, 1)
    second = addresses(give(replica, ask(2, pod="db-0", addresses=("10.0.0.9",), families=(4,))))
    assert second == ["10.0.0.9"]
    assert not set(first) & set(ipam_invariants.owners(replica.records.values))


# Exact releases


def test_an_exact_release_is_all_or_nothing(replica: Replica) -> None:
    held = give(replica, ask(1, families=(4, 6))).addresses
    for wrong in (held[:1], (held[0], msgspec.structs.replace(held[1], sequence=99)), ()):
        _, (outcome,) = replica.once("n1", ReleaseExact("net/c1/eth0", wrong))
        assert outcome == Freed(()), wrong
    _, (outcome,) = replica.once("n1", ReleaseExact("net/c1/eth0", held))
    assert outcome == Freed(tuple(a.address for a in held))
    assert not ipam_invariants.owners(replica.records.values)


def test_an_address_without_a_handle_is_freed(replica: Replica) -> None:
    held = give(replica, ask(1)).addresses
    replica.records.put(keys.handle("net", "c1", "eth0"), None)
    replica.catch_up()
    _, (outcome,) = replica.once("n1", ReleaseExact("net/c1/eth0", held))
    assert outcome == Freed((held[0].address,))


def test_a_handle_without_an_address_goes(replica: Replica) -> None:
    held = give(replica, ask(1)).addresses
    replica.records.put(keys.block(held[0].block), None)
    replica.catch_up()
    _, (outcome,) = replica.once("n1", ReleaseExact("net/c1/eth0", held))
    assert outcome == Freed(())
    assert keys.handle("net", "c1", "eth0") not in replica.records.items


# Records of before


def test_records_without_the_newer_fields_are_read() -> None:
    records = Records()
    records.put(keys.pool("p"), b'{"name":"p","cidr":"10.0.0.0/29","block_size":30,"disabled":false,"deleting":false}')
    records.put(keys.block("10.0.0.0/30"), b'{"cidr":"10.0.0.0/30","pool":"p","node":"n1","sequence":1,"fresh":1,'
                                           b'"held":{"0":{"handle":"net/c1/eth0","sequence":1}},"released":[]}')
    records.put(keys.handle("net", "c1", "eth0"),
                b'{"network":"net","container_id":"c1","ifname":"eth0","node":"n1","namespace":"","pod":"",'
                b'"addresses":[{"address":"10.0.0.0","block":"10.0.0.0/30","sequence":1}]}')
    replica = Replica(records)
    pool = replica.view.pool("p").value
    assert pool is not None
    assert pool.cool_down == 30
    assert addresses(give(replica, ask(1))) == ["10.0.0.0"]
    assert addresses(give(replica, ask(2))) == ["10.0.0.1"]
    assert free(replica, 1) == ("10.0.0.0",)


@pytest.mark.parametrize("identity", ["", "garbage", "a/b", "a//c", "a/b/c/d"])
def test_what_can_not_be_an_identity_has_no_handle(replica: Replica, identity: str) -> None:
    """A block may name one, however it was damaged."""
    known = replica.view.handle(identity)
    assert (known.value, known.revision) == (None, 0)
