"""Routes to other nodes: those of a protocol number of our own, so that none of anybody else's is ever touched.

Those to pods are in the main table, those of pods to other hosts in tables of our own, which rules choose.

They come after all others to the same destination: a route to a pod of this node is always preferred.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from dataclasses import dataclass
from enum import Enum

from services.node.errors import KernelError
from services.node.netlink.attributes import as_u32, attribute, parse, u32
from services.node.netlink.connection import NLM_F_CREATE, NLM_F_REPLACE, Connection, Request
from services.node.netlink.network import IPAddress, IPNetwork

__all__ = ["MAIN", "METRIC", "PROTOCOL", "TABLES", "Direction", "Kind", "Way", "add", "delete", "directions", "listing"]

PROTOCOL = 109
"""Marks a route as ours; `ip route` shows `proto 109`. None of linux/rtnetlink.h or of the usual routing daemons."""

METRIC = 2048
"""Higher than the kernel's own for IPv4 (0) and IPv6 (1024): of two routes to one destination ours is second."""

_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _TABLE, _VIA = 1, 4, 5, 6, 7, 15, 18
MAIN = 254
TABLES = (10_901, 10_902)
"""Tables of our own."""

_UNNAMED, _ONLINK, _LOCAL = 0, 4, 2
_RTMSG = struct.Struct("BBBBBBBBI")
_FAMILY = {4: 2, 6: 10}
_NOWHERE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)


class Kind(Enum):
    """What becomes of a packet, as linux/rtnetlink.h numbers it."""

    FORWARD = 1
    BLACKHOLE = 6
    UNREACHABLE = 7


@dataclass(frozen=True, slots=True)
class Way:
    """A route of ours. One that forwards has a device, by index, and a gateway, which is taken to be on its link.

    An IPv4 destination may have an IPv6 gateway.
    """

    destination: IPNetwork
    kind: Kind
    device: int = 0
    gateway: IPAddress | None = None
    source: IPAddress | None = None
    """What this host's own packets have for their source; None leaves it to the kernel."""
    table: int = MAIN


@dataclass(frozen=True, slots=True)
class Direction:
    """Where packets to an address leave: device, next hop (None: the address itself), and the source they get."""

    device: int
    gateway: IPAddress | None
    source: IPAddress | None


def add(way: Way) -> Request:
    """Add a route, or change it: packets find the old one or the new one."""
    body = _header(way, _ONLINK if way.gateway is not None else 0)
    if way.kind is Kind.FORWARD:
        body += u32(_OIF, way.device)
    if way.gateway is not None:
        packed = way.gateway.packed
        if way.gateway.version == way.destination.version:
            body += attribute(_GATEWAY, packed)
        else:
            body += attribute(_VIA, struct.pack("H", _FAMILY[way.gateway.version]) + packed)
    if way.source is not None:
        body += attribute(_PREFSRC, way.source.packed)
    return Request(_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, f"route {way.destination} to another node")


def delete(way: Way) -> Request:
    """Delete a route; ESRCH if it is gone."""
    return Request(_DELROUTE, 0, _header(way, 0), f"delete the route {way.destination} to another node")


def _header(way: Way, flags: int) -> bytes:
    body = _RTMSG.pack(_FAMILY[way.destination.version], way.destination.prefixlen, 0, 0, _UNNAMED, PROTOCOL, 0,
                       way.kind.value, flags)
    if way.destination.prefixlen:
        body += attribute(_DST, way.destination.network_address.packed)
    return body + u32(_PRIORITY, METRIC) + u32(_TABLE, way.table)


def listing(connection: Connection) -> list[Way]:
    """All routes of ours, of both families, in all tables. Raises KernelError."""
    return [way for table in (MAIN, *TABLES) for way in _listing(connection, table)]


def _listing(connection: Connection, wanted: int) -> list[Way]:
    found: list[Way] = []
    kinds = {kind.value: kind for kind in Kind}
    for family in _FAMILY.values():
        body = _RTMSG.pack(family, 0, 0, 0, 0, PROTOCOL, 0, 0, 0) + u32(_TABLE, wanted)
        try:
            replies = connection.dump(Request(_GETROUTE, 0, body, "list routes to other nodes"))
        except KernelError as error:
            if error.errno == errno.ENOENT:  # no table yet
                continue
            raise
        for reply in replies:
            family_, length, _, _, table, protocol, _, number, _ = _RTMSG.unpack_from(reply.body)
            attributes = parse(reply.body[_RTMSG.size:])
            if _TABLE in attributes:  # whose number may be too large for the header
                table = as_u32(attributes[_TABLE])
            if protocol != PROTOCOL or table != wanted or number not in kinds:
                continue
            if _PRIORITY not in attributes or as_u32(attributes[_PRIORITY]) != METRIC:
                continue
            target = bytes(attributes[_DST]) if _DST in attributes else bytes(4 if family_ == _FAMILY[4] else 16)
            destination, kind = ipaddress.ip_network((target, length)), kinds[number]
            if kind is not Kind.FORWARD:  # IPv6 has the loopback for its device
                found.append(Way(destination, kind, table=table))
                continue
            via = attributes[_VIA][2:] if _VIA in attributes else attributes.get(_GATEWAY)
            source = attributes.get(_PREFSRC)
            found.append(Way(destination, kind, as_u32(attributes[_OIF]) if _OIF in attributes else 0,
                             None if via is None else ipaddress.ip_address(bytes(via)),
                             None if source is None else ipaddress.ip_address(bytes(source)), table))
    return found


def directions(connection: Connection, address: IPAddress) -> Direction | None:
    """Where packets to an address leave; None if there is no way, or it is an address of this host."""
    body = (_RTMSG.pack(_FAMILY[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
            + attribute(_DST, address.packed))
    try:
        replies = connection.request([Request(_GETROUTE, 0, body, f"find the way to {address}")])[0]
    except KernelError as error:
        if error.errno in _NOWHERE:
            return None
        raise
    attributes = parse(replies[0].body[_RTMSG.size:])
    if _RTMSG.unpack_from(replies[0].body)[7] == _LOCAL or _OIF not in attributes:
        return None

    def address_of(kind: int) -> IPAddress | None:
        return ipaddress.ip_address(bytes(attributes[kind])) if kind in attributes else None

    via = ipaddress.ip_address(bytes(attributes[_VIA][2:])) if _VIA in attributes else address_of(_GATEWAY)
    return Direction(as_u32(attributes[_OIF]), via, address_of(_PREFSRC))
