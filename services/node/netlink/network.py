"""Addresses, routes and neighbours (rtnetlink(7), linux/rtnetlink.h, linux/neighbour.h)."""

from __future__ import annotations

import errno
import ipaddress
import struct
from dataclasses import dataclass

from services.node.errors import KernelError
from services.node.netlink.attributes import as_u32, attribute, nested, parse, text, u32
from services.node.netlink.connection import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Connection,
    Reply,
    Request,
)

__all__ = ["Address", "IPAddress", "IPInterface", "IPNetwork", "Neighbour", "Route", "add_address", "add_neighbour",
           "add_route", "addresses", "device_towards", "neighbours", "routes", "set_neighbour_table"]

RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_GETNEIGH, RTM_SETNEIGHTBL = 28, 30, 67

_AF_INET, _AF_INET6 = 2, 10
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD, _IFA_F_TENTATIVE, _IFA_F_DADFAILED = 0x02, 0x40, 0x08
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_RT_TABLE_MAIN, _RTN_UNICAST, _RTNH_F_ONLINK, _RTM_F_CLONED = 254, 1, 4, 0x200
_RTPROT_BOOT = 3
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_NDTA_NAME, _NDTA_PARMS, _NDTPA_IFINDEX, _NDTPA_PROXY_DELAY = 1, 6, 1, 13

_IFADDR = struct.Struct("BBBBi")
_RTMSG = struct.Struct("BBBBBBBBI")
_NDMSG = struct.Struct("BxxxiHBB")
_NDTMSG = struct.Struct("Bxxx")

IPV6_METRIC = 1024
"""The kernel's metric of an IPv6 route that is given none."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a device."""

    index: int
    address: IPInterface


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table; no gateway means on-link; `destination` 0.0.0.0/0 or ::/0 is the default."""

    index: int
    destination: IPNetwork
    gateway: IPAddress | None
    link_scope: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour table entry."""

    index: int
    address: IPAddress
    mac: str
    permanent: bool


def _family(address: IPAddress | IPNetwork) -> int:
    return _AF_INET if address.version == 4 else _AF_INET6


def add_address(index: int, address: IPAddress) -> Request:
    """Give a device a single address, /32 or /128; EEXIST if it has it.

    An IPv6 address can be used at once: nobody else on the link is asked whether it has it.
    """
    packed = address.packed
    flags = _IFA_F_NODAD if address.version == 6 else 0
    body = (_IFADDR.pack(_family(address), address.max_prefixlen, flags, _SCOPE_UNIVERSE, index)
            + attribute(_IFA_ADDRESS, packed) + attribute(_IFA_LOCAL, packed))
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, f"add address {address} to link {index}")


def add_route(index: int, destination: IPNetwork, gateway: IPAddress | None = None, *, replace: bool = False,
              ) -> Request:
    """Add a route: on-link with scope link without a gateway, else through it, which is taken as reachable.

    Beside another route to the same destination it comes second, or with `replace` in its stead.
    """
    # `onlink`: with a /32 of its own no device has the gateway in its subnet.
    flags = _RTNH_F_ONLINK if gateway is not None else 0
    scope = _SCOPE_LINK if gateway is None else _SCOPE_UNIVERSE
    body = _RTMSG.pack(_family(destination), destination.prefixlen, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, scope,
                       _RTN_UNICAST, flags)
    if destination.prefixlen:
        body += attribute(_RTA_DST, destination.network_address.packed)
    if gateway is not None:
        body += attribute(_RTA_GATEWAY, gateway.packed)
    place = NLM_F_REPLACE
    if not replace:
        place = NLM_F_APPEND
        if destination.version == 6:
            # Two of one metric would share the traffic; a device that came later has the higher index.
            body, place = body + u32(_RTA_PRIORITY, IPV6_METRIC + index), 0
    via = f" via {gateway}" if gateway is not None else ""
    return Request(RTM_NEWROUTE, NLM_F_CREATE | place, body + u32(_RTA_OIF, index),
                   f"add route {destination}{via} on link {index}")


def add_neighbour(index: int, address: IPAddress, mac: str) -> Request:
    """A permanent neighbour: no ARP request is ever sent for it."""
    body = (_NDMSG.pack(_family(address), index, _NUD_PERMANENT, 0, 0) + attribute(_NDA_DST, address.packed)
            + attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))))
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, f"add neighbour {address} on link {index}")


def set_neighbour_table(index: int, *, proxy_delay: int) -> Request:
    """How long, in milliseconds, a device waits before it answers ARP for others (neigh/DEVICE/proxy_delay)."""
    parameters = nested(_NDTA_PARMS, u32(_NDTPA_IFINDEX, index),
                        attribute(_NDTPA_PROXY_DELAY, struct.pack("Q", proxy_delay)))
    return Request(RTM_SETNEIGHTBL, 0, _NDTMSG.pack(_AF_INET) + text(_NDTA_NAME, "arp_cache") + parameters,
                   f"set ARP parameters of link {index}")


def addresses(connection: Connection, index: int = 0) -> list[Address]:
    """Addresses of all devices or of one."""
    replies = connection.dump(Request(RTM_GETADDR, 0, _IFADDR.pack(0, 0, 0, 0, index), "list addresses"))
    return [parsed for reply in replies if not index or _IFADDR.unpack_from(reply.body)[4] == index
            for parsed in [_parse_address(reply)]]


def _parse_address(reply: Reply) -> Address:
    _, length, _, _, index = _IFADDR.unpack_from(reply.body)
    found = parse(reply.body[_IFADDR.size:])
    # On a point-to-point device IFA_ADDRESS is the other end's; IFA_LOCAL, which IPv6 leaves out, is always ours.
    local = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    assert local is not None, "an address message carries an address"
    return Address(index, ipaddress.ip_interface(f"{ipaddress.ip_address(bytes(local))}/{length}"))


def routes(connection: Connection, index: int = 0) -> list[Route]:
    """Unicast routes of the main table, of all devices or of one; IPv4 and IPv6."""
    found: list[Route] = []
    for family in (_AF_INET, _AF_INET6):
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        for reply in connection.dump(Request(RTM_GETROUTE, 0, body, "list routes")):
            family_, length, _, _, table, _, scope, kind, flags = _RTMSG.unpack_from(reply.body)
            if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST or flags & _RTM_F_CLONED:
                continue
            attributes = parse(reply.body[_RTMSG.size:])
            device = as_u32(attributes[_RTA_OIF]) if _RTA_OIF in attributes else 0
            if index and device != index:
                continue
            target = bytes(attributes[_RTA_DST]) if _RTA_DST in attributes else bytes(4 if family_ == _AF_INET else 16)
            gateway = ipaddress.ip_address(bytes(attributes[_RTA_GATEWAY])) if _RTA_GATEWAY in attributes else None
            found.append(Route(device, ipaddress.ip_network((target, length)), gateway, scope == _SCOPE_LINK))
    return found


def device_towards(connection: Connection, address: IPAddress) -> int:
    """Index of the device by which packets to an address leave; 0 if there is no way."""
    body = (_RTMSG.pack(_family(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
            + attribute(_RTA_DST, address.packed))
    try:
        replies = connection.request([Request(RTM_GETROUTE, 0, body, f"find the way to {address}")])[0]
    except KernelError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return 0
        raise
    found = parse(replies[0].body[_RTMSG.size:])
    return as_u32(found[_RTA_OIF]) if _RTA_OIF in found else 0


def neighbours(connection: Connection, index: int = 0) -> list[Neighbour]:
    """Neighbours that have a link address, of all devices or of one."""
    replies = connection.dump(Request(RTM_GETNEIGH, 0, _NDMSG.pack(0, 0, 0, 0, 0), "list neighbours"))
    found: list[Neighbour] = []
    for reply in replies:
        family, device, state, _, _ = _NDMSG.unpack_from(reply.body)
        attributes = parse(reply.body[_NDMSG.size:])
        if (index in (0, device) and family in (_AF_INET, _AF_INET6)
                and {_NDA_DST, _NDA_LLADDR} <= attributes.keys()):
            found.append(Neighbour(device, ipaddress.ip_address(bytes(attributes[_NDA_DST])),
                                   bytes(attributes[_NDA_LLADDR]).hex(":"), bool(state & _NUD_PERMANENT)))
    return found
