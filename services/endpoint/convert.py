"""Messages into records, checked, and records into messages."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import InvalidArgument
from services.endpoint.records import NamedPort, Namespace, Node, Pod, WorkloadEndpoint, merged

InventoryChange = endpoint_pb2.InventoryChange

PROTOCOLS = ("TCP", "UDP", "SCTP")

_NAME = re.compile(r"[a-z0-9]([a-z0-9.\-]*[a-z0-9])?")  # RFC 1123 labels and subdomains
_PART = re.compile(r"[^/\s]+")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def pods(messages: Sequence[endpoint_pb2.Pod]) -> list[Pod]:
    """Pods as they are stored; of one named twice, the last.

    Raises:
        InvalidArgument: naming the field, such as `pods[2].ports[0].protocol`.
    """
    read = [_pod(message, f"pods[{number}]") for number, message in enumerate(messages)]
    return list({(pod.namespace, pod.name): pod for pod in read}.values())


def _pod(message: endpoint_pb2.Pod, where: str) -> Pod:
    return Pod(
        namespace=_name(message.namespace, f"{where}.namespace"),
        name=_name(message.name, f"{where}.name"),
        uid=message.uid,
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        service_account=message.service_account or "default",
        ports=tuple(_port(port, f"{where}.ports[{number}]") for number, port in enumerate(message.ports)),
    )


def _name(value: str, where: str) -> str:
    if len(value) > 253 or not _NAME.fullmatch(value):
        raise InvalidArgument(f"{where} {value!r} is not a Kubernetes name: a-z, 0-9, '-' and '.'")
    return value


def _port(message: endpoint_pb2.NamedPort, where: str) -> NamedPort:
    if not message.name:
        raise InvalidArgument(f"{where}.name is missing: only ports with a name are kept")
    if message.protocol not in PROTOCOLS:
        raise InvalidArgument(f"{where}.protocol {message.protocol!r} must be one of {', '.join(PROTOCOLS)}")
    if not 1 <= message.port <= 65535:
        raise InvalidArgument(f"{where}.port must be 1 to 65535, not {message.port}")
    return NamedPort(message.name, message.protocol, message.port)


def refs(messages: Sequence[endpoint_pb2.PodRef]) -> list[tuple[str, str]]:
    """Namespace and name of each.

    Raises:
        InvalidArgument: naming the field.
    """
    return list(dict.fromkeys(
        (_name(ref.namespace, f"pods[{number}].namespace"), _name(ref.name, f"pods[{number}].name"))
        for number, ref in enumerate(messages)))


def namespaces(messages: Sequence[endpoint_pb2.Namespace]) -> list[Namespace]:
    """Namespaces as they are stored; of one named twice, the last.

    Raises:
        InvalidArgument: naming the field, such as `namespaces[2].name`.
    """
    read = [Namespace(_name(message.name, f"namespaces[{number}].name"), dict(message.labels),
                      dict(message.annotations)) for number, message in enumerate(messages)]
    return list({namespace.name: namespace for namespace in read}.values())


def nodes(messages: Sequence[endpoint_pb2.Node]) -> list[Node]:
    """Nodes as they are stored; of one named twice, the last.

    Raises:
        InvalidArgument: naming the field, such as `nodes[2].name`.
    """
    read = [_node(message, f"nodes[{number}]") for number, message in enumerate(messages)]
    return list({node.name: node for node in read}.values())


def _node(message: endpoint_pb2.Node, where: str) -> Node:
    for number, cidr in enumerate(message.pod_cidrs):
        try:
            ipaddress.ip_network(cidr)
        except ValueError as problem:
            raise InvalidArgument(f"{where}.pod_cidrs[{number}] is not a range such as 10.0.1.0/24: {problem}"
                                  ) from None
    return Node(_name(message.name, f"{where}.name"), dict(message.labels), tuple(message.pod_cidrs))


def names(given: Sequence[str]) -> list[str]:
    """Names of namespaces or nodes, each once.

    Raises:
        InvalidArgument: naming the field, such as `names[2]`.
    """
    return list(dict.fromkeys(_name(name, f"names[{number}]") for number, name in enumerate(given)))


def identity(attachment: cni_pb2.Attachment, where: str = "attachment") -> tuple[str, str, str]:
    """Network, container id and interface name.

    Raises:
        InvalidArgument: a part is missing or can not be one.
    """
    for field in ("network", "container_id", "ifname"):
        if not _PART.fullmatch(value := getattr(attachment, field)):
            raise InvalidArgument(f"{where}.{field} {value!r} must not be empty or hold '/' or white space")
    return attachment.network, attachment.container_id, attachment.ifname


def endpoint(message: endpoint_pb2.WorkloadEndpoint, where: str, node: str) -> WorkloadEndpoint:
    """A record as it is stored; of `node` if the message names none.

    Raises:
        InvalidArgument: naming the field, such as `endpoints[2].addresses[0]`.
    """
    network, container_id, ifname = identity(message.attachment, f"{where}.attachment")
    if bool(message.namespace) != bool(message.pod):
        raise InvalidArgument(f"{where}: namespace and pod belong together, {message.namespace!r} and {message.pod!r}")
    if message.pod:
        _name(message.namespace, f"{where}.namespace")
        _name(message.pod, f"{where}.pod")
    if not (place := message.node or node):
        raise InvalidArgument(f"{where}.node is missing")
    if not 0 < len(message.host_interface.encode()) < 16:
        raise InvalidArgument(f"{where}.host_interface {message.host_interface!r} must have 1 to 15 bytes")
    if message.mac and not _MAC.fullmatch(message.mac):
        raise InvalidArgument(f"{where}.mac {message.mac!r} is not a MAC address such as 0a:00:00:00:00:01")
    return WorkloadEndpoint(
        network=network, container_id=container_id, ifname=ifname, node=place,
        orchestrator="k8s" if message.pod else "cni",
        workload=f"{message.namespace}.{message.pod}" if message.pod else container_id,
        namespace=message.namespace, pod=message.pod, pod_uid=message.pod_uid,
        service_account=message.service_account,
        labels=merged(message.labels, message.namespace) if message.pod else dict(message.labels),
        addresses=_addresses(message.addresses, where), profiles=tuple(message.profiles),
        host_interface=message.host_interface, mac=message.mac.lower(),
        ports=tuple(_port(port, f"{where}.ports[{number}]") for number, port in enumerate(message.ports)),
        netns=message.netns)


def _addresses(given: Sequence[str], where: str) -> tuple[str, ...]:
    if not given:
        raise InvalidArgument(f"{where}.addresses is empty: an endpoint has an address")
    read = []
    for number, address in enumerate(given):
        try:
            read.append(str(ipaddress.ip_address(address)))
        except ValueError as problem:
            raise InvalidArgument(f"{where}.addresses[{number}]: {problem}") from None
    return tuple(read)


def endpoint_message(record: WorkloadEndpoint, revision: int) -> endpoint_pb2.WorkloadEndpoint:
    """A record that was last changed at a revision."""
    return endpoint_pb2.WorkloadEndpoint(
        attachment=attachment_message(record), node=record.node, orchestrator=record.orchestrator,
        workload=record.workload, namespace=record.namespace, pod=record.pod,
        service_account=record.service_account, labels=record.labels, addresses=record.addresses,
        profiles=record.profiles, host_interface=record.host_interface, mac=record.mac, ports=_ports(record.ports),
        netns=record.netns, revision=revision, pod_uid=record.pod_uid)


def attachment_message(record: WorkloadEndpoint) -> cni_pb2.Attachment:
    """Whose record it is."""
    return cni_pb2.Attachment(network=record.network, container_id=record.container_id, ifname=record.ifname)


def addition(record: WorkloadEndpoint, revision: int) -> endpoint_pb2.Change:
    """That a record was created or updated at a revision."""
    return endpoint_pb2.Change(kind=endpoint_pb2.Change.KIND_PUT, endpoint=endpoint_message(record, revision))


def deletion(record: WorkloadEndpoint, revision: int) -> endpoint_pb2.Change:
    """That a record is gone at a revision."""
    gone = endpoint_pb2.WorkloadEndpoint(attachment=attachment_message(record), node=record.node, revision=revision)
    return endpoint_pb2.Change(kind=endpoint_pb2.Change.KIND_DELETE, endpoint=gone)


def pod_message(pod: Pod) -> endpoint_pb2.Pod:
    """A pod."""
    return endpoint_pb2.Pod(namespace=pod.namespace, name=pod.name, uid=pod.uid, labels=pod.labels,
                            annotations=pod.annotations, service_account=pod.service_account, ports=_ports(pod.ports))


def namespace_message(namespace: Namespace) -> endpoint_pb2.Namespace:
    """A namespace."""
    return endpoint_pb2.Namespace(name=namespace.name, labels=namespace.labels, annotations=namespace.annotations)


def node_message(node: Node) -> endpoint_pb2.Node:
    """A node."""
    return endpoint_pb2.Node(name=node.name, labels=node.labels, pod_cidrs=node.pod_cidrs)


def told(record: Pod | Namespace | Node) -> InventoryChange:
    """What is known of a pod, a namespace or a node."""
    match record:
        case Pod():
            return InventoryChange(pod=pod_message(record))
        case Namespace():
            return InventoryChange(namespace=namespace_message(record))
        case Node():
            return InventoryChange(node=node_message(record))


def forgotten(record: Pod | Namespace | Node) -> InventoryChange:
    """That it is gone."""
    match record:
        case Pod():
            return InventoryChange(deleted=True, pod=endpoint_pb2.Pod(namespace=record.namespace, name=record.name))
        case Namespace():
            return InventoryChange(deleted=True, namespace=endpoint_pb2.Namespace(name=record.name))
        case Node():
            return InventoryChange(deleted=True, node=endpoint_pb2.Node(name=record.name))


def _ports(ports: Sequence[NamedPort]) -> list[endpoint_pb2.NamedPort]:
    return [endpoint_pb2.NamedPort(name=port.name, protocol=port.protocol, port=port.port) for port in ports]
