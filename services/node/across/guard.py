"""What guards the ways between nodes, and masquerades: a table of our own, apart from that of policy.

Policy judges by addresses, so addresses must be true: a packet with the source of a pod comes in only where packets to
that pod would go out, and VXLAN only from nodes. It is written whole, in one transaction, whenever it is to change or
somebody else has changed it; there are few rules, and they change as pools and nodes do.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.node.across.ground import DEVICE
from services.node.enforce.matches import destination_ports, family, in_nets, protocols
from services.node.netlink.network import IPAddress, IPNetwork
from services.node.nft import expressions as x
from services.node.nft import messages as m
from services.node.nft.connection import Nftables
from services.node.nft.expressions import Part, Rule
from services.node.nft.messages import Message

__all__ = ["TABLE", "Guard", "Wanted", "chains", "remembered", "replacement"]

TABLE = "muslin-nodes"
LAYOUT = "made by muslin-node: between nodes; layout 2"
"""Comment of the table. One with another is replaced whole."""

FORWARDED = "forwarded-"
"""Begins the names of chains that stand for links."""

SOURCES, TUNNEL, PODS, MASQUERADE = "sources", "tunnel", "tunnel-of-pods", "masquerade"

_INET = 1
_UDP = 17
_SOURCE, _DESTINATION = {4: 12, 6: 8}, {4: 16, 6: 24}
_ADDRESS = {4: x.IPV4, 6: x.IPV6}
_VNI_AT = 12
"""Of the UDP header: behind it and the first four bytes of VXLAN's (RFC 7348, section 5)."""


class _Entered(NamedTuple):
    hook: int
    priority: int
    kind: str


_CHAINS = {
    # As early as may be, behind what puts fragments together.
    SOURCES: _Entered(m.HOOK_PREROUTING, -150, "filter"),
    TUNNEL: _Entered(m.HOOK_INPUT, -10, "filter"),
    PODS: _Entered(m.HOOK_FORWARD, -10, "filter"),
    MASQUERADE: _Entered(m.HOOK_POSTROUTING, 100, "nat"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the rules follow from."""

    prefixes: tuple[str, ...]
    """Beginnings of the names of pods' interfaces."""
    pools: frozenset[IPNetwork] = frozenset()
    masquerade: frozenset[IPNetwork] = frozenset()
    """Those of the pools that have it."""
    nodes: frozenset[IPAddress] = frozenset()
    """Addresses of other nodes."""
    tunnel: tuple[int, int] | None = None
    """Network identifier and UDP port of VXLAN, if it is used."""


def chains(wanted: Wanted) -> dict[str, tuple[Rule, ...]]:
    """The rules of each chain."""
    return {SOURCES: (*(rule for version in (4, 6) for rule in _sources(wanted, version)), _mark(wanted)),
            TUNNEL: tuple(rule for version in (4, 6) for rule in _tunnel(wanted, version)),
            PODS: tuple(rule for version in (4, 6) for rule in _tunnel_of_pods(wanted, version)),
            MASQUERADE: tuple(rule for version in (4, 6) for rule in _masquerade(wanted, version))}


def replacement(wanted: Wanted, *, anew: bool) -> list[Message]:
    """One transaction that makes the table as wanted; with `anew` also if one of another layout is there."""
    ids = itertools.count(1)
    return [
        *((m.add_table(TABLE), m.delete_table(TABLE)) if anew else ()),  # to delete what may not exist: make it first
        m.add_table(TABLE, LAYOUT),
        *(m.add_chain(TABLE, name, hook=each.hook, priority=each.priority, kind=each.kind)
          for name, each in _CHAINS.items()),
        *(m.flush_chain(TABLE, name) for name in _CHAINS),
        *(message for name, rules in chains(wanted).items() for message in m.add_rules(TABLE, name, rules, ids)),
    ]


def _mark(wanted: Wanted) -> Rule:
    """Does nothing, and tells whoever starts what the rules follow from."""
    text = repr((wanted.prefixes, *(sorted(map(str, each)) for each in (wanted.pools, wanted.masquerade, wanted.nodes)),
                 wanted.tunnel))
    return Rule((x.counter(),), f"as of {hashlib.sha256(text.encode()).hexdigest()[:16]}")


def _sources(wanted: Wanted, version: int) -> Iterable[Rule]:
    """Pods' own interfaces are not meant: policy's table knows what each may send from."""
    if pools := _of(wanted.pools, version):
        yield Rule((*family(version), *_not_by(wanted.prefixes), *in_nets(pools, version, _SOURCE[version]),
                    *x.no_way_back(), x.counter(), x.verdict(x.DROP)), "a pod's address, from where no pod has it")


def _tunnel(wanted: Wanted, version: int) -> Iterable[Rule]:
    """Another VXLAN on the same port, told by its network identifier, is not ours to judge."""
    if wanted.tunnel is None:
        return
    vni, port = wanted.tunnel
    yield Rule((*family(version), *_udp(port), x.payload(x.TRANSPORT_HEADER, _VNI_AT, 3),
                x.compare(vni.to_bytes(3, "big")), *_nodes(wanted, version, _SOURCE[version], invert=True),
                x.counter(), x.verdict(x.DROP)), "VXLAN from what is no node")


def _tunnel_of_pods(wanted: Wanted, version: int) -> Iterable[Rule]:
    """What a pod sends to another node may leave with the address of this one, and would pass for its VXLAN there."""
    if wanted.tunnel is None:
        return
    for prefix in wanted.prefixes:
        if nodes := _nodes(wanted, version, _DESTINATION[version]):
            yield Rule((*family(version), x.meta(x.META_IIFNAME), x.compare(prefix.encode()), *_udp(wanted.tunnel[1]),
                        *nodes, x.counter(), x.verdict(x.DROP)), "VXLAN of a pod's own")


def _masquerade(wanted: Wanted, version: int) -> Iterable[Rule]:
    """Other hosts see pods as they are, where packets go to them in VXLAN: their answers come back by it."""
    if chosen := _of(wanted.masquerade, version):
        yield Rule((*family(version), *in_nets(chosen, version, _SOURCE[version]),
                    *in_nets(_of(wanted.pools | wanted.masquerade, version), version, _DESTINATION[version],
                             invert=True),
                    *_not_to_many(version), x.meta(x.META_OIFNAME), x.compare(DEVICE.encode().ljust(
                        x.INTERFACE.length, b"\0"), x.NOT_EQUAL), x.masquerade()), "pods, to what is no pod")


def _of(networks: Iterable[IPNetwork], version: int) -> list[IPNetwork]:
    return sorted((each for each in networks if each.version == version), key=lambda each: int(each.network_address))


def _not_by(prefixes: Sequence[str]) -> tuple[Part, ...]:
    """The packet did not come by a pod's interface, nor from this host itself."""
    return (x.meta(x.META_IIFNAME), *(x.compare(prefix.encode(), x.NOT_EQUAL) for prefix in prefixes),
            x.compare(b"lo".ljust(x.INTERFACE.length, b"\0"), x.NOT_EQUAL))


def _not_to_many(version: int) -> tuple[Part, ...]:
    """The packet is not multicast."""
    packed, length = (b"\xe0\0\0\0", 4) if version == 4 else (b"\xff".ljust(16, b"\0"), 8)
    return x.fits(packed, length, x.NETWORK_HEADER, _DESTINATION[version], invert=True)


def _udp(port: int) -> tuple[Part, ...]:
    return *protocols([_UDP]), *destination_ports(((port, port),))


def _nodes(wanted: Wanted, version: int, start: int, *, invert: bool = False) -> tuple[Part, ...]:
    """The address at `start` is another node's; with `invert` it is not. Nothing to compare if there are none."""
    keys = sorted(address.packed for address in wanted.nodes if address.version == version)
    if not keys:
        return ()
    listed = tuple((key, False) for key in keys)
    return (x.payload(x.NETWORK_HEADER, start, _ADDRESS[version].length),
            x.Anonymous(_ADDRESS[version], listed, interval=False, invert=invert))


def _memory(links: Iterable[str]) -> list[Message]:
    """Write in the table that links did not forward before: as chains, which nothing enters."""
    return [m.add_chain(TABLE, FORWARDED + name, "did not forward before; to be put back") for name in sorted(links)]


def remembered(nft: Nftables) -> list[str]:
    """Links that did not forward before; none if there is no table. Raises KernelError."""
    return [name.removeprefix(FORWARDED) for name in nft.chains(TABLE) if name.startswith(FORWARDED)]


class Guard:
    """The table of this host. Blocks."""

    def __init__(self, nft: Nftables) -> None:
        self._nft = nft
        self._written: Wanted | None = None
        self._forwarded: set[str] = set()
        self._there: Mapping[str, Sequence[tuple[int, str]]] = {}

    def keep(self, wanted: Wanted) -> bool:
        """See to it that the table is as wanted; whether it had to be written. Raises KernelError, TimedOut."""
        said = self._nft.table_comment(TABLE)
        if said is not None and self._written is None:
            self._forwarded.update(remembered(self._nft))
        if said == LAYOUT:
            there = self._read()
            if self._written is None and _comments(there) == {
                    name: [rule.comment for rule in rules] for name, rules in chains(wanted).items()}:
                # An earlier run's, of just this: to write it again would cost packets that are under way.
                self._written, self._there = wanted, there
            if (wanted, there) == (self._written, self._there):
                return False
        self._written, self._there = None, {}
        self._nft.commit([*replacement(wanted, anew=said != LAYOUT), *_memory(self._forwarded)])
        self._written, self._there = wanted, self._read()
        return True

    def remember(self, links: Sequence[str]) -> None:
        """Links did not forward before. Raises KernelError."""
        self._forwarded.update(links)
        self._nft.commit(_memory(links))

    def _read(self) -> dict[str, list[tuple[int, str]]]:
        """The rules that are there: a rule can not be changed, only be replaced by one with another handle."""
        return {name: self._nft.rules(_INET, TABLE, name) for name in _CHAINS}


def _comments(there: Mapping[str, Sequence[tuple[int, str]]]) -> dict[str, list[str]]:
    return {name: [comment for _, comment in rules] for name, rules in there.items()}
