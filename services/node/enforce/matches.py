"""From a policy's rule to nf_tables rules.

A rule that says nothing about addresses is one nf_tables rule for both families. One that does becomes a rule for
each family in which it can match: an address of the other family is in no group, no net and no excluded net.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from services.node.enforce.drops import LOG_BURST, LOG_RATE, log_prefix
from services.node.enforce.names import Direction, group_set
from services.node.enforce.program import Action, Group, IPNetwork, Rule
from services.node.nft import expressions as x
from services.node.nft.expressions import Part

TCP, UDP, SCTP = 6, 17, 132
WITH_PORTS = frozenset({TCP, UDP, 33, SCTP, 136})
"""Protocols whose header begins with source and destination port; DCCP and UDP-Lite beside the three of Kubernetes."""

_NFPROTO = {4: b"\x02", 6: b"\x0a"}
_ADDRESS_KEY = {4: x.IPV4, 6: x.IPV6}
_BITS = {4: 32, 6: 128}
_SOURCE = {4: 12, 6: 8}
_DESTINATION = {4: 16, 6: 24}
_DESTINATION_PORT = 2


def family(version: int) -> tuple[bytes, ...]:
    """The packet is of that IP version."""
    return x.meta(x.META_NFPROTO), x.compare(_NFPROTO[version])


def protocols(numbers: Iterable[int]) -> tuple[Part, ...]:
    """The packet's transport protocol is one of these."""
    values = sorted(numbers)
    if len(values) == 1:
        return x.meta(x.META_L4PROTO), x.compare(bytes(values))
    listed = tuple((bytes([value]), False) for value in values)
    return x.meta(x.META_L4PROTO), x.Anonymous(x.PROTOCOL, listed, interval=False)


def destination_ports(ranges: tuple[tuple[int, int], ...]) -> tuple[Part, ...]:
    """The destination port lies in one of the ranges."""
    load = x.payload(x.TRANSPORT_HEADER, _DESTINATION_PORT, 2)
    if len(ranges) > 1:
        return load, x.intervals(x.PORT, ranges)
    first, last = (port.to_bytes(2, "big") for port in ranges[0])
    return load, x.compare(first) if first == last else x.within(first, last)


def in_nets(nets: list[IPNetwork], version: int, start: int, *, invert: bool = False) -> tuple[Part, ...]:
    """The address at `start` of the IP header lies in one of the nets; with `invert` in none."""
    if len(nets) > 1:
        ranges = ((int(net.network_address), int(net.broadcast_address)) for net in nets)
        load = x.payload(x.NETWORK_HEADER, start, _BITS[version] // 8)
        return load, x.intervals(_ADDRESS_KEY[version], ranges, invert=invert)
    net = nets[0]
    return x.fits(net.network_address.packed, net.prefixlen, x.NETWORK_HEADER, start, invert=invert)


def matches(rule: Rule, direction: Direction, groups: Mapping[str, Group]) -> Iterator[tuple[Part, ...]]:
    """The conditions of each nf_tables rule that the rule becomes; any of them is a match. None if it can not match."""
    common: tuple[Part, ...] = ()
    if rule.ports:
        # Only where the header has ports do its first bytes mean one.
        able = WITH_PORTS & {rule.protocol} if rule.protocol else {TCP, UDP, SCTP}
        if not able:
            return
        common = protocols(able) + destination_ports(rule.ports)
    elif rule.protocol:
        common = protocols([rule.protocol])
    if not (rule.peer_group or rule.nets or rule.not_nets or rule.port_group):
        yield common
        return
    for version in (4, 6):
        conditions = _of_family(rule, direction, groups, version)
        if conditions is not None:
            yield family(version) + common + conditions


def _of_family(rule: Rule, direction: Direction, groups: Mapping[str, Group], version: int) -> tuple[Part, ...] | None:
    """What the rule asks of addresses of one family, None if no packet of it can match."""
    peer = (_SOURCE if direction is Direction.INGRESS else _DESTINATION)[version]
    parts: tuple[Part, ...] = ()
    if rule.nets:
        nets = [net for net in rule.nets if net.version == version]
        if not nets:
            return None
        if all(net.prefixlen for net in nets):
            parts += in_nets(nets, version, peer)
    not_nets = [net for net in rule.not_nets if net.version == version]
    if not all(net.prefixlen for net in not_nets):
        return None
    if not_nets:
        parts += in_nets(not_nets, version, peer, invert=True)
    for group, load in ((rule.peer_group, (x.payload(x.NETWORK_HEADER, peer, _BITS[version] // 8),)),
                        (rule.port_group, _named_port(version))):
        if group:
            if version == 6 and not groups[group].ipv6:
                return None
            parts += (*load, x.lookup(group_set(group, groups[group].kind.name, version)))
    return parts


def _named_port(version: int) -> tuple[bytes, ...]:
    """Destination address, protocol and port, side by side."""
    length = _BITS[version] // 8
    return (x.payload(x.NETWORK_HEADER, _DESTINATION[version], length), x.meta(x.META_L4PROTO, length),
            x.payload(x.TRANSPORT_HEADER, _DESTINATION_PORT, 2, length + 4))


def rule_verdict(rule: Rule, policy: str, passing: str, dropping: str) -> tuple[bytes, ...]:
    """What a match does. `passing` is the chain that Pass goes on in; empty where Pass drops, in `dropping`."""
    if rule.action is Action.ALLOW:
        return (x.verdict(x.ACCEPT),)
    if rule.action is Action.LOG:
        return x.limit(LOG_RATE, LOG_BURST), x.log(log_prefix(policy, rule.path))
    return (x.verdict(x.GOTO, passing if rule.action is Action.PASS and passing else dropping),)


def render(rules: Iterable[Rule], direction: Direction, groups: Mapping[str, Group], policy: str,
           dropping: str, passing: str = "") -> tuple[x.Rule, ...]:
    """The nf_tables rules of a policy's rules of one direction, in order."""
    return tuple(x.Rule(conditions + rule_verdict(rule, policy, passing, dropping), rule.path)
                 for rule in rules for conditions in matches(rule, direction, groups))
