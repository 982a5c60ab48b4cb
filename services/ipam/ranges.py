"""Ranges of addresses as numbers: a block or a pool is looked at on every request, and parsed once."""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import NamedTuple

FAMILIES = (4, 6)


class Span(NamedTuple):
    """A range as numbers."""

    first: int
    """Number of the first address."""
    size: int
    """Count of addresses."""
    family: int
    """4 or 6."""


@lru_cache(maxsize=65536)
def span(cidr: str) -> Span:
    """A range. Raises ValueError if it is none, or has host bits set."""
    network = ipaddress.ip_network(cidr)
    return Span(int(network.network_address), network.num_addresses, network.version)


def bits(family: int) -> int:
    """Length of an address."""
    return 32 if family == 4 else 128


def text(number: int, family: int) -> str:
    """An address as it is written."""
    return socket.inet_ntoa(number.to_bytes(4)) if family == 4 else str(ipaddress.IPv6Address(number))


def number(address: str) -> tuple[int, int]:
    """Number and family of an address. Raises ValueError if it is none."""
    parsed = ipaddress.ip_address(address)
    return int(parsed), parsed.version


def within(cidr: str, address: str) -> bool:
    """Whether an address is in a range."""
    of, (asked, family) = span(cidr), number(address)
    return of.family == family and 0 <= asked - of.first < of.size


def holds(outer: str, inner: str) -> bool:
    """Whether a range lies within another."""
    one, other = span(outer), span(inner)
    return (one.family == other.family and one.first <= other.first
            and other.first + other.size <= one.first + one.size)
