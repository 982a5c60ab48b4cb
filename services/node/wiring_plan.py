"""What a pod's wiring consists of, as values, and the requests that make it. Pure.

The pod's only neighbours are 169.254.1.1, an address nobody has, and the link-local address of its host end, whose MAC
address it is told; the host is told the pod's. So no ARP request and no neighbour solicitation is ever needed, no
subnet exists on the link, and all that a pod sends is routed by the host and passes its policy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from muslin.errors import InvalidArgument
from services.node.attachment import Attachment
from services.node.netlink import links, network, shaping
from services.node.netlink.connection import Request
from services.node.netlink.network import IPAddress, IPNetwork
from services.node.netlink.shaping import Bucket

__all__ = ["GATEWAY", "GATEWAY_6", "HOST_MAC", "HOST_SETTINGS", "HOST_SETTINGS_6", "End", "Wiring", "bucket",
           "host_end", "host_requests", "networks", "pod_addresses", "pod_end", "pod_requests", "ways_out"]

GATEWAY = ipaddress.IPv4Address("169.254.1.1")
"""The pod's next hop: link-local, the same for every pod, on no interface (Calico's convention)."""

HOST_MAC = "ee:ee:ee:ee:ee:ee"
"""MAC address of every host end: pods know it in advance, also after a move."""

GATEWAY_6 = ipaddress.IPv6Address("fe80::ecee:eeff:feee:eeee")
"""Link-local address of every host end: what RFC 4291, appendix A, makes of HOST_MAC."""

HOST_SETTINGS = {
    "forwarding": 1,  # for packets from this device alone; the host-wide switch stays as the operator has it
    "proxy_arp": 1,  # a pod whose permanent neighbour was flushed still finds 169.254.1.1
    "rp_filter": 1,  # strict: an IPv4 source address must be routed to this very device
    "route_localnet": 1,  # destination-translated traffic may end at 127.0.0.0/8; all other is dropped by our rules
}
"""IPv4 settings of the host end."""

HOST_SETTINGS_6 = {
    "disable_ipv6": 0,
    "accept_dad": 0,  # nobody else is on the link
    "accept_ra": 0,  # a pod is no router of the host's
    "forwarding": 1,
    "force_forwarding": 1,  # since Linux 6.17 a device's own switch; before, only the host-wide one counts
    "proxy_ndp": 1,
}
"""IPv6 settings of the host end, where the pod has an IPv6 address; in this order."""

LEAST_BURST = 65_536
"""Bytes that any bucket holds: one that is smaller than the largest packet lets that never pass."""

BURST_PART = 50
"""Part of a second that a bucket lasts whose size nobody asked for."""

LOOPBACK = 1
"""Index of `lo` in every namespace."""

_DEFAULT = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}
_GATEWAYS: Mapping[int, IPAddress] = {4: GATEWAY, 6: GATEWAY_6}
GATEWAYS = frozenset(_GATEWAYS.values())
_GATEWAY_LINK = ipaddress.ip_network(GATEWAY)


@dataclass(frozen=True, slots=True)
class Wiring:
    """How one attachment is to be wired. MTU in bytes, 0 for the node's own choice."""

    attachment: Attachment
    netns: str
    host_interface: str
    mac: str
    addresses: tuple[IPAddress, ...]
    mtu: int = 0
    ingress: Bucket | None = None
    """How fast the pod may be sent to; None for no limit."""
    egress: Bucket | None = None
    """How fast it may send."""
    routes: tuple[IPNetwork, ...] = field(default=(), kw_only=True)
    """Where it finds its way to, by our gateway; a family of which none is named gets the default route."""
    defaults: bool = field(default=True, kw_only=True)
    """Whether it does; if not, the routes named are all there are."""

    @property
    def families(self) -> tuple[int, ...]:
        """IP versions that the pod has addresses of, 4 before 6."""
        return tuple(sorted({address.version for address in self.addresses}))


@dataclass(frozen=True, slots=True)
class End:
    """What one end of the veth has. A route without a gateway is on-link; neighbours are permanent."""

    addresses: tuple[IPAddress, ...] = ()
    routes: tuple[tuple[IPNetwork, IPAddress | None], ...] = ()
    neighbours: tuple[tuple[IPAddress, str], ...] = ()


def pod_addresses(values: Sequence[str]) -> tuple[IPAddress, ...]:
    """Addresses, with or without prefix length, as wiring takes them.

    Raises:
        InvalidArgument: there is none, one is not an address, or one is there twice.
    """
    try:
        found = tuple(ipaddress.ip_address(value.partition("/")[0]) for value in values)
    except ValueError as error:
        raise InvalidArgument(f"ips: {error}") from None
    if not found:
        raise InvalidArgument("ips: the result so far has no address; an IPAM service must run before this one")
    if len(set(found)) < len(found):
        raise InvalidArgument(f"ips: an address is there twice: {', '.join(map(str, found))}")
    return found


def networks(values: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Destinations of routes, each once.

    Raises:
        InvalidArgument: one is none.
    """
    try:
        return tuple(dict.fromkeys(map(ipaddress.ip_network, values)))
    except ValueError as error:
        raise InvalidArgument(f"routes: {error}") from None


def bucket(rate: int, burst: int) -> Bucket | None:
    """A limit of CNI's, in bits a second and bits, as a token bucket; None for a rate of 0."""
    if not rate:
        return None
    size = burst // 8 or max(rate // 8 // BURST_PART, LEAST_BURST)
    return Bucket(max(rate // 8, 1), max(size, LEAST_BURST))


def host_end(wiring: Wiring) -> End:
    """What the host has for the pod."""
    return End(routes=tuple((ipaddress.ip_network(address), None) for address in wiring.addresses),
               neighbours=tuple((address, wiring.mac) for address in wiring.addresses))


def ways_out(wiring: Wiring) -> tuple[tuple[IPNetwork, IPAddress], ...]:
    """The pod's routes through its gateways, of the families that it has."""
    return tuple((destination, _GATEWAYS[version]) for version in wiring.families for destination in
                 [route for route in wiring.routes if route.version == version]
                 or ([_DEFAULT[version]] if wiring.defaults else []))


def pod_end(wiring: Wiring) -> End:
    """What the pod has."""
    families = wiring.families
    link: tuple[tuple[IPNetwork, IPAddress | None], ...] = ((_GATEWAY_LINK, None),) if 4 in families else ()
    return End(wiring.addresses, link + ways_out(wiring),
               tuple((_GATEWAYS[version], HOST_MAC) for version in families))


def host_requests(wiring: Wiring, index: int) -> list[Request]:
    """What gives the host end its owner, brings it up and routes to it."""
    # Its owner, and that it is finished, with all else of the link in one message: one who was killed between two
    # messages leaves either a link of the unfinished, or one whose owner is known.
    requests = [
        links.set_link(index, up=True, alias=wiring.attachment.alias, group=0, inet=HOST_SETTINGS),
        network.set_neighbour_table(index, proxy_delay=0),
    ]
    if 6 in wiring.families:
        # The kernel would make it as well, once it has seen the carrier.
        requests.append(network.add_address(index, GATEWAY_6))
    end = host_end(wiring)
    # `replace`: a route that a vanished owner of the address left behind must not keep the new one out.
    requests += [network.add_route(index, route, via, replace=True) for route, via in end.routes]
    requests += [network.add_neighbour(index, address, mac) for address, mac in end.neighbours]
    if wiring.ingress:
        requests.append(shaping.set_bucket(index, wiring.ingress))
    return requests


def pod_requests(wiring: Wiring, index: int) -> list[Request]:
    """What gives the pod its addresses and its way out."""
    end = pod_end(wiring)
    return [
        links.set_link(LOOPBACK, up=True),
        links.set_link(index, up=True),
        *(network.add_address(index, address) for address in end.addresses),
        *(network.add_neighbour(index, address, mac) for address, mac in end.neighbours),
        *(network.add_route(index, route, via) for route, via in end.routes),
        *((shaping.set_bucket(index, wiring.egress),) if wiring.egress else ()),
    ]
