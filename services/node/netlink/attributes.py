"""Netlink attributes: length, type, data, padded to four bytes (linux/netlink.h, struct nlattr)."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

NESTED = 0x8000
"""NLA_F_NESTED: the data is attributes again."""

TYPE_MASK = 0x3FFF
"""Without the flags NLA_F_NESTED and NLA_F_NET_BYTEORDER."""

MAX_LENGTH = 0xFFFF
"""An attribute's length has 16 bits, its header of 4 bytes included."""

_HEADER = struct.Struct("HH")
_U32 = struct.Struct("I")
_BE32 = struct.Struct(">I")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute. Raises struct.error if the data is longer than 65,531 bytes."""
    length = len(data) + 4
    return _HEADER.pack(length, kind) + data + _PADDING[length & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """A string with its final zero."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """An unsigned number in the host's byte order, as rtnetlink has them."""
    return attribute(kind, _U32.pack(value))


def be32(kind: int, value: int) -> bytes:
    """An unsigned number in network byte order, as nf_tables has them."""
    return attribute(kind, _BE32.pack(value & 0xFFFFFFFF))


def pairs(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type (without flags) and data of each attribute, in order; a damaged tail ends the walk."""
    view = memoryview(data)
    offset = 0
    while offset + 4 <= len(view):
        length, kind = _HEADER.unpack_from(view, offset)
        if length < 4 or offset + length > len(view):
            return
        yield kind & TYPE_MASK, view[offset + 4:offset + length]
        offset += length + 3 & ~3


def parse(data: bytes | memoryview) -> dict[int, memoryview]:
    """Attributes by type; of several of one type the last."""
    return dict(pairs(data))


def as_text(data: memoryview) -> str:
    """A string attribute's value."""
    return bytes(data).rstrip(b"\0").decode(errors="replace")


def as_u32(data: memoryview) -> int:
    """A number in the host's byte order."""
    return int.from_bytes(data, sys.byteorder)
