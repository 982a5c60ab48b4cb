"""The Kubernetes objects that Muslin knows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from muslin.kube.document import Mark
from muslin.kube.document import Node as Value

__all__ = ["Origin", "Namespace", "Node", "ContainerPort", "Pod", "NetworkPolicy", "Object", "DEFAULT_NAMESPACE",
           "NAME_LABEL", "PROTOCOLS"]

DEFAULT_NAMESPACE = "default"
"""The namespace that always exists, and that objects without one are in."""
NAME_LABEL = "kubernetes.io/metadata.name"
"""Label that the API server puts on every namespace; Muslin does where there is no API server."""
PROTOCOLS = ("TCP", "UDP", "SCTP")
"""Protocols that a container port can have."""


_STEP = re.compile(r"""\[(?P<index>\d+)\]|\[(?P<quote>['"])(?P<quoted>.*?)(?P=quote)\]|(?P<name>[^.\[\]]+)""")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an object was written; ``document`` 0 is for what is in no file."""

    file: str
    document: int
    line: int
    root: Value | None = field(default=None, compare=False, repr=False)
    """The object as it was written, with its lines."""

    def __str__(self) -> str:
        return f"{self.file}, document {self.document}" if self.document else self.file

    @property
    def place(self) -> str:
        """With the line."""
        return f"{self}, line {self.line}"

    def line_of(self, path: str) -> int:
        """The line of a field, such as ``spec.ingress[0].ports``; of what is not there, of the last part that is."""
        found = self.mark_of(path)
        return found.line if found else self.line

    def mark_of(self, path: str) -> Mark | None:
        """Its line and column; None where the object is in no file."""
        node, found = self.root, self.root.mark if self.root else None
        for step in _STEP.finditer(path):
            value = node.value if node else None
            if isinstance(value, tuple) and step["index"]:
                node = value[int(step["index"])] if int(step["index"]) < len(value) else None
            elif isinstance(value, dict):
                node = value.get(step["name"] or step["quoted"] or "")
            else:
                node = None
            if node is None:
                break
            found = node.mark
        return found


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A declared port of a container; ``name`` is empty if it has none."""

    protocol: str
    port: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace; ``manifest`` is the object as JSON."""

    name: str
    manifest: bytes
    origin: Origin
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    kind: str = field(default="Namespace", init=False)

    @property
    def namespace(self) -> str:
        """Empty: namespaces are cluster-wide."""
        return ""


@dataclass(frozen=True, slots=True)
class Node:
    """What the network needs to know of a node."""

    name: str
    origin: Origin
    labels: dict[str, str] = field(default_factory=dict)
    pod_cidrs: tuple[str, ...] = ()
    """spec.podCIDRs, or the older spec.podCIDR."""
    kind: str = field(default="Node", init=False)

    @property
    def namespace(self) -> str:
        """Empty: nodes are cluster-wide."""
        return ""


@dataclass(frozen=True, slots=True)
class Pod:
    """What the network needs to know of a pod. ``ports`` are those of containers and sidecars, in order."""

    namespace: str
    name: str
    origin: Origin
    uid: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    service_account: str = "default"
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    node_name: str = ""
    """spec.nodeName; empty if the pod may be on any node."""
    kind: str = field(default="Pod", init=False)


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """A network policy, or another object that only the policy service reads; ``manifest`` is the object as JSON.

    ``kind`` is that of the policy service's API: what is Calico's and has a name that Kubernetes uses too is told
    apart by its group, as in ``NetworkPolicy.projectcalico.org``.
    """

    namespace: str
    """Empty for what is in none."""
    name: str
    manifest: bytes
    origin: Origin
    kind: str = "NetworkPolicy"


Object = Namespace | Node | Pod | NetworkPolicy
