"""The kinds of objects that are read from an API server, and of each the fields that are needed.

What is not named here is skipped while decoding. Absent and null mean the same, as everywhere in Kubernetes' API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

__all__ = ["Kind", "Name", "Meta", "Resource", "Pod", "Plain", "Node", "NodeCondition",
           "Taint", "Manifest", "PODS", "NAMESPACES", "NODES",
           "SERVICE_ACCOUNTS", "NETWORK_POLICIES", "CALICO_NETWORK_POLICIES", "CALICO_GLOBAL_NETWORK_POLICIES",
           "CALICO_TIERS"]

MIRROR, HASH = "kubernetes.io/config.mirror", "kubernetes.io/config.hash"
"""Annotations of the object that stands for a pod of the kubelet's own, and the uid by which the kubelet calls that."""
FINISHED = ("Succeeded", "Failed")
"""Phases of a pod whose containers have ended and are not started again."""

Name = tuple[str, str]
"""Namespace, empty for what is in none, and name."""


class Meta(msgspec.Struct, rename="camel", frozen=True):
    """Of metadata what is needed."""

    name: str
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Resource(msgspec.Struct, frozen=True):
    """What all objects have."""

    metadata: Meta

    @property
    def name(self) -> Name:
        """Namespace and name."""
        return self.metadata.namespace or "", self.metadata.name

    @property
    def labels(self) -> dict[str, str]:
        """Labels."""
        return self.metadata.labels or {}

    @property
    def annotations(self) -> dict[str, str]:
        """Annotations."""
        return self.metadata.annotations or {}

    @property
    def uid(self) -> str:
        """What tells it from another of its name."""
        return self.metadata.uid or ""

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted."""
        return self.metadata.deletion_timestamp is not None


class _Port(msgspec.Struct, rename="camel", frozen=True):
    container_port: int
    name: str | None = None
    protocol: str | None = None


class _Container(msgspec.Struct, rename="camel", frozen=True):
    ports: list[_Port] | None = None
    restart_policy: str | None = None


class _PodSpec(msgspec.Struct, rename="camel", frozen=True):
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    service_account_name: str | None = None
    host_network: bool | None = None


class _PodStatus(msgspec.Struct, frozen=True):
    phase: str | None = None


class Pod(Resource, frozen=True):
    """A pod."""

    spec: _PodSpec | None = None
    status: _PodStatus | None = None

    @property
    def uid(self) -> str:
        """Its uid as the kubelet knows it: of its own (static) pods it is not that of the object in the API."""
        notes = self.annotations
        return notes[HASH] if MIRROR in notes and HASH in notes else self.metadata.uid or ""

    @property
    def finished(self) -> bool:
        """Whether all its containers have ended for good."""
        return self.status is not None and self.status.phase in FINISHED

    @property
    def host_network(self) -> bool:
        """Whether it has no network of its own."""
        return bool(self.spec and self.spec.host_network)

    @property
    def service_account(self) -> str:
        """Name of its service account."""
        return (self.spec.service_account_name if self.spec else None) or "default"

    @property
    def ports(self) -> list[tuple[str, str, int]]:
        """Name, protocol and number of each named port, of containers and of init containers that stay (sidecars)."""
        if self.spec is None:
            return []
        serving = [*(self.spec.containers or ()),
                   *(item for item in self.spec.init_containers or () if item.restart_policy == "Always")]
        return [(port.name, port.protocol or "TCP", port.container_port)
                for container in serving for port in container.ports or () if port.name]


class Plain(Resource, frozen=True):
    """An object of which only metadata are needed: a Namespace, a ServiceAccount."""


class Taint(msgspec.Struct, frozen=True):
    """What keeps pods off a node."""

    key: str
    effect: str | None = None


class NodeCondition(msgspec.Struct, frozen=True):
    """What somebody says of a node."""

    type: str
    status: str | None = None
    """True, False or Unknown."""
    reason: str | None = None


class _NodeSpec(msgspec.Struct, frozen=True):
    cidr: str | None = msgspec.field(name="podCIDR", default=None)
    cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)
    taints: list[Taint] | None = None


class _NodeStatus(msgspec.Struct, frozen=True):
    conditions: list[NodeCondition] | None = None


class Node(Resource, frozen=True):
    """A node."""

    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None

    @property
    def taints(self) -> list[Taint]:
        """Its taints, in their order."""
        return (self.spec.taints if self.spec else None) or []

    def condition(self, kind: str) -> NodeCondition | None:
        """What is said of it under a heading."""
        said = (self.status.conditions if self.status else None) or []
        return next((condition for condition in said if condition.type == kind), None)

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """spec.podCIDRs, or the older spec.podCIDR."""
        if self.spec is None:
            return ()
        return tuple(self.spec.cidrs or ((self.spec.cidr,) if self.spec.cidr else ()))


class Manifest(Resource, frozen=True):
    """An object whose specification is handed on as it is."""

    spec: msgspec.Raw = msgspec.Raw(b"null")


T = TypeVar("T", bound=Resource)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of object, where the API server has it, and how much of it is decoded."""

    kind: str
    version: str
    """Group and version: `v1`, `networking.k8s.io/v1`."""
    plural: str
    type: type[T]
    optional: bool = False
    """An API server need not know it: it is a custom resource."""
    namespace: str = ""
    """Lists and watches are of this namespace only."""
    fields: str = ""
    """A field selector of lists and watches: `metadata.name=this` is the one object that a role may name."""

    def path(self, name: Name | None = None) -> str:
        """Of all objects of the kind, or of one."""
        root = f"/{'apis' if '/' in self.version else 'api'}/{self.version}"
        if name is None:
            return f"{root}/{f'namespaces/{self.namespace}/' if self.namespace else ''}{self.plural}"
        namespace, own = name
        return f"{root}/{f'namespaces/{namespace}/' if namespace else ''}{self.plural}/{own}"

    @property
    def selection(self) -> dict[str, str]:
        """What lists and watches are asked with."""
        return {"fieldSelector": self.fields} if self.fields else {}

    def __str__(self) -> str:
        return f"{self.plural} of {self.version}{f' with {self.fields}' if self.fields else ''}"


PODS = Kind("Pod", "v1", "pods", Pod)
NAMESPACES = Kind("Namespace", "v1", "namespaces", Plain)
NODES = Kind("Node", "v1", "nodes", Node)
SERVICE_ACCOUNTS = Kind("ServiceAccount", "v1", "serviceaccounts", Plain)
NETWORK_POLICIES = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", Manifest)

_CALICO = "crd.projectcalico.org/v1"
CALICO_NETWORK_POLICIES = Kind("NetworkPolicy", _CALICO, "networkpolicies", Manifest, optional=True)
CALICO_GLOBAL_NETWORK_POLICIES = Kind("GlobalNetworkPolicy", _CALICO, "globalnetworkpolicies", Manifest, optional=True)
CALICO_TIERS = Kind("Tier", _CALICO, "tiers", Manifest, optional=True)
