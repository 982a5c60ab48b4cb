"""What a program means, said a second time and plainly, and programs to try it on."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from services.node.attachment import Attachment
from services.node.enforce.program import Action, Endpoint, Group, Kind, Policy, Program, Rule, member
from tests.unit.node.model import FORWARD, INPUT, Packet

# Few values of everything, so that rules meet packets.
V4 = ("10.0.0.1", "10.0.0.2", "10.0.1.1", "172.16.0.9")
V6 = ("fd00::1", "fd00::2", "fd00:1::1")
NETS = ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/23", "10.0.0.2/31", "10.0.1.1/32", "172.16.0.0/12", "::/0", "fd00::/16",
        "fd00::2/127", "fd00:1::/33")
PROTOCOLS = (1, 6, 17, 132)
PORTS = (0, 79, 80, 81, 443, 65535)
INTERFACES = ("mus1", "mus2", "cali3", "other4")
ADDRESSES = {"mus1": ("10.0.0.1",), "mus2": ("10.0.0.2", "fd00::2"), "cali3": ("10.0.1.1",), "other4": ("fd00:1::1",)}
GROUPS = ("g1", "g2")
PORT_GROUPS = ("p1", "p2")
POLICIES = ("t/a", "t/b", "t/c")
PROFILES = ("profile/x", "profile/y")


def attachment(interface: str) -> Attachment:
    return Attachment("net", f"container-{interface}", "eth0")


def subset(values: tuple[str, ...], limit: int = 3) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), unique=True, max_size=limit).map(tuple)


nets = subset(NETS, 2).map(lambda cidrs: tuple(map(ipaddress.ip_network, cidrs)))
ranges = st.lists(st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(lambda p: (min(p), max(p))), max_size=3)
rules = st.builds(
    Rule, st.sampled_from(Action), protocol=st.sampled_from((0, *PROTOCOLS)), peer_group=st.sampled_from(("", *GROUPS)),
    nets=nets, not_nets=nets, ports=ranges.map(tuple), port_group=st.sampled_from(("", "", "", *PORT_GROUPS)))
rule_lists = st.lists(rules, max_size=3).map(tuple)


def group(name: str) -> st.SearchStrategy[Group]:
    if name in GROUPS:
        return subset(V4 + V6).map(lambda m: of(name, Kind.ADDRESS, *m))
    listed = st.lists(st.tuples(st.sampled_from(V4 + V6), st.sampled_from(PROTOCOLS[1:]), st.sampled_from(PORTS)),
                      max_size=3)
    return listed.map(lambda m: of(name, Kind.PORT, *(f"{a},{p},{n}" for a, p, n in m)))


def of(name: str, kind: Kind, *members: str) -> Group:
    return Group(name, kind).altered(frozenset(map(member, members)), frozenset())


def policy(name: str) -> st.SearchStrategy[Policy]:
    return st.builds(Policy, st.just(name), st.just(name), rule_lists, rule_lists)


tiers = st.lists(subset(POLICIES).filter(bool), max_size=2).map(tuple)


def endpoint(interface: str) -> st.SearchStrategy[Endpoint]:
    addresses = tuple(map(ipaddress.ip_address, ADDRESSES[interface]))
    return st.builds(Endpoint, st.just(attachment(interface)), st.just(interface), st.just(addresses), tiers, tiers,
                     subset((*PROFILES, "profile/missing")), st.just(f"ns/{interface}"))


everywhere = (*INTERFACES, "mus9", "eth0")
packets = st.one_of(*(
    st.builds(Packet, st.sampled_from(addresses), st.sampled_from(addresses), st.sampled_from(PROTOCOLS),
              st.sampled_from(PORTS), st.sampled_from(everywhere), st.sampled_from(everywhere),
              st.sampled_from((INPUT, FORWARD)))
    for addresses in (V4, V6)))

only_protocol = st.builds(Rule, st.sampled_from(Action), st.sampled_from((0, 6, 17)))
"""Rules whose match is plain, to try the order of evaluation on."""


def ordered(name: str) -> st.SearchStrategy[Policy]:
    rules = st.lists(only_protocol, max_size=2).map(tuple)
    return st.builds(Policy, st.just(name), st.just(name), rules, rules)


def contains(group: Group, packed: bytes) -> bool:
    return packed in group.ipv4 | group.ipv6


def rule_matches(rule: Rule, program: Program, packet: Packet, ingress: bool) -> bool:
    peer = ipaddress.ip_address(packet.source if ingress else packet.destination)
    if rule.protocol and packet.protocol != rule.protocol:
        return False
    if rule.ports and not (packet.protocol in (6, 17, 132) and any(a <= packet.port <= b for a, b in rule.ports)):
        return False
    if rule.nets and not any(peer in net for net in rule.nets):
        return False
    if any(peer in net for net in rule.not_nets):
        return False
    if rule.peer_group and not contains(program.groups[rule.peer_group], peer.packed):
        return False
    named = member(f"{packet.destination},{packet.protocol},{packet.port}")
    return not (rule.port_group and not contains(program.groups[rule.port_group], named))


def decides(policy: Policy, program: Program, packet: Packet, ingress: bool) -> Action | None:
    for rule in policy.ingress if ingress else policy.egress:
        if rule.action is not Action.LOG and rule_matches(rule, program, packet, ingress):
            return rule.action
    return None


def endpoint_allows(endpoint: Endpoint, program: Program, packet: Packet, ingress: bool) -> bool:
    for tier in endpoint.ingress if ingress else endpoint.egress:
        verdict = next((v for name in tier if (v := decides(program.policies[name], program, packet, ingress))), None)
        if verdict is not Action.PASS:
            return verdict is Action.ALLOW
    for name in endpoint.profiles:
        if name not in program.policies:
            return False
        verdict = decides(program.policies[name], program, packet, ingress)
        if verdict is not None:
            return verdict is Action.ALLOW
    return False


def allows(program: Program, claims: dict[Attachment, str], packet: Packet) -> bool:
    """Policy of the sender, then of the receiver; what looks like a workload and is not known is dropped."""
    known = {e.interface: e for e in program.endpoints.values() if claims.get(e.attachment) == e.interface}
    sender = known.get(packet.incoming)
    if sender is not None:
        if ipaddress.ip_address(packet.source) not in sender.addresses:
            return False
        if not endpoint_allows(sender, program, packet, ingress=False):
            return False
    elif packet.incoming.startswith(("mus", "cali")):
        return False
    if packet.hook != FORWARD:
        return True
    receiver = known.get(packet.outgoing)
    if receiver is not None:
        return endpoint_allows(receiver, program, packet, ingress=True)
    return not packet.outgoing.startswith(("mus", "cali"))
