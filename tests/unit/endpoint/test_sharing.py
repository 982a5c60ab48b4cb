"""Networks that share an interface: each joins once, leaves what it brought, and the first one's stays first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muslin.etcd import KeyValue
from services.endpoint import codec, sharing
from services.endpoint.records import WorkloadEndpoint

OWN = WorkloadEndpoint("blue", "c1", "eth0", "n", "cni", "c1", profiles=("blue",))
STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(["red", "green", "black"])), max_size=12)


@given(STEPS)
def test_joining_and_leaving(steps: list[tuple[bool, str]]) -> None:
    """The profiles are the first network's and, in the order of joining, those of who is in."""
    record, members = OWN, list[str]()
    for joins, network in steps:
        if joins:
            record = sharing.joined(record, network)
            members += [network] if network not in members else []
        else:
            record = sharing.left(record, network)
            members = [name for name in members if name != network]
        assert record.profiles == ("blue", *members)
        assert record.joined == tuple(members)
        stored = KeyValue(codec.key_of(record), codec.encode(record), 1, 1)
        assert sharing.kept(OWN, stored) == record, "made anew, it has them still"


def test_the_first_network_does_not_leave_its_own_record() -> None:
    assert sharing.left(OWN, "blue") == OWN


def test_a_record_that_is_damaged_or_gone_has_no_others() -> None:
    assert sharing.kept(OWN, None) == OWN
    assert sharing.kept(OWN, KeyValue(codec.key_of(OWN), b"{", 1, 1)) == OWN


def test_what_an_interface_s_key_says() -> None:
    item = KeyValue("/muslin/endpoint/v1/interfaces/c1/eth0", sharing.claim("blue"), 1, 1)
    assert sharing.first_of(item) == "blue"
    assert sharing.first_of(None) == ""
