"""The table as transactions: whole, or the difference between two states of some parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from services.node.enforce import names
from services.node.enforce.drops import LOOSE_SETS, reason_rules
from services.node.enforce.matches import family, protocols
from services.node.enforce.names import Direction, Reason
from services.node.enforce.parts import Chain, Element, Part, Set
from services.node.nft import expressions as x
from services.node.nft import messages as m
from services.node.nft.expressions import KeyType
from services.node.nft.messages import Message, Target

__all__ = ["FRAME_CHAINS", "FRAME_SETS", "LAYOUT", "MAPS", "frame", "merged", "repair", "replacement", "transition"]

_CHAINS_ENTERED = ((names.FORWARD_EGRESS, m.HOOK_FORWARD, -1), (names.FORWARD_INGRESS, m.HOOK_FORWARD, 0),
                   (names.INPUT, m.HOOK_INPUT, 0))
_TABLE = names.TABLE

LAYOUT = "made by muslin-node, which undoes changes by others; layout 2"
"""Comment of the table. A table with another one has other chains and sets, and is replaced whole."""

MAPS = (names.FROM_POD, names.TO_POD)
"""Those of the frame's sets that lead to chains."""

FRAME_SETS: dict[str, KeyType] = {
    names.FROM_POD: x.INTERFACE, names.TO_POD: x.INTERFACE,
    names.SOURCES_4: x.joined(x.INTERFACE, x.IPV4), names.SOURCES_6: x.joined(x.INTERFACE, x.IPV6)}
"""Sets that are there whatever the program is."""

_REASONS = ((Direction.EGRESS, Reason.PENDING), (Direction.EGRESS, Reason.INVALID), (Direction.EGRESS, Reason.SOURCE),
            (Direction.EGRESS, Reason.LOOPBACK), (Direction.INGRESS, Reason.PENDING),
            (Direction.INGRESS, Reason.INVALID))

FRAME_CHAINS = frozenset({names.FORWARD_EGRESS, names.FORWARD_INGRESS, names.INPUT, names.FROM_GUARD, names.TO_GUARD,
                          *(names.reason_chain(*each) for each in _REASONS)})
"""Chains that are."""

_ICMPV6 = 58
_NEIGHBOUR_DISCOVERY = (133, 135, 136)  # router and neighbour solicitation, neighbour advertisement (RFC 4861)
_TCP = 6
_TCP_FLAGS, _FIN_SYN_RST_ACK, _SYN = 13, b"\x17", b"\x02"


def _interface(key: int, prefix: str) -> tuple[bytes, ...]:
    return x.meta(key), x.compare(prefix.encode())


def frame(prefixes: Sequence[str]) -> dict[str, Chain]:
    """The chains that are there whatever the program is.

    An interface that has one of the prefixes and is in no map is a pod's whose policy is not in yet: it is dropped.
    """
    established = x.Rule((*x.has_bits(x.CT_STATE, x.ESTABLISHED | x.RELATED), x.verdict(x.ACCEPT)))

    def drop(direction: Direction, reason: Reason) -> tuple[bytes, ...]:
        return (x.verdict(x.GOTO, names.reason_chain(direction, reason)),)

    def dispatch(key: int, name: str, direction: Direction) -> tuple[x.Rule, ...]:
        unknown = (x.Rule((*_interface(key, prefix), *drop(direction, Reason.PENDING))) for prefix in prefixes)
        return established, x.Rule((x.meta(key), x.lookup(name, to_verdict=True))), *unknown

    def invalid(direction: Direction) -> tuple[x.Rule, ...]:
        """A packet that belongs to no connection and begins none.

        Conntrack takes any TCP packet for the first of a connection that it missed. One that was cut must not come
        back that way: from the other end it may look like one that is allowed.
        """
        verdict = drop(direction, Reason.INVALID)
        return (x.Rule((*x.has_bits(x.CT_STATE, x.INVALID), *verdict)),
                x.Rule((*x.has_bits(x.CT_STATE, x.NEW), *protocols([_TCP]),
                        x.payload(x.TRANSPORT_HEADER, _TCP_FLAGS, 1), x.bitwise(_FIN_SYN_RST_ACK),
                        x.compare(_SYN, x.NOT_EQUAL), *verdict)))

    discovery = x.Rule((
        *family(6), *protocols([_ICMPV6]), x.payload(x.TRANSPORT_HEADER, 0, 1),
        x.Anonymous(x.ICMPV6_TYPE, tuple((bytes([kind]), False) for kind in _NEIGHBOUR_DISCOVERY), interval=False),
        x.verdict(x.ACCEPT)))
    out = Direction.EGRESS
    return {
        names.FORWARD_EGRESS: Chain(dispatch(x.META_IIFNAME, names.FROM_POD, out)),
        names.FORWARD_INGRESS: Chain(dispatch(x.META_OIFNAME, names.TO_POD, Direction.INGRESS)),
        names.INPUT: Chain((discovery, *dispatch(x.META_IIFNAME, names.FROM_POD, out))),
        names.FROM_GUARD: Chain((
            *invalid(out),
            *(x.Rule((*family(version), x.meta(x.META_IIFNAME),
                      x.payload(x.NETWORK_HEADER, start, length, offset=16), x.lookup(name, invert=True),
                      *drop(out, Reason.SOURCE)))
              for version, start, length, name in ((4, 12, 4, names.SOURCES_4), (6, 8, 16, names.SOURCES_6))),
            # The host's own services on 127.0.0.0/8 think that only the host reaches them (CVE-2020-8558).
            x.Rule((*family(4), *x.fits(bytes((127, 0, 0, 0)), 8, x.NETWORK_HEADER, 16),
                    *x.has_bits(x.CT_STATUS, x.DESTINATION_TRANSLATED, invert=True), *drop(out, Reason.LOOPBACK))))),
        names.TO_GUARD: Chain(invalid(Direction.INGRESS)),
        **{names.reason_chain(*each): Chain(reason_rules(*each)) for each in _REASONS},
    }


def replacement(parts: Iterable[Part], prefixes: Sequence[str]) -> list[Message]:
    """The whole table in place of whatever is there, in one transaction.

    No packet sees a moment between, but one that is in the old table when it goes may find its maps empty and be
    dropped; where the old table is of this layout, `repair` spares it that.
    """
    new = merged(parts)
    ids = itertools.count(1)
    return [
        # To delete what may not exist: make it first.
        m.add_table(_TABLE),
        m.delete_table(_TABLE),
        m.add_table(_TABLE, LAYOUT),
        *(m.add_set(_TABLE, name, key, next(ids), verdicts=name in MAPS) for name, key in FRAME_SETS.items()),
        *(m.add_set(_TABLE, name, each.key, next(ids), flags=each.flags, size=each.size)
          for name, each in LOOSE_SETS.items()),
        *(m.add_chain(_TABLE, name, hook=hook, priority=priority) for name, hook, priority in _CHAINS_ENTERED),
        *(m.add_chain(_TABLE, name) for name in sorted(FRAME_CHAINS - {name for name, _, _ in _CHAINS_ENTERED})),
        *_frame_rules(prefixes, ids),
        *_additions(Part(), new, ids),
        *_changes(Part(), new, ids),
    ]


def repair(actual: Part, parts: Iterable[Part], prefixes: Sequence[str]) -> list[list[Message]]:
    """Transactions that turn a table of this layout, read from the kernel, into the one wanted."""
    new = merged(parts)
    ids = itertools.count(1)
    flushed = (m.flush_chain(_TABLE, name) for name in frame(prefixes))
    return [list(_additions(actual, new, ids)),
            [*flushed, *_frame_rules(prefixes, ids), *_changes(actual, new, ids)]]


def transition(old: Iterable[Part], new: Iterable[Part]) -> list[list[Message]]:
    """Transactions that turn the old state of some parts into the new, leaving all others alone.

    Two where elements come to lead to new chains: the first only adds what nothing leads to. A packet that is under
    way keeps to the rules it began with, but finds the elements of this very moment; were their chains new with
    them, it would find those without rules.
    """
    before, after = merged(old), merged(new)
    ids = itertools.count(1)
    additions, changes = list(_additions(before, after, ids)), list(_changes(before, after, ids))
    fresh = after.chains.keys() - before.chains.keys()
    if any(target is not None and target.chain in fresh for target in after.elements.values()):
        return [additions, changes]
    return [additions + changes] if additions or changes else []


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


def _frame_rules(prefixes: Sequence[str], ids: Iterator[int]) -> Iterator[Message]:
    for name, chain in frame(prefixes).items():
        yield from m.add_rules(_TABLE, name, chain.rules, ids)


def _additions(old: Part, new: Part, ids: Iterator[int]) -> Iterator[Message]:
    """Sets and chains that are new, with all in them; nothing leads to them yet."""
    for name, wanted in new.sets.items():
        if name not in old.sets:
            yield m.add_set(_TABLE, name, wanted.key, next(ids), wanted.comment)
            yield from m.add_elements(_TABLE, name, sorted(wanted.keys))
    fresh = {name: chain for name, chain in new.chains.items() if name not in old.chains}
    yield from (m.add_chain(_TABLE, name, chain.comment) for name, chain in fresh.items())
    for name, chain in fresh.items():
        yield from m.add_rules(_TABLE, name, chain.rules, ids)


def _changes(old: Part, new: Part, ids: Iterator[int]) -> Iterator[Message]:
    """Everything else: what stays is altered, then elements are, then what has gone is deleted."""
    for name, wanted in new.sets.items():
        if name in old.sets:
            had = old.sets[name].keys
            yield from m.delete_elements(_TABLE, name, sorted(had - wanted.keys))
            yield from m.add_elements(_TABLE, name, sorted(wanted.keys - had))
    for name, chain in new.chains.items():
        if name in old.chains and old.chains[name].rules != chain.rules:
            yield m.flush_chain(_TABLE, name)
            yield from m.add_rules(_TABLE, name, chain.rules, ids)
    yield from _elements(old.elements, new.elements)
    gone = sorted(old.chains.keys() - new.chains.keys())
    # All emptied before any is deleted: they may lead to each other.
    yield from (m.flush_chain(_TABLE, name) for name in gone)
    yield from (m.delete_chain(_TABLE, name) for name in gone)
    yield from (m.delete_set(_TABLE, name) for name in sorted(old.sets.keys() - new.sets.keys()))


def _elements(old: Mapping[Element, Target | None], new: Mapping[Element, Target | None]) -> Iterator[Message]:
    for name in FRAME_SETS:
        gone = sorted(e.key for e, target in old.items() if e.set == name and (e not in new or new[e] != target))
        yield from m.delete_elements(_TABLE, name, gone)
    for name in FRAME_SETS:
        fresh = {e.key: target for e, target in new.items()
                 if e.set == name and (e not in old or old[e] != target)}
        if name in MAPS:
            yield from m.add_map_elements(_TABLE, name, {k: t for k, t in fresh.items() if t is not None})
        else:
            yield from m.add_elements(_TABLE, name, fresh)
