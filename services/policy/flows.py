"""Questions about flows: from what was asked to a packet between two places."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from muslin.api.policy.v1 import policy_pb2
from muslin.errors import FailedPrecondition, InvalidArgument, NotFound
from services.policy.explain import Explanation, Packet, Place, View, explain
from services.policy.model import PROTOCOLS


@dataclass(frozen=True, slots=True)
class _Side:
    path: str
    name: str
    addresses: tuple[str, ...]
    place: Place | None


def answer(flow: policy_pb2.Flow, view: View, path: str) -> Explanation:
    """What decides a flow; `path` names it in errors.

    Raises:
        InvalidArgument: a field is missing or wrong.
        NotFound: there is no such pod.
        FailedPrecondition: a pod has no address, or the two sides none of one family.
    """
    if flow.protocol not in PROTOCOLS:
        raise InvalidArgument(f"{path}.protocol: {flow.protocol!r} is not supported; use {', '.join(PROTOCOLS)}")
    if not 1 <= flow.port <= 65535:
        raise InvalidArgument(f"{path}.port: {flow.port} is not a port: use 1 to 65535")
    sender = _side(flow.source, view, f"{path}.source")
    receiver = _side(flow.destination, view, f"{path}.destination")
    source, destination = _pair(sender, receiver)
    return explain(Packet(source, destination, PROTOCOLS[flow.protocol], flow.port), sender.place, receiver.place)


def _side(peer: policy_pb2.Peer, view: View, path: str) -> _Side:
    match peer.WhichOneof("peer"):
        case "pod":
            if (place := view.workload(peer.pod)) is None:
                raise NotFound(f"{path}.pod: there is no endpoint of pod {peer.pod!r}; name it as namespace/name")
            if not place.endpoint.addresses:
                raise FailedPrecondition(f"{path}.pod: pod {peer.pod} has no address")
            return _Side(path, f"pod {peer.pod}", place.endpoint.addresses, place)
        case "address":
            try:
                address = str(ipaddress.ip_address(peer.address))
            except ValueError:
                raise InvalidArgument(f"{path}.address: {peer.address!r} is not an IP address") from None
            return _Side(path, address, (address,), view.address(address))
        case _:
            raise InvalidArgument(f"{path}: set pod or address")


def _pair(sender: _Side, receiver: _Side) -> tuple[str, str]:
    """An address of each, of one family."""
    for destination in receiver.addresses:
        for source in sender.addresses:
            if (":" in source) == (":" in destination):
                return source, destination
    raise FailedPrecondition(f"{receiver.path}: {receiver.name} and {sender.name} have no addresses of one family")
