"""Rules that choose in which table a packet's way is looked up (linux/fib_rules.h), of a protocol number of ours."""

from __future__ import annotations

import errno
import ipaddress
import struct
from dataclasses import dataclass

from services.node.errors import KernelError
from services.node.netlink.attributes import as_u32, attribute, parse, u32
from services.node.netlink.connection import NLM_F_CREATE, NLM_F_EXCL, Connection, Request
from services.node.netlink.network import IPNetwork
from services.node.netlink.ways import PROTOCOL

__all__ = ["PRIORITY", "Choice", "add", "delete", "listing"]

PRIORITY = 10_900
"""After the kernel's rule for addresses of this host (0), before that for the main table (32766)."""

_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_SRC, _PRIORITY, _TABLE, _PROTOCOL = 2, 6, 15, 21
_TO_TABLE = 1
_HEADER = struct.Struct("BBBBBBBBI")
_FAMILY = {4: 2, 6: 10}


@dataclass(frozen=True, slots=True)
class Choice:
    """Packets from these addresses look into that table first."""

    source: IPNetwork
    table: int


def add(choice: Choice) -> Request:
    """Add a rule; EEXIST if it is there."""
    return Request(_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, _body(choice), f"rule for packets from {choice.source}")


def delete(choice: Choice) -> Request:
    """Delete a rule; ENOENT if it is gone."""
    return Request(_DELRULE, 0, _body(choice), f"delete the rule for packets from {choice.source}")


def _body(choice: Choice) -> bytes:
    body = _HEADER.pack(_FAMILY[choice.source.version], 0, choice.source.prefixlen, 0, 0, 0, 0, _TO_TABLE, 0)
    if choice.source.prefixlen:
        body += attribute(_SRC, choice.source.network_address.packed)
    return body + u32(_PRIORITY, PRIORITY) + u32(_TABLE, choice.table) + attribute(_PROTOCOL, bytes([PROTOCOL]))


def listing(connection: Connection) -> list[Choice]:
    """All rules of ours, of both families. Raises KernelError."""
    found: list[Choice] = []
    for version, family in _FAMILY.items():
        try:
            replies = connection.dump(Request(_GETRULE, 0, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "list rules"))
        except KernelError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # a kernel without IPv6
                continue
            raise
        for reply in replies:
            attributes = parse(reply.body[_HEADER.size:])
            if bytes(attributes.get(_PROTOCOL, b"")) != bytes([PROTOCOL]) or _TABLE not in attributes:
                continue
            source = bytes(attributes[_SRC]) if _SRC in attributes else bytes(4 if version == 4 else 16)
            found.append(Choice(ipaddress.ip_network((source, _HEADER.unpack_from(reply.body)[2])),
                                as_u32(attributes[_TABLE])))
    return found
