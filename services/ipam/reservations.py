"""Reservations: addresses that are never handed out. Who holds one already keeps it.

All of them are one record: every assignment is committed on condition that it is unchanged, so once a reservation is
stored no address of it is given any more, by no process.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from muslin.errors import AlreadyExists, InvalidArgument, NotFound
from services.ipam import pools, ranges

MOST = 1000
"""Ranges in all reservations together: they are one record, which every reader reads."""


class Reservations(msgspec.Struct, frozen=True):
    """All reservations as stored."""

    ranges: dict[str, tuple[str, ...]] = {}
    """CIDRs by name of the reservation."""


def parse(cidrs: Sequence[str]) -> tuple[str, ...]:
    """Ranges as a user wrote them, normalised: single addresses get their prefix length.

    Raises:
        InvalidArgument: naming the field.
    """
    if not cidrs:
        raise InvalidArgument("reservation.cidrs must hold an address or a range")
    found = []
    for cidr in cidrs:
        try:
            found.append(str(ipaddress.ip_network(cidr)))
        except ValueError as problem:
            raise InvalidArgument(f"reservation.cidrs: {problem}; write 10.0.0.1 or 10.0.0.0/28") from None
    return tuple(dict.fromkeys(found))


def add(present: Reservations, name: str, cidrs: tuple[str, ...]) -> Reservations:
    """The record with one more.

    Raises:
        InvalidArgument: the name can not be one, or there are too many.
        AlreadyExists: it is taken.
    """
    pools.check_name("reservation", name)
    if name in present.ranges:
        raise AlreadyExists(f"reservation {name} exists already")
    if sum(map(len, present.ranges.values())) + len(cidrs) > MOST:
        raise InvalidArgument(f"reservation.cidrs: at most {MOST} ranges can be reserved; use wider ones")
    return Reservations({**present.ranges, name: cidrs})


def remove(present: Reservations, name: str) -> Reservations:
    """The record with one less. Raises NotFound if there is no such one."""
    if name not in present.ranges:
        raise NotFound(f"reservation {name} does not exist")
    return Reservations({other: cidrs for other, cidrs in present.ranges.items() if other != name})


def of(present: Reservations, address: str) -> str:
    """Name of the first reservation, by name, that an address is in; empty if it is in none."""
    return next((name for name, cidrs in sorted(present.ranges.items())
                 if any(ranges.within(cidr, address) for cidr in cidrs)), "")


class Reserved:
    """Reservations, ready to be asked often."""

    def __init__(self, present: Reservations) -> None:
        self.record = present
        self._merged = {family: _merged(present.ranges, family) for family in ranges.FAMILIES}
        self._blocks: dict[str, frozenset[int]] = {}

    def count(self, cidr: str) -> int:
        """Count of a range's addresses that are reserved."""
        of = ranges.span(cidr)
        return sum(max(0, min(last, of.first + of.size) - max(first, of.first))
                   for first, last in self._merged[of.family])

    def ordinals(self, cidr: str) -> frozenset[int]:
        """Ordinals of a block's addresses that are reserved."""
        if not self.record.ranges:
            return _NONE
        if (known := self._blocks.get(cidr)) is None:
            of = ranges.span(cidr)
            known = self._blocks[cidr] = frozenset(
                ordinal for first, last in self._merged[of.family]
                for ordinal in range(max(first, of.first) - of.first, min(last, of.first + of.size) - of.first))
        return known


_NONE: frozenset[int] = frozenset()


def _merged(reserved: Mapping[str, Iterable[str]], family: int) -> list[tuple[int, int]]:
    """Numbers [first, end) of what is reserved, in order and without overlap."""
    spans = sorted((of.first, of.first + of.size) for cidrs in reserved.values() for cidr in cidrs
                   if (of := ranges.span(cidr)).family == family)
    merged: list[tuple[int, int]] = []
    for first, end in spans:
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((first, end))
    return merged
