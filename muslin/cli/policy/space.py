"""Questions about many flows at once, as few flows whose answers stand for all. Pure.

Policies tell addresses apart by CIDRs and by whose they are, and ports by ranges. Between two neighbouring boundaries
all addresses, or ports, are treated alike: one of each piece is asked about. Whatever number or text in the objects
could be a boundary is taken for one; one too many costs a question and changes no answer.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from muslin.cli.policy.world import World
from muslin.errors import InvalidArgument, NotFound

__all__ = ["PROTOCOLS", "Side", "Span", "port_spans", "ranges", "side"]

PROTOCOLS = ("TCP", "UDP", "SCTP")
_PORTS = re.compile(r"(\d{1,5})(?::(\d{1,5}))?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a flow: a pod, or addresses from first to last, of which any may be asked about.

    An address that a pod has is both.
    """

    pod: str = ""
    first: int = 0
    last: int = 0
    version: int = 0

    @property
    def address(self) -> str:
        """One of the addresses."""
        return str(_address(self.first, self.version))


@dataclass(frozen=True, slots=True)
class Span:
    """Ports of a protocol, from first to last."""

    protocol: str
    first: int
    last: int


def side(argument: str, text: str, world: World) -> list[Side]:
    """The pieces of a side as it was written: a pod `namespace/name`, an address or a CIDR.

    Raises:
        InvalidArgument: it is none of these.
        NotFound: there is no such pod.
    """
    owners = {address: f"{record.namespace}/{record.pod}" if record.pod else record.workload
              for record in sorted(world.endpoints, key=lambda record: record.revision)
              for address in record.addresses}
    network = _network(text)
    if network is None:
        namespace, _, pod = text.partition("/")
        if not namespace or not pod or "/" in pod:
            raise InvalidArgument(f"{argument} {text!r} is neither NAMESPACE/POD nor an IP address nor a CIDR")
        if not any((record.namespace, record.pod) == (namespace, pod) for record in world.endpoints):
            raise NotFound(f"{argument}: there is no pod {text!r}; see: muslin endpoint list")
        return [Side(text)]
    first, last = int(network.network_address), int(network.broadcast_address)
    mine = {int(address): owners[str(address)] for address in map(ipaddress.ip_address, owners)
            if address.version == network.version and first <= int(address) <= last}
    cuts = {first, last + 1}
    for other in _networks(world):
        if other.version == network.version:
            cuts |= {int(other.network_address), int(other.broadcast_address) + 1}
    for address in mine:
        cuts |= {address, address + 1}
    return [Side(mine.get(begin, ""), first=begin, last=end - 1, version=network.version)
            for begin, end in pairwise(sorted(cut for cut in cuts if first <= cut <= last + 1))]


def port_spans(world: World, protocols: Sequence[str]) -> list[Span]:
    """All ports in pieces that no policy can tell apart within."""
    cuts = {1, 65536}
    for first, last in _port_ranges(world):
        cuts |= {first, last + 1}
    edges = sorted(cut for cut in cuts if 1 <= cut <= 65536)
    return [Span(protocol, begin, end - 1) for protocol in protocols for begin, end in pairwise(edges)]


def ranges(pieces: Iterable[Side]) -> str:
    """Pieces of one side for people: the fewest CIDRs that hold the addresses, or the pod."""
    listed = list(pieces)
    if listed[0].pod:
        return listed[0].pod
    networks = [network for piece in listed for network in ipaddress.summarize_address_range(
        _address(piece.first, piece.version), _address(piece.last, piece.version))]
    return " ".join(str(network.network_address) if network.num_addresses == 1 else str(network)
                    for network in ipaddress.collapse_addresses(networks))


def _address(number: int, version: int) -> Any:  # Any: of either family, which the typing of ipaddress keeps apart
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _networks(world: World) -> Iterator[Network]:
    for value in _values(world):
        if isinstance(value, str) and ("." in value or ":" in value) and (network := _network(value)):
            yield network


def _port_ranges(world: World) -> Iterator[tuple[int, int]]:
    """Every number and range that could be of ports; ranges of `port` and `endPort` are cut at both ends at least."""
    for value in _values(world):
        if isinstance(value, int) and not isinstance(value, bool):
            yield value, value
        elif isinstance(value, str) and (match := _PORTS.fullmatch(value)):
            yield int(match[1]), int(match[2] or match[1])
    for record in world.endpoints:
        for port in record.ports:
            yield port.port, port.port


def _values(world: World) -> Iterator[object]:
    """Every scalar in the objects' specifications."""
    waiting: list[object] = [item.manifest.get("spec") for item in world.objects]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif value is not None:
            yield value
