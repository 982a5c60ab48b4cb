"""CHECK: what the kernel has, beside what ADD answered. Blocks, and belongs on a thread.

Compared is what is ours: that it is there. What is there beside it, such as routes that a later plugin of the chain
added, is no difference; what such a plugin changed and put into its result is compared as it says there.
"""

from __future__ import annotations

import errno
import ipaddress
import json
from collections.abc import Iterable, Iterator

from muslin.cni import result as results
from muslin.cni.invocation import Invocation
from muslin.errors import Corrupt, InvalidArgument, NotFound
from services.node.attachment import Attachment
from services.node.enforce import names
from services.node.errors import KernelError
from services.node.netlink import links, network, settings, shaping
from services.node.netlink.connection import Connection
from services.node.netlink.links import Link
from services.node.nft.connection import Nftables
from services.node.wiring_plan import (
    GATEWAYS,
    HOST_MAC,
    HOST_SETTINGS,
    HOST_SETTINGS_6,
    End,
    Wiring,
    host_end,
    networks,
    pod_addresses,
    pod_end,
)

__all__ = ["differences", "expected_of"]


def expected_of(invocation: Invocation, known: str | None = None) -> Wiring:
    """The wiring that a CHECK's prevResult tells of, which is silent on rates. The MTU is 0 where it tells none.

    `known` is the host interface that the attachment has, as far as we know.

    Raises:
        InvalidArgument: there is no prevResult, or the interface is not in it.
        Corrupt: it is not a result.
    """
    if invocation.conf.prev_result is None:
        raise InvalidArgument("prevResult is missing from the configuration: CHECK compares with it")
    if not invocation.netns:
        raise InvalidArgument("CNI_NETNS is empty: CHECK needs the path of the container's network namespace")
    prev = results.parse(json.dumps(dict(invocation.conf.prev_result)).encode())
    found = [(number, i) for number, i in enumerate(prev.interfaces) if i.sandbox and i.name == invocation.ifname]
    if not found:
        raise InvalidArgument(f"prevResult.interfaces has no {invocation.ifname} in a sandbox")
    outside = [i.name for i in prev.interfaces if not i.sandbox and known in (i.name, None)
               and (known or i.mac == HOST_MAC)]
    if not outside:
        raise InvalidArgument(f"prevResult.interfaces has no host interface {known or f'with MAC {HOST_MAC}'}")
    number, inside = found[0]
    try:
        ways = networks(r.dst for r in prev.routes if r.gw and ipaddress.ip_address(r.gw) in GATEWAYS)
    except ValueError as error:
        raise Corrupt(f"prevResult.routes: {error}") from None
    return Wiring(Attachment.from_message(invocation.attachment), invocation.netns, outside[0], inside.mac,
                  pod_addresses([ip.address for ip in prev.ips if ip.interface == number]), inside.mtu,
                  routes=ways, defaults=False)


def differences(host: Connection, expected: Wiring) -> list[str]:
    """Everything of ours that is not as expected, for people; empty if all is.

    Raises:
        InvalidArgument: the pod's namespace is gone, or none.
        KernelError: the kernel can not be asked.
    """
    found = list(_host(host, expected))
    outer = links.get(host, expected.host_interface)
    try:
        pod = Connection(expected.netns)
    except NotFound as error:
        raise InvalidArgument(f"CNI_NETNS {expected.netns} does not exist") from error
    with pod:
        found += [f"in the pod: {each}" for each in _pod(pod, expected, outer)]
    return found


def _host(host: Connection, expected: Wiring) -> Iterator[str]:
    name = expected.host_interface
    link = links.get(host, name)
    if link is None:
        yield f"host interface {name} is gone"
        return
    if link.alias != expected.attachment.alias:
        yield f"host interface {name} belongs to {link.alias or 'nobody'}"
        return
    yield from _link(link, HOST_MAC, expected.mtu)
    wanted = {f"ipv4/conf/{name}/{key}": value for key, value in HOST_SETTINGS.items()}
    wanted[f"ipv4/neigh/{name}/proxy_delay"] = 0
    if 6 in expected.families:
        wanted |= {f"ipv6/conf/{name}/{key}": value for key, value in HOST_SETTINGS_6.items()}
    yield from _settings(host, wanted)
    yield from _end(host, link, host_end(expected))
    yield from _rate(host, link, expected.ingress)
    yield from _rules(host, expected)


def _pod(pod: Connection, expected: Wiring, outer: Link | None) -> Iterator[str]:
    link = links.get(pod, expected.attachment.ifname)
    if link is None:
        yield f"interface {expected.attachment.ifname} is gone"
        return
    if outer is not None and (link.kind, link.peer_index, outer.peer_index) != ("veth", outer.index, link.index):
        yield f"{link.name} is not the other end of {outer.name}"
    yield from _link(link, expected.mac, expected.mtu)
    loopback = links.get(pod, "lo")
    if loopback is None or not loopback.up:
        yield "lo is down"
    yield from _end(pod, link, pod_end(expected))
    yield from _rate(pod, link, expected.egress)


def _link(link: Link, mac: str, mtu: int) -> Iterator[str]:
    if not link.up:
        yield f"{link.name} is down"
    if mac and link.mac != mac.lower():
        yield f"{link.name} has MAC {link.mac}, not {mac}"
    if mtu and link.mtu != mtu:
        yield f"{link.name} has MTU {link.mtu}, not {mtu}"


def _settings(connection: Connection, wanted: dict[str, int]) -> Iterator[str]:
    for path, value in wanted.items():
        found = settings.read(connection, path)
        # One that the kernel does not have is none of its differences, nor one that nobody can set: see wiring.
        if found is not None and found != str(value) and settings.writable(connection, path):
            yield f"net.{path.replace('/', '.')} is {found}, not {value}"


def _end(connection: Connection, link: Link, expected: End) -> Iterator[str]:
    addresses = {each.address.ip for each in network.addresses(connection, link.index)} if expected.addresses else set()
    yield from _missing("address", (str(a) for a in expected.addresses if a not in addresses), link)
    routes = {(each.destination, each.gateway) for each in network.routes(connection, link.index)}
    yield from _missing("route", (f"{route}{f' via {via}' if via else ''}" for route, via in expected.routes
                                  if (route, via) not in routes), link)
    neighbours = {each.address: each for each in network.neighbours(connection, link.index)}
    for address, mac in expected.neighbours:
        there = neighbours.get(address)
        if there is None or not there.permanent:
            yield f"permanent neighbour {address} of {link.name} is missing"
        elif mac and there.mac != mac.lower():
            yield f"neighbour {address} of {link.name} has MAC {there.mac}, not {mac}"


def _missing(what: str, values: Iterable[str], link: Link) -> Iterator[str]:
    return (f"{what} {value} of {link.name} is missing" for value in values)


def _rate(connection: Connection, link: Link, expected: shaping.Bucket | None) -> Iterator[str]:
    if expected is None:
        return  # it may be limited by a later plugin
    found = shaping.rate_of(connection, link.index)
    if found != expected.rate:
        yield f"{link.name} is held to {found or 'no'} bytes a second, not {expected.rate}"


def _rules(host: Connection, expected: Wiring) -> Iterator[str]:
    """That the kernel has the elements that lead to the attachment's policy."""
    interface = expected.host_interface.encode().ljust(16, b"\0")
    wanted = [(names.FROM_POD, interface), (names.TO_POD, interface),
              *((names.SOURCES_4 if a.version == 4 else names.SOURCES_6, interface + a.packed)
                for a in expected.addresses)]
    try:
        with Nftables(host.namespace) as nft:
            lists = {name: nft.elements(names.TABLE, name) for name in {name for name, _ in wanted}}
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        yield f"table {names.TABLE} is gone"
        return
    for name, key in wanted:
        if key not in lists[name]:
            yield f"rules: {expected.host_interface} is not in {name}"
