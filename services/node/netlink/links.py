"""Links: making, setting, deleting and listing them (rtnetlink(7), linux/if_link.h)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from services.node.errors import KernelError
from services.node.netlink.attributes import as_text, as_u32, attribute, nested, pairs, parse, text, u32
from services.node.netlink.connection import NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, Connection, Reply, Request

__all__ = ["INET_SETTINGS", "Link", "create_veth", "delete", "delete_group", "get", "listing", "operational",
           "parse_link", "set_link"]

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18

IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_OPERSTATE, _IFLA_LINKINFO = 1, 3, 4, 5, 16, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 20, 26, 27, 28, 29
_IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 31, 32
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER, _IFLA_INET_CONF = 1, 2, 1, 1
_SKIP_STATISTICS = 1 << 3
_OPERATIONAL = 6
_AF_INET = 2

ALIAS_BYTES = 255
"""Longest alias: IFALIASZ without its final zero."""

INET_SETTINGS: Mapping[str, int] = {
    "forwarding": 1, "proxy_arp": 3, "accept_redirects": 4, "send_redirects": 6, "rp_filter": 8,
    "accept_source_route": 9, "arp_notify": 22, "accept_local": 23, "route_localnet": 26,
}
"""Per-device IPv4 settings by their name in /proc/sys/net/ipv4/conf, as numbered in linux/ip.h."""

_IFINFO = struct.Struct("BxHiII")


@dataclass(frozen=True, slots=True)
class Link:
    """A network device as the kernel reports it; MTU in bytes."""

    index: int
    name: str
    kind: str
    alias: str
    mac: str
    mtu: int
    up: bool
    group: int
    peer_index: int
    """Of a veth, the other end's index in the other end's namespace."""
    operational: bool
    """Whether it passes packets (RFC 2863, IF_OPER_UP): up, with a carrier, and the kernel has acted on both."""


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(0, 0, index, flags, change)


def _mac(value: str) -> bytes:
    return attribute(_IFLA_ADDRESS, bytes.fromhex(value.replace(":", "")))


def create_veth(host: str, host_mac: str, peer: str, peer_mac: str, mtu: int, namespace: int,
                group: int = 0) -> Request:
    """Both ends of a veth at once, both down: the host end here, the peer in another namespace under its final name.

    `namespace` is an open file of that namespace; an MTU of 0 leaves the kernel's default; the host end is in the
    group from its beginning. EEXIST if either name is taken. The answer is the host end since Linux 6.2, before that
    nothing.
    """
    # One queue each: by default the kernel makes one for every CPU, and a veth has no use for several but XDP.
    common = (u32(_IFLA_MTU, mtu) if mtu else b"") + u32(_IFLA_NUM_TX_QUEUES, 1) + u32(_IFLA_NUM_RX_QUEUES, 1)
    other = (_ifinfo() + text(_IFLA_IFNAME, peer) + _mac(peer_mac) + common
             + u32(_IFLA_NET_NS_FD, namespace))
    body = (_ifinfo() + text(_IFLA_IFNAME, host) + _mac(host_mac) + common
            + (u32(_IFLA_GROUP, group) if group else b"")
            + nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth"),
                     nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, other))))
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO, body, f"make veth {host} with {peer}")


def set_link(index: int, *, up: bool = False, name: str | None = None, alias: str | None = None,
             group: int | None = None, inet: Mapping[str, int] | None = None) -> Request:
    """Change an existing link: up, its name, its owner (alias), its group, IPv4 settings of INET_SETTINGS.

    The settings travel in IFLA_AF_SPEC, which spares a write to /proc for each. EEXIST if the name is taken; the
    kernel tries that first, so nothing else of the request is done then.
    """
    body = _ifinfo(index, IFF_UP if up else 0, IFF_UP if up else 0)
    if name is not None:
        body += text(_IFLA_IFNAME, name)
    if alias is not None:
        body += attribute(_IFLA_IFALIAS, alias.encode())
    if group is not None:
        body += u32(_IFLA_GROUP, group)
    if inet:
        conf = nested(_IFLA_INET_CONF, *(u32(INET_SETTINGS[name], value) for name, value in inet.items()))
        body += nested(_IFLA_AF_SPEC, nested(_AF_INET, conf))
    return Request(RTM_NEWLINK, 0, body, f"set link {index}")


def delete(index: int) -> Request:
    """Delete a link; a veth's other end goes with it. ENODEV if it is gone."""
    return Request(RTM_DELLINK, 0, _ifinfo(index), f"delete link {index}")


def delete_group(group: int) -> Request:
    """Delete all links of a group at the price of about one. ENODEV if there is none."""
    return Request(RTM_DELLINK, 0, _ifinfo() + u32(_IFLA_GROUP, group), f"delete links of group {group}")


def get(connection: Connection, which: str | int) -> Link | None:
    """The link of that name or index, None if there is none."""
    body = (_ifinfo(which) if isinstance(which, int) else _ifinfo() + text(_IFLA_IFNAME, which)) \
        + u32(_IFLA_EXT_MASK, _SKIP_STATISTICS)
    try:
        replies = connection.request([Request(RTM_GETLINK, 0, body, f"read link {which}")])
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return parse_link(replies[0][0])


def operational(connection: Connection, index: int) -> bool:
    """Whether a link passes packets, as Link has it; False if it is gone."""
    body = _ifinfo(index) + u32(_IFLA_EXT_MASK, _SKIP_STATISTICS)
    try:
        replies = connection.request([Request(RTM_GETLINK, 0, body, f"read link {index}")])[0]
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return False
        raise
    for kind, data in pairs(replies[0].body[_IFINFO.size:]):
        if kind == _IFLA_OPERSTATE:  # among the first of some fifty
            return data[0] == _OPERATIONAL
    return False


def listing(connection: Connection, kind: str = "") -> list[Link]:
    """All links, or all of one kind such as `veth`."""
    body = _ifinfo() + u32(_IFLA_EXT_MASK, _SKIP_STATISTICS)
    if kind:
        body += nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, kind))
    links = [parse_link(reply) for reply in connection.dump(Request(RTM_GETLINK, 0, body, "list links"))]
    # The kernel filters by kind where it knows the kind; where the module is not loaded it lists everything.
    return [link for link in links if not kind or link.kind == kind]


def parse_link(reply: Reply) -> Link:
    """An RTM_NEWLINK message."""
    _, _, index, flags, _ = _IFINFO.unpack_from(reply.body)
    found = parse(reply.body[_IFINFO.size:])
    info = parse(found[_IFLA_LINKINFO]) if _IFLA_LINKINFO in found else {}

    def number(kind: int) -> int:
        return as_u32(found[kind]) if kind in found else 0

    def words(where: dict[int, memoryview], kind: int) -> str:
        return as_text(where[kind]) if kind in where else ""

    return Link(index=index, name=words(found, _IFLA_IFNAME), kind=words(info, _IFLA_INFO_KIND),
                alias=words(found, _IFLA_IFALIAS),
                mac=bytes(found[_IFLA_ADDRESS]).hex(":") if _IFLA_ADDRESS in found else "",
                mtu=number(_IFLA_MTU), up=bool(flags & IFF_UP), group=number(_IFLA_GROUP),
                peer_index=number(_IFLA_LINK),
                operational=_IFLA_OPERSTATE in found and found[_IFLA_OPERSTATE][0] == _OPERATIONAL)
