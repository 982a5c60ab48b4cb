"""What `muslin policy lint` takes for implied is implied: for any labels, and for any packet."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muslin.cli.policy.shadow import covers, implies
from muslin.selectors import All, And, Comparison, Has, Membership, Not, Or, Selector, parse
from services.policy.model import Action, PortRange, Rule

KEYS, VALUES = st.sampled_from("ab"), st.sampled_from("xyz")
LABELS = st.dictionaries(KEYS, VALUES)
TERMS: st.SearchStrategy[Selector] = st.one_of(
    st.just(All()), KEYS.map(Has), st.builds(Comparison, KEYS, st.sampled_from(["==", "!="]), VALUES),
    st.builds(Membership, KEYS, st.lists(VALUES, max_size=3).map(tuple), st.booleans()))


def combined(inner: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(inner.map(Not), several.map(And), several.map(Or))


SELECTORS = st.recursive(TERMS, combined, max_leaves=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(SELECTORS, min_size=1, max_size=4), st.lists(LABELS, min_size=1, max_size=12))
def test_what_implies_selects_no_less(some: list[Selector], many: list[dict[str, str]]) -> None:
    every = [*some, *(And((some[0], other)) for other in some), *(Or((some[0], other)) for other in some)]
    for narrow, wide in product(every, every):
        if implies(narrow, wide):
            assert all(wide.matches(labels) for labels in many if narrow.matches(labels)), f"{narrow} => {wide}"


@pytest.mark.parametrize(("narrow", "wide"), [
    ("a == 'x'", "all()"), ("a == 'x'", "has(a)"), ("a == 'x'", "a in {'x', 'y'}"), ("a == 'x'", "a != 'y'"),
    ("a == 'x' && b == 'y'", "b == 'y'"), ("a in {'x', 'y'}", "a not in {'z'}"), ("b == 'y' && a == 'x'",
                                                                                   "a == 'x' && b == 'y'"),
    ("a == 'x' || a == 'y'", "has(a)"), ("a == 'x'", "b == 'y' || has(a)"), ("!has(a)", "!has(a)"),
])
def test_what_is_found(narrow: str, wide: str) -> None:
    assert implies(parse(narrow), parse(wide))


NETS = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "192.168.0.0/16"])
PORTS = st.tuples(st.integers(1, 6), st.integers(0, 3)).map(lambda both: PortRange(both[0], sum(both)))
PEERS = st.one_of(
    st.builds(dict, peer=st.one_of(st.none(), TERMS)),
    st.builds(lambda nets, holes: {"nets": nets, "not_nets": holes}, st.lists(NETS, max_size=2).map(tuple),
              st.lists(NETS, max_size=2).map(tuple)))
RULES = st.builds(
    lambda peer, protocol, ports, names: Rule(Action.ALLOW, "", protocol, ports=ports if protocol else (),
                                              port_names=names if protocol else (), **peer),
    PEERS, st.sampled_from([0, 6, 17]), st.lists(PORTS, max_size=2).map(tuple),
    st.lists(st.sampled_from("pq"), max_size=2).map(tuple))
PACKETS = st.tuples(st.sampled_from(["10.1.2.3", "10.1.9.9", "10.200.0.1", "192.168.7.7", "8.8.8.8"]), LABELS,
                    st.sampled_from([6, 17, 132]), st.integers(1, 9), st.sampled_from(["", "p", "q"]))
Packet = tuple[str, dict[str, str], int, int, str]


def matches(rule: Rule, packet: Packet) -> bool:
    """The definition in services.policy.model, read once more; the port has the name that is given, or none."""
    address, labels, protocol, port, name = packet
    ip = ipaddress.ip_address(address)
    within = [any(ip in ipaddress.ip_network(net) for net in nets) for nets in (rule.nets, rule.not_nets)]
    ported = (any(first <= port <= last for first, last in rule.ports) or name in rule.port_names
              or not (rule.ports or rule.port_names))
    return (rule.protocol in (0, protocol) and (rule.peer is None or rule.peer.matches(labels))
            and (not rule.nets or within[0]) and not within[1] and ported)


@settings(max_examples=60, deadline=None)
@given(st.lists(RULES, min_size=1, max_size=6), st.lists(PACKETS, min_size=1, max_size=20))
def test_what_is_covered_matches_no_more(rules: list[Rule], packets: list[Packet]) -> None:
    every = [*rules, *(replace(rule, ports=rule.ports[:1], port_names=()) for rule in rules if rule.ports)]
    for earlier, later in product(every, every):
        if covers(earlier, later):
            assert all(matches(earlier, packet) for packet in packets if matches(later, packet)), (earlier, later)


def test_an_equal_rule_and_a_smaller_one_are_covered() -> None:
    wide = Rule(Action.ALLOW, "", 6, nets=("10.0.0.0/8",), not_nets=("10.9.0.0/16",), ports=(PortRange(1, 100),))
    assert covers(wide, wide)
    assert covers(wide, Rule(Action.DENY, "", 6, nets=("10.1.0.0/16",), ports=(PortRange(80, 80),)))
    assert not covers(wide, Rule(Action.ALLOW, "", 6, nets=("10.0.0.0/8",), ports=(PortRange(80, 80),))), "the hole"
    assert not covers(wide, Rule(Action.ALLOW, "", 6, nets=("10.1.0.0/16",), ports=(PortRange(80, 101),)))
