"""Records as they lie in etcd: JSON, one value a key, readable with etcdctl.

====================  =============================================
key                    value
====================  =============================================
endpoints/ATTACHMENT   `records.WorkloadEndpoint`
pods/NAMESPACE/NAME    `records.Pod`
namespaces/NAME        `records.Namespace`
nodes/NAME             `records.Node`
interfaces/CONT/IF     the name of a network, see `sharing`
hosts/NODE             `hosts.Host`
presences/NODE         empty; a lease ends it
barrier, fences/XX     empty; only their revisions mean something
writer                 who writes what an API server has, for people
====================  =============================================
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from muslin.errors import Corrupt
from muslin.etcd import KeyValue, keys
from services.endpoint.records import Namespace, Node, Pod, WorkloadEndpoint

Listed = Pod | Namespace | Node
"""Records of what the cluster consists of, as it was told to this service."""

Record = TypeVar("Record", WorkloadEndpoint, Pod, Namespace, Node)

_ENDPOINTS: msgspec.json.Decoder[WorkloadEndpoint] = msgspec.json.Decoder(WorkloadEndpoint)
_PODS: msgspec.json.Decoder[Pod] = msgspec.json.Decoder(Pod)
_NAMESPACES: msgspec.json.Decoder[Namespace] = msgspec.json.Decoder(Namespace)
_NODES: msgspec.json.Decoder[Node] = msgspec.json.Decoder(Node)


def key_of(record: WorkloadEndpoint | Listed) -> str:
    """Where a record is stored."""
    match record:
        case WorkloadEndpoint():
            return keys.endpoint(record.network, record.container_id, record.ifname)
        case Pod():
            return keys.pod(record.namespace, record.name)
        case Namespace():
            return keys.namespace(record.name)
        case Node():
            return keys.node(record.name)


def encode(record: WorkloadEndpoint | Listed) -> bytes:
    """A record as stored."""
    return msgspec.json.encode(record)


def endpoint(item: KeyValue) -> WorkloadEndpoint:
    """A stored endpoint. Raises Corrupt, as all readers here do, if it does not decode or is not what its key says."""
    record = _decode(_ENDPOINTS, item)
    return _at_home(record, item, keys.ENDPOINTS + record.identity, record.identity)


def pod(item: KeyValue) -> Pod:
    """A stored pod."""
    record = _decode(_PODS, item)
    return _at_home(record, item, f"{keys.PODS}{record.namespace}/{record.name}", f"{record.namespace}/{record.name}")


def namespace(item: KeyValue) -> Namespace:
    """A stored namespace."""
    record = _decode(_NAMESPACES, item)
    return _at_home(record, item, keys.NAMESPACES + record.name, record.name)


def node(item: KeyValue) -> Node:
    """A stored node."""
    record = _decode(_NODES, item)
    return _at_home(record, item, keys.NODES + record.name, record.name)


def listed(item: KeyValue) -> Listed | None:
    """A stored pod, namespace or node; None if the key is another kind's."""
    if item.key.startswith(keys.PODS):
        return pod(item)
    if item.key.startswith(keys.NAMESPACES):
        return namespace(item)
    if item.key.startswith(keys.NODES):
        return node(item)
    return None


def _decode(decoder: msgspec.json.Decoder[Record], item: KeyValue) -> Record:
    try:
        return decoder.decode(item.value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise Corrupt(f"record {item.key} does not decode: {problem}") from None


def _at_home(record: Record, item: KeyValue, key: str, name: str) -> Record:
    if item.key != key:
        raise Corrupt(f"record {item.key} describes {name}: it was copied or damaged")
    return record
