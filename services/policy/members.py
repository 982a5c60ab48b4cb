"""Sets of texts of which every version is cheap: what groups hold.

A node may have been sent an older version of a group, so versions live beside each other. A set of 100,000 that is
copied for each member that comes or goes costs milliseconds and megabytes each time. Here the members lie in buckets by
their hash, and versions share the buckets in which they do not differ: a change copies one bucket and the list of them,
and the difference of two versions is looked for only in the buckets that are not the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import chain

__all__ = ["Members"]

_FULL = 64
"""Members of a bucket in the mean when a set is made; it is made anew at twice as many, or a quarter."""


class Members(Set[str]):
    """A set that never changes; `changed` makes another of it. Equal to any set of the same members."""

    __slots__ = ("_buckets", "_count")

    def __init__(self, members: Iterable[str] = ()) -> None:
        every = frozenset(members)
        self._count = len(every)
        number = 1 << max(0, (self._count - 1) // _FULL).bit_length()
        self._buckets: tuple[frozenset[str], ...] = (every,)
        if number > 1:
            sorted_in: list[list[str]] = [[] for _ in range(number)]
            for member in every:
                sorted_in[hash(member) & number - 1].append(member)
            self._buckets = tuple(map(frozenset, sorted_in))

    def __contains__(self, member: object) -> bool:
        return member in self._buckets[hash(member) & len(self._buckets) - 1]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._buckets)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Members) and len(self._buckets) == len(other._buckets):
            return self._count == other._count and self._buckets == other._buckets
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # a hash of all members would cost what this class is to save

    def __repr__(self) -> str:
        return f"Members({sorted(self)})"

    def changed(self, added: Iterable[str], removed: Iterable[str]) -> Members:
        """The set without those that are removed, and with those that are added."""
        buckets, mask, count = list(self._buckets), len(self._buckets) - 1, self._count
        touched: dict[int, tuple[list[str], list[str]]] = {}
        for kind, members in enumerate((added, removed)):
            for member in members:
                touched.setdefault(hash(member) & mask, ([], []))[kind].append(member)
        for number, (more, less) in touched.items():
            bucket = buckets[number].difference(less).union(more)
            count += len(bucket) - len(buckets[number])
            buckets[number] = bucket
        if count > 2 * _FULL * len(buckets) or (mask and 4 * count < _FULL * len(buckets)):
            return Members(chain.from_iterable(buckets))
        result = Members.__new__(Members)
        result._buckets, result._count = tuple(buckets), count
        return result

    def without(self, other: Members) -> list[str]:
        """Those that are not in another set, sorted."""
        if len(self._buckets) != len(other._buckets):
            return sorted(member for member in self if member not in other)
        return sorted(chain.from_iterable(mine - theirs for mine, theirs in zip(self._buckets, other._buckets,
                                                                                strict=True) if mine is not theirs))
