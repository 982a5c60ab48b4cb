"""How this node reaches the pods of others, worked out. Pure.

A block of another node is routed by way of that node: over a link that both are on, or in VXLAN. What is in none of our
own pods goes nowhere: a blackhole for each of our own blocks keeps it from the default route, which would send it back.

Hosts have no address in VXLAN: they send to pods with their own. What pods send to hosts therefore goes in VXLAN, too,
where packets to those hosts' pods would: an answer that took another way would come from where no pod is.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.node.netlink.network import IPAddress, IPNetwork
from services.node.netlink.ways import Kind

__all__ = ["OVERHEAD", "Encapsulation", "Host", "Own", "Peer", "Plan", "Pool", "Route", "Step", "mac_of", "plan"]

OVERHEAD = {4: 50, 6: 70}
"""Bytes that VXLAN takes of each packet: outer IPv4 or IPv6, UDP, VXLAN and inner Ethernet headers (RFC 7348)."""


class Encapsulation(StrEnum):
    """How packets get from node to node."""

    NONE = "none"
    VXLAN = "vxlan"
    CROSS_SUBNET = "cross-subnet"
    """As NONE to nodes on a link of ours, else as VXLAN."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where a node can be reached, by family."""

    node: str
    addresses: Mapping[int, IPAddress]
    present: bool = True
    """Whether it has been heard of lately."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What holds for the addresses of a pool."""

    name: str
    network: IPNetwork
    encapsulation: Encapsulation | None = None
    """None leaves it to the node."""
    masquerade: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """The pods with these addresses are on that node."""

    network: IPNetwork
    node: str
    pool: str


@dataclass(frozen=True, slots=True)
class Own:
    """The node that all is seen from."""

    node: str
    addresses: Mapping[int, IPAddress]
    encapsulation: Encapsulation = Encapsulation.NONE

    @property
    def underlay(self) -> int:
        """The family that VXLAN's outer packets are of; 0 if the node has no address."""
        return next((family for family in (4, 6) if family in self.addresses), 0)


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that VXLAN goes to: its MAC address there, where its packets go to, and the gateways that stand for it."""

    mac: str
    remote: IPAddress
    gateways: frozenset[IPAddress]


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of packets to a block: forwarded to a gateway on a link, by index, or in VXLAN; or nothing."""

    kind: Kind
    gateway: IPAddress | None = None
    link: int = 0
    """0 for VXLAN."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the kernel is to have."""

    steps: Mapping[IPNetwork, Step]
    peers: frozenset[Peer]
    tunnel: bool
    """Whether VXLAN is to be there."""
    back: Mapping[Encapsulation, Mapping[IPNetwork, Step]] = field(default_factory=dict)
    """What becomes of packets from pods to other hosts, where VXLAN is meant, by what the pod's pool says of it."""
    pools: Mapping[IPNetwork, Encapsulation] = field(default_factory=dict)
    """Those pools."""
    problems: tuple[str, ...] = field(default=())
    """What can not be reached, and why, for people."""


def mac_of(node: str) -> str:
    """The MAC address of a node in VXLAN: all know it by the node's name."""
    raw = bytearray(hashlib.sha256(f"vxlan\n{node}".encode()).digest()[:6])
    raw[0] = raw[0] & 0xFC | 0x02  # locally administered, unicast
    return raw.hex(":")


def _link_local(mac: str) -> ipaddress.IPv6Address:
    """RFC 4291, appendix A."""
    raw = bytearray.fromhex(mac.replace(":", ""))
    raw[0] ^= 0x02
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes(raw[:3]) + b"\xff\xfe" + bytes(raw[3:]))


def plan(own: Own, hosts: Mapping[str, Host], routes: Iterable[Route], pools: Iterable[Pool],
         on_link: Mapping[IPAddress, int], dead: Collection[str] = ()) -> Plan:
    """What the kernel is to have so that all pods are reached.

    `on_link` are the addresses of other nodes that are on a link of ours, with the link's index; `dead` are nodes that
    are taken to be gone.
    """
    pools = tuple(pools)
    modes = {pool.name: pool.encapsulation or own.encapsulation for pool in pools}
    steps: dict[IPNetwork, Step] = {}
    peers: dict[str, Peer] = {}
    problems: dict[str, None] = {}
    for route in routes:
        if route.node == own.node:
            steps[route.network] = Step(Kind.BLACKHOLE)
            continue
        host = hosts.get(route.node)
        if host is None or not host.addresses or route.node in dead:
            # Not the default route: it leads out of the cluster.
            steps[route.network] = Step(Kind.UNREACHABLE)
            problems[f"node {route.node}: " + ("it is not heard of and does not answer" if route.node in dead else
                                               "nothing says where it can be reached; does its daemon run?")] = None
            continue
        mode = modes.get(route.pool, own.encapsulation)
        gateway = host.addresses.get(route.network.version)
        link = on_link.get(gateway, 0) if gateway is not None else 0
        if mode is not Encapsulation.VXLAN and link:
            steps[route.network] = Step(Kind.FORWARD, gateway, link)
        elif mode is Encapsulation.NONE:
            # Routers between us may know the way: what there is otherwise counts.
            problems[f"node {route.node}: no link leads to it for IPv{route.network.version}; with encapsulation none, "
                     "routers must know the ways to pods, else set cross-subnet"] = None
        elif (remote := host.addresses.get(own.underlay)) is None:
            steps[route.network] = Step(Kind.UNREACHABLE)
            problems[f"node {route.node}: it has no IPv{own.underlay} address, by which VXLAN goes here"] = None
        else:
            if route.node not in peers:
                peers[route.node] = _peer(route.node, host, remote)
            steps[route.network] = Step(Kind.FORWARD, _gateway(peers[route.node], route.network.version))
    # Where no pool is known yet, what the node says is what the first one is going to have.
    used = {mode for mode in (modes.values() or (own.encapsulation,)) if mode is not Encapsulation.NONE}
    back: dict[Encapsulation, Mapping[IPNetwork, Step]] = {
        mode: _back(mode, own, [host for name, host in hosts.items() if name not in (own.node, *dead)], on_link, peers)
        for mode in used} if own.underlay else {}
    tunnel = own.underlay != 0 and (bool(peers) or bool(used))
    return Plan(steps, frozenset(peers.values()), tunnel, back,
                {pool.network: modes[pool.name] for pool in pools if modes[pool.name] in back}, tuple(problems))


def _back(mode: Encapsulation, own: Own, hosts: Iterable[Host], on_link: Mapping[IPAddress, int],
          peers: dict[str, Peer]) -> dict[IPNetwork, Step]:
    """The ways of pods to hosts, in VXLAN; who is reached so becomes a peer."""
    found: dict[IPNetwork, Step] = {}
    for host in hosts:
        if (remote := host.addresses.get(own.underlay)) is None:
            continue
        for version, address in host.addresses.items():
            if mode is Encapsulation.VXLAN or not on_link.get(address):
                if host.node not in peers:
                    peers[host.node] = _peer(host.node, host, remote)
                found[ipaddress.ip_network(address)] = Step(Kind.FORWARD, _gateway(peers[host.node], version))
    return found


def _peer(node: str, host: Host, remote: IPAddress) -> Peer:
    mac = mac_of(node)
    return Peer(mac, remote, frozenset({_link_local(mac), *(a for a in host.addresses.values() if a.version == 4)}))


def _gateway(peer: Peer, family: int) -> IPAddress:
    """What stands for a node: nobody is asked for its MAC address, so any address does that is the node's alone.

    For IPv4 the node's own, so that nothing needs IPv6, as long as it has one.
    """
    return next((gateway for gateway in peer.gateways if gateway.version == family),
                next(iter(peer.gateways)))
