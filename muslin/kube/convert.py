"""Objects into the messages that the services take."""

from __future__ import annotations

from collections.abc import Iterable

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.kube.objects import DEFAULT_NAMESPACE, NAME_LABEL, Namespace, NetworkPolicy, Node, Origin, Pod

__all__ = ["default_namespace", "namespace_message", "node_message", "pod_message", "pod_ref", "policy_object",
           "object_refs"]


def default_namespace() -> Namespace:
    """The namespace that exists without being declared."""
    manifest = (f'{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"labels": {{"{NAME_LABEL}": '
                f'"{DEFAULT_NAMESPACE}"}}, "name": "{DEFAULT_NAMESPACE}"}}}}')
    return Namespace(DEFAULT_NAMESPACE, manifest.encode(), Origin("built in", 0, 0), {NAME_LABEL: DEFAULT_NAMESPACE})


def namespace_message(namespace: Namespace) -> endpoint_pb2.Namespace:
    """A namespace for the endpoint service."""
    return endpoint_pb2.Namespace(name=namespace.name, labels=namespace.labels, annotations=namespace.annotations)


def node_message(node: Node) -> endpoint_pb2.Node:
    """A node for the endpoint service."""
    return endpoint_pb2.Node(name=node.name, labels=node.labels, pod_cidrs=node.pod_cidrs)


def pod_message(pod: Pod, uid: str = "") -> endpoint_pb2.Pod:
    """A pod for the endpoint service; ``uid`` is used if its manifest has none."""
    return endpoint_pb2.Pod(
        namespace=pod.namespace, name=pod.name, uid=pod.uid or uid, labels=pod.labels, annotations=pod.annotations,
        service_account=pod.service_account,
        ports=[endpoint_pb2.NamedPort(name=port.name, protocol=port.protocol, port=port.port)
               for port in pod.ports if port.name],
    )


def pod_ref(pod: Pod) -> endpoint_pb2.PodRef:
    """The name of a pod for the endpoint service."""
    return endpoint_pb2.PodRef(namespace=pod.namespace, name=pod.name)


def policy_object(item: Namespace | NetworkPolicy) -> policy_pb2.Object:
    """A namespace or network policy for the policy service."""
    return policy_pb2.Object(kind=item.kind, namespace=item.namespace, name=item.name, manifest=item.manifest,
                             origin=str(item.origin))


def object_refs(items: Iterable[Namespace | NetworkPolicy]) -> list[policy_pb2.ObjectRef]:
    """The names of objects for the policy service."""
    return [policy_pb2.ObjectRef(kind=item.kind, namespace=item.namespace, name=item.name) for item in items]
