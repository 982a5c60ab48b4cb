"""Expressions: the instructions a rule is made of (linux/netfilter/nf_tables.h).

A rule is a tuple of parts: encoded expressions, and sets without a name that belong to the rule alone. An expression
loads a value into a register, compares it, or gives a verdict; the first that does not match ends the rule.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from services.node.netlink.attributes import attribute, be32, nested, text

__all__ = ["ACCEPT", "DROP", "GOTO", "JUMP", "Anonymous", "KeyType", "Part", "Rule", "bitwise", "compare", "counter",
           "ct", "fits", "has_bits", "intervals", "limit", "load", "log", "lookup", "masquerade", "meta",
           "no_way_back", "payload", "report", "tally", "verdict"]

DROP, ACCEPT, JUMP, GOTO = 0, 1, -3, -4

META_NFPROTO, META_L4PROTO, META_IIFNAME, META_OIFNAME = 15, 16, 6, 7
CT_STATE, CT_STATUS = 0, 2
INVALID, ESTABLISHED, RELATED, NEW = 1, 2, 4, 8
"""Bits of CT_STATE."""
DESTINATION_TRANSLATED = 32
"""Bit of CT_STATUS: IPS_DST_NAT."""
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
EQUAL, NOT_EQUAL = 0, 1

REGISTER = 1
"""The first 16-byte register. Keys of several fields go on in the 4-byte registers behind its start."""

LOG_PREFIX_BYTES = 127
"""Longest prefix of a line in the kernel log."""

_SLOT_0 = 8  # NFT_REG32_00 is the start of REGISTER
_FIB_DEVICE, _FIB_SOURCE, _FIB_INTERFACE, _FIB_PRESENT = 1, 1, 8, 32
_LOOKUP_INVERT = 1
_MASK_ONES = 0xFF


class KeyType(NamedTuple):
    """Type of a set's keys: the number by which nft(8) prints it, length in bytes, byte order (1 host, 2 network)."""

    number: int
    length: int
    byteorder: int


IPV4 = KeyType(7, 4, 2)
IPV6 = KeyType(8, 16, 2)
PROTOCOL = KeyType(12, 1, 2)
PORT = KeyType(13, 2, 2)
MARK = KeyType(19, 4, 1)
ICMPV6_TYPE = KeyType(29, 1, 2)
INTERFACE = KeyType(41, 16, 1)


def joined(*fields: KeyType) -> KeyType:
    """Type of a key made of several fields, each padded to four bytes."""
    number = 0
    for field in fields:
        number = number << 6 | field.number
    return KeyType(number, sum(field.length + 3 & ~3 for field in fields), 0)


@dataclass(frozen=True, slots=True)
class Anonymous:
    """A set without a name, written in one rule and gone with it; looks up the register."""

    key: KeyType
    elements: tuple[tuple[bytes, bool], ...]
    """Keys in order; True marks the first key after an interval."""
    interval: bool
    invert: bool = False


Part = bytes | Anonymous


@dataclass(frozen=True, slots=True)
class Rule:
    """What one rule does, and a comment that `nft list` shows."""

    parts: tuple[Part, ...]
    comment: str = ""


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *attributes))


def _slot(offset: int) -> int:
    """Register that begins `offset` bytes behind REGISTER's start."""
    return _SLOT_0 + offset // 4 if offset else REGISTER


@cache
def meta(key: int, offset: int = 0) -> bytes:
    """Load a fact about the packet: its family, protocol, interface."""
    return _expression("meta", be32(2, key), be32(1, _slot(offset)))


@cache
def ct(key: int) -> bytes:
    """Load a fact about the packet's connection."""
    return _expression("ct", be32(2, key), be32(1, REGISTER))


@cache
def payload(base: int, start: int, length: int, offset: int = 0) -> bytes:
    """Load bytes of a header."""
    return _expression("payload", be32(1, _slot(offset)), be32(2, base), be32(3, start), be32(4, length))


def compare(value: bytes, operator: int = EQUAL) -> bytes:
    """Compare the register's first bytes."""
    return _expression("cmp", be32(1, REGISTER), be32(2, operator), nested(3, attribute(1, value)))


def within(first: bytes, last: bytes) -> bytes:
    """The register lies between the two, both included."""
    return _expression("range", be32(1, REGISTER), be32(2, EQUAL), nested(3, attribute(1, first)),
                       nested(4, attribute(1, last)))


def bitwise(mask: bytes) -> bytes:
    """Keep only the bits of the mask."""
    return _expression("bitwise", be32(1, REGISTER), be32(2, REGISTER), be32(3, len(mask)),
                       nested(4, attribute(1, mask)), nested(5, attribute(1, bytes(len(mask)))))


def has_bits(key: int, bits: int, *, invert: bool = False) -> tuple[bytes, ...]:
    """A fact about the connection has any of the bits; with `invert` none."""
    return ct(key), bitwise(bits.to_bytes(4, sys.byteorder)), compare(bytes(4), EQUAL if invert else NOT_EQUAL)


def no_way_back(offset: int = 0) -> tuple[bytes, ...]:
    """Packets to the source of this one would not leave by the interface that it has come by."""
    route = _expression("fib", be32(1, _slot(offset)), be32(2, _FIB_DEVICE), be32(3, _FIB_SOURCE | _FIB_INTERFACE
                                                                                  | _FIB_PRESENT))
    return route, compare(b"\0")


@cache
def masquerade() -> bytes:
    """Give the connection an address of the interface it leaves by as its source; in chains of kind `nat`."""
    return _expression("masq")


def lookup(name: str, *, to_verdict: bool = False, invert: bool = False, set_id: int = 0) -> bytes:
    """The register's value is (or with `invert` is not) in a set; or is in a map, whose verdict is taken."""
    extra = be32(3, 0) if to_verdict else b""
    extra += be32(4, set_id) if set_id else b""
    extra += be32(5, _LOOKUP_INVERT) if invert else b""
    return _expression("lookup", be32(2, REGISTER), text(1, name), extra)


@cache
def counter() -> bytes:
    """Count packets and bytes."""
    return _expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8)))


def limit(rate: int, burst: int) -> bytes:
    """Go on for so many packets a second, and a burst of so many more."""
    return _expression("limit", attribute(1, rate.to_bytes(8, "big")), attribute(2, (1).to_bytes(8, "big")),
                       be32(3, burst), be32(4, 0), be32(5, 0))


def log(prefix: str) -> bytes:
    """Write the packet's headers to the kernel log; at most 127 bytes of prefix."""
    return _expression("log", attribute(2, prefix.encode()[:LOG_PREFIX_BYTES] + b"\0"))


def report(group: int, prefix: str, length: int) -> bytes:
    """Send the first bytes of the packet to whoever listens to a group of nfnetlink_log; nothing if nobody does."""
    return _expression("log", attribute(1, group.to_bytes(2, "big")), attribute(2, prefix.encode() + b"\0"),
                       be32(3, length))


def load(value: bytes, offset: int) -> bytes:
    """Load a constant behind what the registers hold."""
    return _expression("immediate", be32(1, _slot(offset)), nested(2, attribute(1, value)))


def tally(name: str) -> bytes:
    """Count the packet at the register's value in a set that grows as it must.

    Where the set is full the rule ends here: let no verdict follow in the same one.
    """
    return _expression("dynset", text(1, name), be32(3, 0), be32(4, REGISTER), nested(7, text(1, "counter"), nested(
        2, attribute(1, bytes(8)), attribute(2, bytes(8)))))


@cache
def verdict(code: int, chain: str = "") -> bytes:
    """Decide: DROP, ACCEPT, or go on in another chain."""
    return _expression("immediate", be32(1, 0), nested(2, verdict_data(code, chain)))


@cache
def verdict_data(code: int, chain: str = "") -> bytes:
    """A verdict as an element of a map holds it."""
    return nested(2, be32(1, code), text(2, chain) if chain else b"")


def fits(packed: bytes, length: int, base: int, start: int, *, invert: bool = False) -> tuple[bytes, ...]:
    """The header field at `start` begins with the first `length` bits of `packed`; with `invert` it does not.

    A whole number of bytes needs no mask: only those bytes are loaded.
    """
    operator = NOT_EQUAL if invert else EQUAL
    whole, rest = divmod(length, 8)
    if not rest:
        return payload(base, start, whole), compare(packed[:whole], operator)
    mask = bytes([_MASK_ONES] * whole + [_MASK_ONES << 8 - rest & _MASK_ONES]).ljust(len(packed), b"\0")
    return payload(base, start, len(packed)), bitwise(mask), compare(packed, operator)


def intervals(key: KeyType, ranges: Iterable[tuple[int, int]], *, invert: bool = False) -> Anonymous:
    """A set of ranges, both ends included, in any order, overlapping or not."""
    merged: list[list[int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    limit = (1 << 8 * key.length) - 1
    elements: list[tuple[bytes, bool]] = []
    if merged and merged[0][0]:
        # nft(8) reads the elements as a walk over all values and wants to be told that it starts outside.
        elements.append((bytes(key.length), True))
    for first, last in merged:
        elements.append((first.to_bytes(key.length, "big"), False))
        if last < limit:
            elements.append(((last + 1).to_bytes(key.length, "big"), True))
    return Anonymous(key, tuple(elements), interval=True, invert=invert)
