"""One interface on several networks, as Calico has it outside Kubernetes. No I/O.

A container that is on a network already, and is added to another by the same interface, gets no second one and no
other address: the profile of the second network is appended to its record, which remains the first network's. Which
that is, says a key of the interface's own.
"""

from __future__ import annotations

import msgspec

from muslin.errors import Corrupt, InvalidArgument
from muslin.etcd import KeyValue, keys
from services.endpoint import codec
from services.endpoint.records import WorkloadEndpoint
from services.endpoint.store import Read


def first_of(item: KeyValue | None) -> str:
    """The network that an interface's record belongs to, from the interface's key; empty if there is none."""
    try:
        return msgspec.json.decode(item.value, type=str) if item is not None else ""
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def claim(network: str) -> bytes:
    """What an interface's key says of the network that its record belongs to."""
    return msgspec.json.encode(network)


def owner(read: Read, network: str, container_id: str, ifname: str) -> WorkloadEndpoint | None:
    """The record of an interface that is another network's; None if it is none's, this one's, or damaged."""
    first = first_of(read(keys.endpoint_interface(container_id, ifname)))
    if first in ("", network):
        return None
    try:
        item = read(keys.endpoint(first, container_id, ifname))
        return codec.endpoint(item) if item is not None else None
    except (Corrupt, InvalidArgument):
        return None


def joined(record: WorkloadEndpoint, network: str) -> WorkloadEndpoint:
    """The record with another network's profile, which has its name, behind those that it has."""
    return msgspec.structs.replace(
        record, profiles=record.profiles if network in record.profiles else (*record.profiles, network),
        joined=record.joined if network in record.joined else (*record.joined, network))


def left(record: WorkloadEndpoint, network: str) -> WorkloadEndpoint:
    """The record without a network that had joined; unchanged if it had not."""
    if network not in record.joined:
        return record
    return msgspec.structs.replace(record, profiles=tuple(name for name in record.profiles if name != network),
                                   joined=tuple(name for name in record.joined if name != network))


def kept(record: WorkloadEndpoint, before: KeyValue | None) -> WorkloadEndpoint:
    """A record that is made anew, with the networks that had joined the one before."""
    try:
        others = codec.endpoint(before).joined if before is not None else ()
    except Corrupt:
        others = ()
    for network in others:
        record = joined(record, network)
    return record
