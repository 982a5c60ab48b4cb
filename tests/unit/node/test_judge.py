"""Connections that are judged without the kernel: as it would, and no forbidden one is overlooked."""

from __future__ import annotations

import ipaddress
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from services.node.enforce.judge import Flow, Judge
from services.node.enforce.narrowing import everything, narrowed
from services.node.enforce.parts import Owner
from services.node.enforce.program import OutOfSync, Update
from services.node.enforce.state import Claim, Event, State, applied
from tests.unit.node import oracle
from tests.unit.node.model import Packet
from tests.unit.node.test_enforce import claimed, deltas, pod, rendered, run, snapshot
from tests.unit.node.test_enforce import everything as programs

OWNERS = {address: interface for interface, addresses in oracle.ADDRESSES.items() for address in addresses}
"""Interface of each endpoint's address; all others are behind the uplink."""


def flow(packet: Packet) -> Flow:
    source, destination = (ipaddress.ip_address(each).packed for each in (packet.source, packet.destination))
    return Flow(source, destination, packet.protocol, packet.port if packet.protocol != 1 else -1)


def packets(state: State) -> list[Packet]:
    """One of each kind, by the interfaces that routes would have."""
    known = {each.interface for attachment in state.stages if (each := state.endpoint(attachment))}
    there = {address: name if name in known else "eth0" for address, name in OWNERS.items()}
    return [Packet(source, destination, protocol, port, there.get(source, "eth0"), there.get(destination, "eth0"))
            for addresses in (oracle.V4, oracle.V6) for source, destination in itertools.permutations(addresses, 2)
            for protocol in oracle.PROTOCOLS for port in (0, 80, 443)]


@given(programs, claimed)
@settings(max_examples=30, deadline=None)
def test_it_judges_as_the_table_does(update: Update, claims: list[Claim]) -> None:
    """Every kind of rule, tier and profile; interpreted from the table's bytes."""
    state = run([*claims, update])
    table, judge = rendered(state), Judge(state, frozenset())
    for packet in packets(state):
        assert judge.allows(flow(packet)) == table.allows(packet), packet


def test_the_host_is_let_in_and_no_other() -> None:
    host = "172.16.0.9"
    state = run([Claim(oracle.attachment("mus1"), "mus1"), snapshot([], [], [pod("mus1", "10.0.0.1")])])
    inward = flow(Packet(host, "10.0.0.1"))
    assert Judge(state, frozenset({ipaddress.ip_address(host).packed})).allows(inward)
    assert not Judge(state, frozenset()).allows(inward)


@given(programs, claimed, st.lists(deltas, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_a_change_forbids_is_in_its_scope(first: Update, claims: list[Claim], events: list[Event]) -> None:
    """An address of every connection that was allowed and is not any more, whatever changed."""
    old = run([*claims, first])
    new = old
    owners: frozenset[Owner] = frozenset()
    for event in events:
        try:
            new, changed = applied(new, event)
        except OutOfSync:
            continue
        owners |= changed
    before, after = Judge(old, frozenset()), Judge(new, frozenset())
    scope = narrowed(old, new, owners)
    for packet in packets(old):
        asked = flow(packet)
        if before.allows(asked) and not after.allows(asked):
            assert not (scope.judged | scope.gone).isdisjoint(asked[:2]), packet
    assert everything(old, new).gone >= scope.gone - everything(old, new).judged
