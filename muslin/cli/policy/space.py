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

__all__ = ["PROTOCOLS", "Side", "Space", "Span", "ranges"]

PROTOCOLS = ("TCP", "UDP", "SCTP")
_PORTS = re.compile(r"(\d{1,5})(?::(\d{1,5}))?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a flow: addresses from first to last, of which any may be asked about; an address of a pod is alone.

    `version` is 0 of a pod without an address, about which nothing can be said.
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


class Space:
    """What a world tells apart; found once for any number of questions."""

    def __init__(self, world: World) -> None:
        self._pods = {f"{record.namespace}/{record.pod}" for record in world.endpoints if record.pod}
        self._owners: dict[Address, str] = {
            ipaddress.ip_address(address): f"{record.namespace}/{record.pod}" if record.pod else record.workload
            for record in sorted(world.endpoints, key=lambda record: record.revision) for address in record.addresses}
        values = list(_values(world))
        networks = {network for value in values if isinstance(value, str) and ("." in value or ":" in value)
                    and (network := _network(value)) is not None}
        self._edges = {version: sorted({edge for network in networks if network.version == version for edge in (
            int(network.network_address), int(network.broadcast_address) + 1)}) for version in (4, 6)}
        ports = {1, 65536}
        for first, last in (*_port_ranges(values), *((port.port, port.port) for record in world.endpoints
                                                     for port in record.ports)):
            ports |= {first, last + 1}
        self._ports = sorted(port for port in ports if 1 <= port <= 65536)

    def side(self, argument: str, text: str) -> list[Side]:
        """The pieces of a side as it was written: a pod `namespace/name`, an address or a CIDR.

        Raises:
            InvalidArgument: it is none of these.
            NotFound: there is no such pod.
        """
        network = _network(text)
        if network is None:
            namespace, _, pod = text.partition("/")
            if not namespace or not pod or "/" in pod:
                raise InvalidArgument(f"{argument} {text!r} is neither NAMESPACE/POD nor an IP address nor a CIDR")
            if text not in self._pods:
                raise NotFound(f"{argument}: there is no pod {text!r}; see: muslin endpoint list")
            return [Side(text, int(address), int(address), address.version)
                    for address, owner in self._owners.items() if owner == text] or [Side(text)]
        first, last = int(network.network_address), int(network.broadcast_address)
        mine = {int(address): owner for address, owner in self._owners.items()
                if address.version == network.version and first <= int(address) <= last}
        cuts = {first, last + 1, *self._edges[network.version], *mine, *(address + 1 for address in mine)}
        return [Side(mine.get(begin, ""), first=begin, last=end - 1, version=network.version)
                for begin, end in pairwise(sorted(cut for cut in cuts if first <= cut <= last + 1))]

    def spans(self, protocols: Sequence[str]) -> list[Span]:
        """All ports, in pieces that no policy tells apart within."""
        return [Span(protocol, begin, end - 1) for protocol in protocols for begin, end in pairwise(self._ports)]


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


def _port_ranges(values: Iterable[object]) -> Iterator[tuple[int, int]]:
    """Every number and range that could be of ports."""
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            yield value, value
        elif isinstance(value, str) and (match := _PORTS.fullmatch(value)):
            yield int(match[1]), int(match[2] or match[1])


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
