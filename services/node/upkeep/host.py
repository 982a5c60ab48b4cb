"""The host's end of what is wired: seen all at once, compared with what it should be, and put in order.

The pod's end is the pod's affair, once it is made: CHECK looks at it, and nobody undoes there what a workload with
the right to do so has done.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from services.node.attachment import Attachment
from services.node.errors import KernelError
from services.node.netlink import links, network, settings
from services.node.netlink.attributes import attribute, nested, parse, text, u32
from services.node.netlink.connection import Connection, Reply, Request
from services.node.netlink.links import INET_SETTINGS, Link
from services.node.netlink.network import IPAddress, IPNetwork
from services.node.wiring_plan import (
    GATEWAY_6,
    HOST_MAC,
    HOST_SETTINGS,
    HOST_SETTINGS_6,
    Wiring,
    host_end,
    host_requests,
)

__all__ = ["Difference", "End", "Host", "compare", "look", "mend"]

_IFINFO = struct.Struct("BxHiII")
_IFLA_ADDRESS, _IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_EXT_MASK = 1, 18, 26, 29
_IFLA_INFO_KIND, _SKIP_STATISTICS = 1, 1 << 3
_AF_INET, _IFLA_INET_CONF = 2, 1
_OPTIONAL_6 = frozenset({"force_forwarding"})
"""Settings that not every kernel has."""


@dataclass(frozen=True, slots=True)
class End:
    """A veth, and what the host has on it."""

    link: Link
    settings: Mapping[str, int]
    """IPv4 settings by name."""
    settings_6: Mapping[str, str]
    """IPv6 settings that were asked for and are there."""
    routes: frozenset[IPNetwork]
    """Destinations that are on-link."""
    neighbours: frozenset[tuple[IPAddress, str]]
    """Permanent ones, and their MAC addresses."""
    addresses: frozenset[IPAddress]


class Host:
    """Every veth of the host, as it was at one time."""

    def __init__(self, ends: Sequence[End]) -> None:
        self.ends = tuple(ends)
        self._owned = {end.link.alias: end for end in ends if end.link.alias}
        self._nameless = {end.link.index: end for end in ends if not end.link.alias}

    def of(self, attachment: Attachment, index: int) -> End | None:
        """An attachment's: the one that says so, or that was made for it and says nothing any more."""
        return self._owned.get(attachment.alias) or self._nameless.get(index)

    @property
    def owned(self) -> dict[Attachment, Link]:
        """Those that say whose they are."""
        return {attachment: end.link for alias, end in self._owned.items()
                if (attachment := Attachment.from_alias(alias)) is not None}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be: link, route, neighbour or setting; and the words for it."""

    what: str
    words: str


def look(connection: Connection, wirings: Iterable[Wiring] = ()) -> Host:
    """See the host's veths. IPv6 settings, one file each, are read only for those of the given that have IPv6.

    Raises:
        KernelError: it can not be read.
    """
    body = (_IFINFO.pack(0, 0, 0, 0, 0) + u32(_IFLA_EXT_MASK, _SKIP_STATISTICS)
            + nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth")))
    replies = connection.dump(Request(links.RTM_GETLINK, 0, body, "list links"))
    found = [seen for reply in replies if (seen := _seen(reply.kind, bytes(reply.body)))[0].kind == "veth"]
    six = {wiring.attachment.alias for wiring in wirings if 6 in wiring.families}
    routes: dict[int, set[IPNetwork]] = {}
    for route in network.routes(connection) if found else ():
        if route.gateway is None:
            routes.setdefault(route.index, set()).add(route.destination)
    neighbours: dict[int, set[tuple[IPAddress, str]]] = {}
    for each in network.neighbours(connection) if found else ():
        if each.permanent:
            neighbours.setdefault(each.index, set()).add((each.address, each.mac))
    addresses: dict[int, set[IPAddress]] = {}
    for address in network.addresses(connection) if six else ():
        addresses.setdefault(address.index, set()).add(address.address.ip)
    return Host([
        End(link, inet, _inet6(connection, link.name) if link.alias in six else {},
            frozenset(routes.get(link.index, ())), frozenset(neighbours.get(link.index, ())),
            frozenset(addresses.get(link.index, ())))
        for link, inet in found])


@functools.lru_cache(maxsize=1024)  # as long as nothing changes the kernel says the same, every few seconds
def _seen(kind: int, body: bytes) -> tuple[Link, Mapping[str, int]]:
    """A link's message."""
    reply = Reply(kind, 0, 0, memoryview(body))
    return links.parse_link(reply), MappingProxyType(_inet(reply))


def _inet(reply: Reply) -> dict[str, int]:
    """IPv4 settings in a link's message: an array of numbers, of which INET_SETTINGS says the places, from 1."""
    found = parse(reply.body[_IFINFO.size:])
    for kind in (_IFLA_AF_SPEC, _AF_INET, _IFLA_INET_CONF):
        if kind not in found:
            return {}
        if kind == _IFLA_INET_CONF:
            values = found[kind].cast("i")
            return {name: values[place - 1] for name, place in INET_SETTINGS.items() if place <= len(values)}
        found = parse(found[kind])
    return {}


def _inet6(connection: Connection, name: str) -> dict[str, str]:
    """IPv6 settings that are there; none that is not as it should be and that nobody can set: see wiring."""
    found = {}
    for setting, wanted in HOST_SETTINGS_6.items():
        path = f"ipv6/conf/{name}/{setting}"
        value = settings.read(connection, path)
        if value is not None and (value == str(wanted) or settings.writable(connection, path)):
            found[setting] = value
    return found


def compare(end: End, wiring: Wiring) -> list[Difference]:
    """What is not as it should be. More than that, such as further routes, is nobody's fault."""
    found: list[Difference] = []

    def differs(what: str, words: str) -> None:
        found.append(Difference(what, words))

    link = end.link
    if link.name != wiring.host_interface:
        differs("link", f"its name is {link.name}")
    if link.alias != wiring.attachment.alias:
        differs("link", "its alias is gone")
    if not link.up:
        differs("link", "it is down")
    if link.mac != HOST_MAC:
        differs("link", f"its MAC address is {link.mac}")
    for name, value in HOST_SETTINGS.items():
        if end.settings.get(name, value) != value:
            differs("setting", f"{name} is {end.settings[name]}")
    wanted = host_end(wiring)
    for route, _ in wanted.routes:
        if route not in end.routes:
            differs("route", f"no route to {route}")
    for neighbour in wanted.neighbours:
        if neighbour not in end.neighbours:
            differs("neighbour", f"{neighbour[0]} is no permanent neighbour at {neighbour[1]}")
    if 6 in wiring.families:
        for name, value in HOST_SETTINGS_6.items():
            if end.settings_6.get(name, str(value)) != str(value):
                differs("setting", f"IPv6 {name} is {end.settings_6[name]}")
        if GATEWAY_6 not in end.addresses:
            differs("link", f"it has no address {GATEWAY_6}")
    return found


def mend(connection: Connection, wiring: Wiring, index: int) -> None:
    """Put the host's end in order, whatever is wrong with it, if the link still is the attachment's.

    Raises:
        KernelError: the kernel refuses it; what it takes is done.
    """
    link = next((each for each in links.listing(connection, "veth") if each.index == index), None)
    if link is None or link.alias not in ("", wiring.attachment.alias):
        return
    problems: list[KernelError] = []
    if link.name != wiring.host_interface:
        problems += _tried(connection, [links.set_link(index, name=wiring.host_interface)])
    if 6 in wiring.families:
        for name, value in HOST_SETTINGS_6.items():
            try:
                settings.write(connection, f"ipv6/conf/{wiring.host_interface}/{name}", value)
            except KernelError as error:
                if name not in _OPTIONAL_6:
                    problems.append(error)
    if link.mac != HOST_MAC:
        problems += _tried(connection, [_hardware_address(index)])
    for request in host_requests(wiring, index):
        problems += _tried(connection, [request])
    if problems:
        raise problems[0]


def _hardware_address(index: int) -> Request:
    return Request(links.RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, 0)
                   + attribute(_IFLA_ADDRESS, bytes.fromhex(HOST_MAC.replace(":", ""))), f"set address of link {index}")


def _tried(connection: Connection, requests: Sequence[Request]) -> list[KernelError]:
    try:
        connection.request(requests)
    except KernelError as error:
        if error.errno != errno.EEXIST:  # it is there: as it should be
            return [error]
    return []
