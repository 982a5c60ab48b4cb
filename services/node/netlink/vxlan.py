"""A VXLAN device and where it sends to: nothing is learned and nothing flooded (linux/if_link.h, linux/neighbour.h)."""

from __future__ import annotations

import errno
import ipaddress
import struct
from dataclasses import dataclass

from services.node.errors import KernelError
from services.node.netlink.attributes import as_text, as_u32, attribute, nested, parse, text, u32
from services.node.netlink.connection import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Connection, Request
from services.node.netlink.network import IPAddress

__all__ = ["Tunnel", "add_remote", "create", "delete_neighbour", "delete_remote", "get", "remotes", "set_mtu"]

_NEWLINK, _GETLINK, _NEWNEIGH, _DELNEIGH, _GETNEIGH = 16, 18, 28, 29, 30
_ADDRESS, _NAME, _MTU, _LINKINFO, _EXT_MASK = 1, 3, 4, 18, 29
_KIND, _DATA = 1, 2
_ID, _LOCAL, _LEARNING, _PORT, _LOCAL_6 = 1, 4, 7, 15, 17
_DST, _LLADDR = 1, 2
_AF_BRIDGE, _SELF, _PERMANENT = 7, 0x02, 0x80
_SKIP_STATISTICS = 1 << 3
_IFINFO = struct.Struct("BxHiII")
_NDMSG = struct.Struct("BxxxiHBB")
_FAMILY = {4: 2, 6: 10}


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What a VXLAN device is made with: network identifier, UDP port, the outer source, MAC address."""

    vni: int
    port: int
    local: IPAddress
    mac: str


def create(name: str, tunnel: Tunnel, mtu: int) -> Request:
    """Make it, down; EEXIST if the name is taken, or another device has the identifier on that port."""
    local = attribute(_LOCAL if tunnel.local.version == 4 else _LOCAL_6, tunnel.local.packed)
    data = nested(_DATA, u32(_ID, tunnel.vni), local, attribute(_LEARNING, b"\0"),
                  attribute(_PORT, tunnel.port.to_bytes(2, "big")))
    body = (_IFINFO.pack(0, 0, 0, 0, 0) + text(_NAME, name) + attribute(_ADDRESS, _raw(tunnel.mac)) + u32(_MTU, mtu)
            + nested(_LINKINFO, text(_KIND, "vxlan"), data))
    return Request(_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"make the VXLAN device {name}")


def get(connection: Connection, index: int) -> Tunnel | None:
    """What a device was made with; None if it is none of VXLAN, or gone. Raises KernelError."""
    body = _IFINFO.pack(0, 0, index, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)
    try:
        reply = connection.request([Request(_GETLINK, 0, body, f"read link {index}")])[0][0]
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    link = parse(reply.body[_IFINFO.size:])
    info = parse(link[_LINKINFO]) if _LINKINFO in link else {}
    if _KIND not in info or as_text(info[_KIND]) != "vxlan" or _DATA not in info:
        return None
    data = parse(info[_DATA])
    local = data.get(_LOCAL) or data.get(_LOCAL_6)
    if local is None or bytes(data.get(_LEARNING, b"\1")) != b"\0":
        return None  # not as ours is
    return Tunnel(as_u32(data[_ID]), int.from_bytes(data[_PORT], "big"), ipaddress.ip_address(bytes(local)),
                  bytes(link[_ADDRESS]).hex(":"))


def set_mtu(index: int, mtu: int) -> Request:
    """How long packets may be that it takes."""
    return Request(_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + u32(_MTU, mtu), f"set the MTU of link {index}")


def add_remote(index: int, mac: str, remote: IPAddress) -> Request:
    """Frames to a MAC address go to one outer destination, and to no other."""
    return Request(_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, _remote(index, mac, remote), f"send {mac} to {remote}")


def delete_remote(index: int, mac: str, remote: IPAddress) -> Request:
    """They go nowhere any more; ENOENT if they did not."""
    return Request(_DELNEIGH, 0, _remote(index, mac, remote), f"no longer send {mac} to {remote}")


def _remote(index: int, mac: str, remote: IPAddress) -> bytes:
    return (_NDMSG.pack(_AF_BRIDGE, index, _PERMANENT, _SELF, 0) + attribute(_LLADDR, _raw(mac))
            + attribute(_DST, remote.packed))


def remotes(connection: Connection, index: int) -> set[tuple[str, IPAddress]]:
    """MAC addresses and where they go to. Raises KernelError."""
    found = set()
    for reply in connection.dump(Request(_GETNEIGH, 0, _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0), "list VXLAN's ways")):
        family, device, _, _, _ = _NDMSG.unpack_from(reply.body)
        attributes = parse(reply.body[_NDMSG.size:])
        if family == _AF_BRIDGE and device == index and {_DST, _LLADDR} <= attributes.keys():
            found.add((bytes(attributes[_LLADDR]).hex(":"), ipaddress.ip_address(bytes(attributes[_DST]))))
    return found


def delete_neighbour(index: int, address: IPAddress) -> Request:
    """Forget the MAC address of a neighbour; ENOENT if there is none."""
    body = _NDMSG.pack(_FAMILY[address.version], index, 0, 0, 0) + attribute(_DST, address.packed)
    return Request(_DELNEIGH, 0, body, f"delete neighbour {address} of link {index}")


def _raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
