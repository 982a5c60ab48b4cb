"""Rendering: the table means what the program means, however it came about."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muslin.errors import Corrupt
from services.node.attachment import Attachment
from services.node.enforce import names, table
from services.node.enforce.parts import Owner
from services.node.enforce.program import (
    Action,
    Endpoint,
    Group,
    Kind,
    OutOfSync,
    Policy,
    Program,
    Rule,
    Update,
    member,
)
from services.node.enforce.state import Claim, Event, Release, State, applied
from services.node.nft.messages import Message
from tests.unit.node import oracle
from tests.unit.node.model import INPUT, Packet, Table

PREFIXES = ("cali", "mus")


def run(events: Iterable[Event], state: State | None = None) -> State:
    state = state or State()
    for event in events:
        state, _ = applied(state, event)
    return state


def rendered(state: State) -> Table:
    made = Table()
    made.commit(table.replacement(state.parts.values(), PREFIXES))
    return made


def snapshot(groups: Iterable[Group], policies: Iterable[Policy], endpoints: Iterable[Endpoint]) -> Update:
    return Update(1, snapshot=True, groups=tuple(groups), policies=tuple(policies), endpoints=tuple(endpoints))


def pod(name: str, *addresses: str, **more: object) -> Endpoint:
    return Endpoint(oracle.attachment(name), name, tuple(map(ipaddress.ip_address, addresses)), **more)  # type: ignore[arg-type]  # keywords of the dataclass


everything = st.builds(
    snapshot, st.tuples(*map(oracle.group, oracle.GROUPS + oracle.PORT_GROUPS)),
    st.tuples(*map(oracle.policy, oracle.POLICIES + oracle.PROFILES)),
    st.lists(st.sampled_from(oracle.INTERFACES), unique=True).flatmap(
        lambda chosen: st.tuples(*map(oracle.endpoint, chosen))))
claimed = st.lists(st.sampled_from(oracle.INTERFACES), unique=True).map(
    lambda chosen: [Claim(oracle.attachment(i), i) for i in chosen])


@given(everything, claimed, st.lists(oracle.packets, min_size=1, max_size=20))
@settings(max_examples=100)
def test_the_table_judges_packets_as_the_program_says(update: Update, claims: list[Claim],
                                                      packets: list[Packet]) -> None:
    """Every action, tier, profile, group, net, port range and family, interpreted from the bytes."""
    state = run([*claims, update])
    made = rendered(state)
    for packet in packets:
        expected = oracle.allows(state.program, dict(state.claims), packet)
        assert made.allows(packet) == expected, packet


ALLOW = Policy("profile/x", "x", (Rule(Action.ALLOW),), (Rule(Action.ALLOW),))


@given(st.tuples(*map(oracle.group, oracle.GROUPS + oracle.PORT_GROUPS)), oracle.rules, st.booleans())
def test_a_rule_matches_what_it_says(groups: tuple[Group, ...], rule: Rule, ingress: bool) -> None:
    """All kinds of packets, to or from one endpoint with one policy of one rule; only the rule decides."""
    rule = dataclasses.replace(rule, action=Action.ALLOW)
    policy = Policy("t/a", "a", *(((rule,), ()) if ingress else ((), (rule,))))
    addresses = oracle.V4 + oracle.V6
    one = pod("mus1", *addresses, **{"ingress" if ingress else "egress": (("t/a",),)})
    state = run([Claim(one.attachment, "mus1"), snapshot(groups, [policy], [one])])
    made = rendered(state)
    for own, peer in itertools.product(("10.0.0.1", "fd00::2"), addresses):
        if (":" in own) != (":" in peer):
            continue
        ends = ((peer, own), ("eth0", "mus1")) if ingress else ((own, peer), ("mus1", "eth0"))
        for protocol, port in itertools.product(oracle.PROTOCOLS, oracle.PORTS):
            packet = Packet(*ends[0], protocol, port, *ends[1])
            assert made.allows(packet) == oracle.rule_matches(rule, state.program, packet, ingress), packet


@given(st.tuples(*map(oracle.ordered, oracle.POLICIES + oracle.PROFILES)),
       st.tuples(*map(oracle.endpoint, ("mus1", "cali3"))))
@settings(max_examples=200)
def test_tiers_policies_and_profiles_are_asked_in_order(policies: tuple[Policy, ...],
                                                        endpoints: tuple[Endpoint, ...]) -> None:
    """Pass through tiers and profiles, the end of a tier, missing profiles; both ends of a flow on one node."""
    state = run([*(Claim(e.attachment, e.interface) for e in endpoints), snapshot([], policies, endpoints)])
    made = rendered(state)
    for incoming, source in (("mus1", "10.0.0.1"), ("cali3", "10.0.1.1"), ("eth0", "172.16.0.9")):
        for outgoing in ("mus1", "cali3", "eth0"):
            for protocol in (1, 6, 17):
                packet = Packet(source, "10.0.0.2", protocol, 80, incoming, outgoing)
                assert made.allows(packet) == oracle.allows(state.program, dict(state.claims), packet), packet


removable = st.sampled_from(oracle.INTERFACES).map(oracle.attachment)
deltas = st.one_of(
    st.builds(lambda g: Update(2, groups=(g,)),
              st.sampled_from(oracle.GROUPS + oracle.PORT_GROUPS).flatmap(oracle.group)),
    st.builds(lambda name, plus, minus: Update(2, members=((name, plus, minus),)), st.sampled_from(oracle.GROUPS),
              *(oracle.subset(oracle.V4 + oracle.V6).map(lambda m: frozenset(map(member, m))) for _ in range(2))),
    st.builds(lambda p: Update(2, policies=(p,)),
              st.sampled_from(oracle.POLICIES + oracle.PROFILES).flatmap(oracle.policy)),
    st.builds(lambda e: Update(2, endpoints=(e,)), st.sampled_from(oracle.INTERFACES).flatmap(oracle.endpoint)),
    st.builds(lambda a: Update(2, removed_endpoints=(a,)), removable),
    st.builds(lambda p: Update(2, removed_policies=p), oracle.subset(oracle.PROFILES + oracle.POLICIES, 1)),
    st.builds(lambda g: Update(2, removed_groups=g), oracle.subset(oracle.GROUPS, 1)),
    st.builds(lambda i: Claim(oracle.attachment(i), i), st.sampled_from(oracle.INTERFACES)),
    st.builds(Claim, removable, st.sampled_from(oracle.INTERFACES)),
    st.builds(Release, removable),
    everything,
)


@given(everything, claimed, everything)
@settings(max_examples=50)
def test_a_table_that_is_read_back_is_repaired(before: Update, claims: list[Claim], update: Update) -> None:
    """Whatever an earlier run left, the result is the table that would be made anew."""
    old, new = run([*claims, before]), run([*claims[1:], update])
    kept = rendered(old)
    for messages in table.repair(kept.read(), new.parts.values(), PREFIXES):
        kept.commit(messages)
    assert kept.content() == rendered(new).content()


@given(everything, st.lists(deltas, max_size=12))
@settings(max_examples=100)
def test_differences_lead_to_the_same_table_as_a_whole_rendering(first: Update, events: list[Event]) -> None:
    """A table kept by transactions of differences equals one made anew; no transaction is refused on the way."""
    state = run([Claim(oracle.attachment("mus1"), "mus1"), Claim(oracle.attachment("mus2"), "mus2"), first])
    kept = rendered(state)
    for event in events:
        try:
            after, changed = applied(state, event)
        except OutOfSync:
            continue
        *first_of_two, last = changes(state, after, changed) or [[]]
        for messages in first_of_two:
            before = kept.verdicts()
            kept.commit(messages)
            assert kept.verdicts() == before, "what is added beforehand changes nothing yet"
        there = set(kept.chains)
        kept.commit(last)
        assert kept.led_to() <= there, "a packet under way would find a chain without rules"
        state = after
        program = state.program
        anew = run([*(Claim(a, i) for a, i in state.claims.items()),
                    snapshot(program.groups.values(), program.policies.values(), program.endpoints.values())])
        assert dict(state.parts) == dict(anew.parts)
        assert kept.content() == rendered(anew).content()


def changes(old: State, new: State, owners: Iterable[Owner]) -> list[list[Message]]:
    owners = list(owners)
    return table.transition((old.parts[o] for o in owners if o in old.parts),
                            (new.parts[o] for o in owners if o in new.parts))


def test_a_delta_is_minimal() -> None:
    """One member more is one message; a pod more that shares its stages is a few elements and no rule."""
    web = Group("g1", Kind.ADDRESS)
    state = run([Claim(oracle.attachment("mus1"), "mus1"),
                 snapshot([web], [ALLOW], [pod("mus1", "10.0.0.1", profiles=("profile/x",))])])

    def whats(before: State, event: Event) -> tuple[State, list[str]]:
        after, changed = applied(before, event)
        return after, [m.what for messages in changes(before, after, changed) for m in messages]

    state, said = whats(state, Update(2, members=(("g1", frozenset({member("10.0.0.9")}), frozenset()),)))
    assert said == [f"add elements to {names.group_set('g1', 'address', 4)}"]
    state, said = whats(state, Update(3, endpoints=(pod("mus2", "10.0.0.2", profiles=("profile/x",)),)))
    assert said == [], "not wired here: nothing to enforce"
    state, said = whats(state, Claim(oracle.attachment("mus2"), "mus2"))
    assert said == ["add elements to from_pod", "add elements to to_pod", "add elements to sources4"]
    state, said = whats(state, Release(oracle.attachment("mus2")))
    assert said == ["delete elements of from_pod", "delete elements of to_pod", "delete elements of sources4"]


def test_an_update_that_changes_nothing_is_no_transaction() -> None:
    update = snapshot([], [ALLOW], [pod("mus1", "10.0.0.1", profiles=("profile/x",))])
    state = run([Claim(oracle.attachment("mus1"), "mus1"), update])
    assert applied(state, update)[1] == frozenset()


def test_the_last_claim_of_an_interface_counts() -> None:
    """A new container of the same pod has the same interface; the old one's record must not rule it."""
    old, new = (Attachment("net", container, "eth0") for container in ("old", "new"))
    open_, closed = (dataclasses.replace(pod("mus1", "10.0.0.1"), attachment=a, profiles=p)
                     for a, p in ((old, ("profile/x",)), (new, ())))
    packet = Packet("10.0.0.1", "10.9.9.9", incoming="mus1")
    state = run([Claim(old, "mus1"), snapshot([], [ALLOW], [open_, closed])])
    assert rendered(state).allows(packet)
    state = run([Claim(new, "mus1")], state)
    assert not rendered(state).allows(packet)
    assert state.endpoint(old) is None
    # A late release of the old one leaves the new one alone.
    assert run([Release(old)], state).endpoint(new) is not None


@pytest.mark.parametrize("update", [
    Update(2, members=(("nowhere", frozenset(), frozenset()),)),
    Update(2, policies=(Policy("t/z", ingress=(Rule(Action.ALLOW, peer_group="nowhere"),)),)),
    Update(2, endpoints=(pod("mus1", "10.0.0.1", ingress=(("t/nowhere",),)),)),
    Update(2, removed_groups=("g1",)),
    Update(2, removed_policies=("t/a",)),
])
def test_a_message_that_does_not_fit_is_refused_whole(update: Update) -> None:
    """The node then asks for a snapshot."""
    using = Policy("t/a", ingress=(Rule(Action.ALLOW, peer_group="g1"),))
    state = run([snapshot([Group("g1", Kind.ADDRESS)], [using], [pod("mus2", "10.0.0.2", ingress=(("t/a",),))])])
    before = dict(state.parts)
    with pytest.raises(OutOfSync):
        applied(state, update)
    assert dict(state.parts) == before


@pytest.mark.parametrize(("packet", "expected"), [
    (Packet("10.0.0.1", "10.9.9.9", incoming="mus1"), True),
    (Packet("10.0.0.2", "10.9.9.9", incoming="mus1"), False),
    (Packet("fd00::1", "fd00::9", incoming="mus1"), False),
    (Packet("fe80::1", "fd00::9", incoming="mus1", hook=INPUT), False),
    (Packet("fe80::1", "ff02::1:ff00:9", 58, incoming="mus1", hook=INPUT), False),  # an echo request, or such
    (Packet("10.0.0.2", "10.9.9.9", incoming="mus1", hook=INPUT), False),
    (Packet("10.0.0.1", "127.0.0.1", incoming="mus1", hook=INPUT), False),
    (Packet("10.0.0.2", "10.9.9.9", incoming="mus2"), False),  # claimed, and in no program
    (Packet("10.9.9.9", "10.0.0.1", outgoing="cali9"), False),
    (Packet("10.9.9.9", "10.8.8.8"), True),  # none of our business
    (Packet("10.9.9.9", "127.0.0.1", hook=INPUT), True),
])
def test_what_no_policy_may_let_through(packet: Packet, *, expected: bool) -> None:
    """Sources that are not its own, the host's loopback, interfaces that no program knows; with all else allowed."""
    state = run([Claim(oracle.attachment("mus1"), "mus1"), Claim(oracle.attachment("mus2"), "mus2"),
                 snapshot([], [ALLOW], [pod("mus1", "10.0.0.1", profiles=("profile/x",))])])
    assert rendered(state).allows(packet) is expected


def test_a_named_port_is_no_member_of_a_group_of_addresses() -> None:
    with pytest.raises(Corrupt, match="g1"):
        Program(groups={"g1": Group("g1", Kind.ADDRESS)}).updated(
            Update(2, members=(("g1", frozenset({member("10.0.0.1,6,80")}), frozenset()),)))


def test_a_large_group_takes_several_messages() -> None:
    """An attribute's length has 16 bits."""
    members = frozenset(i.to_bytes(4, "big") for i in range(20_000))
    state = run([snapshot([Group("big", Kind.ADDRESS, members)], [], [])])
    messages = table.replacement(state.parts.values(), PREFIXES)
    assert sum("add elements" in m.what for m in messages) > 1
    made = Table()
    made.commit(messages)
    assert made.sets[names.group_set("big", "address", 4)].keys.keys() == members
