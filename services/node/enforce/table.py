"""The table as transactions: whole, or the difference between two states of some parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from services.node.enforce import names
from services.node.enforce.matches import family, protocols
from services.node.enforce.parts import Chain, Element, Part, Set, drop_invalid
from services.node.nft import expressions as x
from services.node.nft import messages as m
from services.node.nft.expressions import KeyType
from services.node.nft.messages import Message, Target

__all__ = ["MAPS", "frame", "replacement", "transition"]

_CHAINS_ENTERED = ((names.FORWARD_EGRESS, m.HOOK_FORWARD, -1), (names.FORWARD_INGRESS, m.HOOK_FORWARD, 0),
                   (names.INPUT, m.HOOK_INPUT, 0))
MAPS = (names.FROM_POD, names.TO_POD)
_FRAME_SETS: dict[str, KeyType] = {
    names.FROM_POD: x.INTERFACE, names.TO_POD: x.INTERFACE,
    names.SOURCES_4: x.joined(x.INTERFACE, x.IPV4), names.SOURCES_6: x.joined(x.INTERFACE, x.IPV6)}

_ICMPV6 = 58
_NEIGHBOUR_DISCOVERY = (133, 135, 136)  # router and neighbour solicitation, neighbour advertisement (RFC 4861)
_DROP = (x.counter(), x.verdict(x.DROP))


def _interface(key: int, prefix: str) -> tuple[bytes, ...]:
    return x.meta(key), x.compare(prefix.encode())


def frame(prefixes: Sequence[str]) -> dict[str, Chain]:
    """The chains that are there whatever the program is.

    An interface that has one of the prefixes and is in no map is a pod's whose policy is not in yet: it is dropped.
    """
    established = x.Rule((*x.has_bits(x.CT_STATE, x.ESTABLISHED | x.RELATED), x.verdict(x.ACCEPT)))

    def dispatch(key: int, name: str) -> tuple[x.Rule, ...]:
        unknown = (x.Rule((*_interface(key, prefix), *_DROP), "no policy yet") for prefix in prefixes)
        return established, x.Rule((x.meta(key), x.lookup(name, to_verdict=True))), *unknown

    discovery = x.Rule((
        *family(6), *protocols([_ICMPV6]), x.payload(x.TRANSPORT_HEADER, 0, 1),
        x.Anonymous(x.ICMPV6_TYPE, tuple((bytes([kind]), False) for kind in _NEIGHBOUR_DISCOVERY), interval=False),
        x.verdict(x.ACCEPT)))
    return {
        names.FORWARD_EGRESS: Chain(dispatch(x.META_IIFNAME, names.FROM_POD)),
        names.FORWARD_INGRESS: Chain(dispatch(x.META_OIFNAME, names.TO_POD)),
        names.INPUT: Chain((discovery, *dispatch(x.META_IIFNAME, names.FROM_POD))),
        names.GUARD: Chain((
            drop_invalid(),
            *(x.Rule((*family(version), x.meta(x.META_IIFNAME),
                      x.payload(x.NETWORK_HEADER, start, length, offset=16), x.lookup(name, invert=True), *_DROP),
                     "not its own address")
              for version, start, length, name in ((4, 12, 4, names.SOURCES_4), (6, 8, 16, names.SOURCES_6))),
            # The host's own services on 127.0.0.0/8 think that only the host reaches them (CVE-2020-8558).
            x.Rule((*family(4), *x.fits(bytes((127, 0, 0, 0)), 8, x.NETWORK_HEADER, 16),
                    *x.has_bits(x.CT_STATUS, x.DESTINATION_TRANSLATED, invert=True), *_DROP),
                   "the host's loopback"))),
    }


def replacement(parts: Iterable[Part], prefixes: Sequence[str]) -> list[Message]:
    """The whole table in place of whatever is there, in one transaction: no packet sees a moment between."""
    table = names.TABLE
    new = merged(parts)
    ids = itertools.count(1)
    return [
        # To delete what may not exist: make it first.
        m.add_table(table),
        m.delete_table(table),
        m.add_table(table, "made by muslin-node, which undoes changes by others"),
        *(m.add_set(table, name, key, next(ids), verdicts=name in MAPS) for name, key in _FRAME_SETS.items()),
        *(m.add_chain(table, name, hook=hook, priority=priority) for name, hook, priority in _CHAINS_ENTERED),
        m.add_chain(table, names.GUARD),
        *(message for name, chain in frame(prefixes).items() for message in m.add_rules(table, name, chain.rules, ids)),
        *_difference(Part(), new, ids),
    ]


def transition(old: Iterable[Part], new: Iterable[Part]) -> list[Message]:
    """What turns the old state of some parts into the new, leaving all others alone."""
    return list(_difference(merged(old), merged(new), itertools.count(1)))


def merged(parts: Iterable[Part]) -> Part:
    """Several parts as one."""
    sets: dict[str, Set] = {}
    chains: dict[str, Chain] = {}
    elements: dict[Element, Target | None] = {}
    for part in parts:
        sets.update(part.sets)
        chains.update(part.chains)
        elements.update(part.elements)
    return Part(sets, chains, elements)


def _difference(old: Part, new: Part, ids: Iterator[int]) -> Iterator[Message]:
    """Things first, then what refers to them; what referred first, then the things."""
    table = names.TABLE
    for name, wanted in new.sets.items():
        there = old.sets.get(name)
        if there is None:
            yield m.add_set(table, name, wanted.key, next(ids), wanted.comment)
        had = there.keys if there is not None else frozenset[bytes]()
        yield from m.delete_elements(table, name, sorted(had - wanted.keys))
        yield from m.add_elements(table, name, sorted(wanted.keys - had))
    yield from (m.add_chain(table, name, chain.comment) for name, chain in new.chains.items()
                if name not in old.chains)
    for name, chain in new.chains.items():
        before = old.chains.get(name)
        if before is None or before.rules != chain.rules:
            if before is not None:
                yield m.flush_chain(table, name)
            yield from m.add_rules(table, name, chain.rules, ids)
    yield from _elements(old.elements, new.elements)
    gone = old.chains.keys() - new.chains.keys()
    # All emptied before any is deleted: they may lead to each other.
    yield from (m.flush_chain(table, name) for name in sorted(gone))
    yield from (m.delete_chain(table, name) for name in sorted(gone))
    yield from (m.delete_set(table, name) for name in sorted(old.sets.keys() - new.sets.keys()))


def _elements(old: Mapping[Element, Target | None], new: Mapping[Element, Target | None]) -> Iterator[Message]:
    for name in _FRAME_SETS:
        gone = sorted(e.key for e, target in old.items() if e.set == name and (e not in new or new[e] != target))
        yield from m.delete_elements(names.TABLE, name, gone)
    for name in _FRAME_SETS:
        fresh = {e.key: target for e, target in new.items()
                 if e.set == name and (e not in old or old[e] != target)}
        if name in MAPS:
            yield from m.add_map_elements(names.TABLE, name, {k: t for k, t in fresh.items() if t is not None})
        else:
            yield from m.add_elements(names.TABLE, name, fresh)
