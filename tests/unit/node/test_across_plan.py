"""How other nodes are reached: every mode, both families, and what can not be reached."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node.across.plan import Encapsulation, Host, Own, Plan, Pool, Route, Step, mac_of, plan
from services.node.netlink.network import IPAddress, IPNetwork
from services.node.netlink.ways import Kind

V4, V6 = ipaddress.ip_network("10.9.0.0/16"), ipaddress.ip_network("fd09::/48")


def net(text: str) -> IPNetwork:
    return ipaddress.ip_network(text)


def addresses(*texts: str) -> Mapping[int, IPAddress]:
    return {address.version: address for address in map(ipaddress.ip_address, texts)}


OWN = addresses("192.0.2.1", "2001:db8::1")
NEAR = Host("near", addresses("192.0.2.2", "2001:db8::2"))
FAR = Host("far", addresses("198.51.100.3", "2001:db8:1::3"))
ON_LINK = dict.fromkeys(NEAR.addresses.values(), 7)
HOSTS = {host.node: host for host in (NEAR, FAR)}


def planned(mode: Encapsulation | None, *routes: Route, own: Mapping[int, IPAddress] = OWN,
            default: Encapsulation = Encapsulation.NONE, hosts: Mapping[str, Host] = HOSTS,
            dead: tuple[str, ...] = ()) -> Plan:
    pools = [Pool("p", V4, mode), Pool("q", V6, mode)]
    return plan(Own("self", own, default), hosts, routes, pools, ON_LINK, dead)


def to(node: str, cidr: str = "10.9.1.0/26") -> Route:
    return Route(net(cidr), node, "p" if "." in cidr else "q")


@pytest.mark.parametrize("cidr", ["10.9.1.0/26", "fd09::40/122"])
def test_a_node_on_our_link_is_the_next_hop_itself(cidr: str) -> None:
    version = net(cidr).version
    for mode in (Encapsulation.NONE, Encapsulation.CROSS_SUBNET):
        made = planned(mode, to("near", cidr))
        assert made.steps == {net(cidr): Step(Kind.FORWARD, NEAR.addresses[version], 7)}
        assert not {step.gateway for step in made.steps.values()} & gateways(made)
        assert not made.problems


def gateways(made: Plan) -> set[IPAddress]:
    return {gateway for peer in made.peers for gateway in peer.gateways}


def test_pods_answer_hosts_the_way_that_those_ask() -> None:
    """In VXLAN where packets to that host's pods would go in it, whether it has any or not."""
    made = planned(Encapsulation.VXLAN)
    assert {host.addresses[version] for host in (NEAR, FAR) for version in (4, 6)} == {
        network.network_address for network in made.back[Encapsulation.VXLAN]}
    assert made.pools == {V4: Encapsulation.VXLAN, V6: Encapsulation.VXLAN}
    made = planned(Encapsulation.CROSS_SUBNET)
    assert {*FAR.addresses.values()} == {network.network_address for network in made.back[Encapsulation.CROSS_SUBNET]}
    assert {step.gateway for steps in made.back.values() for step in steps.values()} <= gateways(made)
    assert planned(Encapsulation.CROSS_SUBNET, dead=("far",)).back == {Encapsulation.CROSS_SUBNET: {}}
    made = planned(Encapsulation.NONE)
    assert (made.back, made.pools, made.peers, made.tunnel) == ({}, {}, frozenset(), False)


def test_before_a_pool_is_known_the_node_is_taken_at_its_word() -> None:
    """A pod that is added then must not get packets of a size that VXLAN has no room for."""
    for mode in Encapsulation:
        made = plan(Own("self", OWN, mode), HOSTS, (), (), ON_LINK)
        assert made.tunnel == (mode is not Encapsulation.NONE)


@pytest.mark.parametrize("cidr", ["10.9.1.0/26", "fd09::40/122"])
def test_a_node_beyond_a_router_is_reached_in_vxlan(cidr: str) -> None:
    """The gateway is one that VXLAN's device knows the MAC address of, and the outer packets are IPv4's."""
    made = planned(Encapsulation.CROSS_SUBNET, to("far", cidr), to("near", "10.9.2.0/26"))
    step, = (step for network, step in made.steps.items() if network == net(cidr))
    peer, = made.peers
    assert (step.kind, step.link) == (Kind.FORWARD, 0)
    assert step.gateway in peer.gateways
    assert step.gateway is not None
    assert step.gateway.version == net(cidr).version
    assert (peer.mac, peer.remote) == (mac_of("far"), FAR.addresses[4])
    assert made.tunnel


def test_with_none_what_no_link_leads_to_is_left_to_routers_and_said() -> None:
    made = planned(Encapsulation.NONE, to("far"))
    assert not made.steps
    assert "node far" in made.problems[0]
    assert "cross-subnet" in made.problems[0]


def test_a_pool_that_says_nothing_goes_by_the_node() -> None:
    assert planned(None, to("near"), default=Encapsulation.VXLAN).peers
    assert not planned(None, to("near")).peers
    assert not planned(Encapsulation.NONE, to("near"), default=Encapsulation.VXLAN).peers


def test_vxlan_of_nodes_that_have_ipv6_only() -> None:
    """IPv4 pods, too: their gateway is of the other family."""
    host = Host("six", addresses("2001:db8::2"))
    made = planned(Encapsulation.VXLAN, to("six"), own=addresses("2001:db8::1"), hosts={"six": host})
    peer, = made.peers
    assert peer.remote == host.addresses[6]
    assert made.steps[net("10.9.1.0/26")] == Step(Kind.FORWARD, next(iter(peer.gateways)))


def test_what_is_our_own_leads_nowhere_but_to_our_pods() -> None:
    """A pod's own route has a longer prefix, or a lower metric."""
    made = planned(Encapsulation.VXLAN, to("self"), to("self", "10.9.7.1/32"))
    assert set(made.steps.values()) == {Step(Kind.BLACKHOLE)}
    assert len(made.steps) == 2


@pytest.mark.parametrize("case", ["unknown", "no address", "dead", "other family"])
def test_what_can_not_be_reached_is_refused_and_not_sent_to_the_default_route(case: str) -> None:
    hosts = {"unknown": {}, "no address": {"near": Host("near", {})}, "dead": HOSTS,
             "other family": {"near": Host("near", addresses("2001:db8::2"))}}[case]
    mode = Encapsulation.VXLAN if case == "other family" else Encapsulation.NONE
    made = planned(mode, to("near"), hosts=hosts, dead=("near",) if case == "dead" else ())
    assert made.steps == {net("10.9.1.0/26"): Step(Kind.UNREACHABLE)}
    assert "node near" in made.problems[0]
    assert not made.peers


@given(st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=50))
def test_macs_are_of_hosts_and_differ(nodes: list[str]) -> None:
    macs = {mac_of(node) for node in nodes}
    assert len(macs) == len(nodes)
    assert all(int(mac[:2], 16) & 0x03 == 0x02 for mac in macs)  # locally administered, and not multicast


@given(st.data())
def test_every_way_of_vxlan_has_a_peer_and_every_peer_a_way(data: st.DataObject) -> None:
    """A gateway nobody has told the device of would have to be asked for, and nobody answers."""
    names = ["self", "near", "far", "unknown"]
    routes = [Route(net(f"10.9.{number}.0/26"), data.draw(st.sampled_from(names)), data.draw(st.sampled_from("pq")))
              for number in range(data.draw(st.integers(0, 8)))]
    made = planned(data.draw(st.sampled_from([None, *Encapsulation])), *routes,
                   default=data.draw(st.sampled_from(list(Encapsulation))),
                   dead=tuple(data.draw(st.sets(st.sampled_from(["near", "far"])))))
    steps = [*made.steps.values(), *(step for back in made.back.values() for step in back.values())]
    tunnelled = {step.gateway for step in steps if step.kind is Kind.FORWARD and not step.link}
    assert tunnelled <= {gateway for peer in made.peers for gateway in peer.gateways}
    assert all(tunnelled & peer.gateways for peer in made.peers)
    assert made.tunnel or not made.peers
