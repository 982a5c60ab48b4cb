"""A small cluster as plain values, put through translation, compilation and explanation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.policy.engine import Engine
from services.policy.events import EndpointPut, Event, ResourcePut
from services.policy.explain import Explanation, Packet, Place, Step, View, decide, explain
from services.policy.model import (
    NAMESPACE_PROFILE_PREFIX,
    PROTOCOLS,
    Attachment,
    Direction,
    Endpoint,
    NamedPort,
)
from services.policy.objects import CALICO_POLICY
from services.policy.translate import Ref, translate


@dataclass(frozen=True)
class Pod:
    """A pod of a test; one address, one node."""

    namespace: str
    name: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[NamedPort, ...] = ()
    node: str = "n1"
    profiles: tuple[str, ...] | None = None
    account: str = "default"

    @property
    def workload(self) -> str:
        return f"{self.namespace}/{self.name}"

    def endpoint(self) -> Endpoint:
        profiles = (NAMESPACE_PROFILE_PREFIX + self.namespace,) if self.profiles is None else self.profiles
        return Endpoint(
            attachment=Attachment("net", f"c-{self.namespace}-{self.name}", "eth0"), node=self.node,
            interface=f"cali{self.namespace}{self.name}", workload=self.workload, namespace=self.namespace,
            service_account=self.account, labels=dict(self.labels), addresses=(self.address,), profiles=profiles,
            ports=self.ports)


def namespace(name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A Namespace's manifest."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}}


def network_policy(space: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A NetworkPolicy's manifest."""
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": space}, "spec": dict(spec)}


def calico(kind: str, name: str, spec: Mapping[str, Any], space: str = "") -> dict[str, Any]:
    """The manifest of an object of Calico's."""
    inside = {"namespace": space} if space else {}
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name, **inside},
            "spec": dict(spec)}


def service_account(space: str, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """A ServiceAccount's manifest."""
    return {"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": space, "labels": dict(labels)}}


def ref_of(manifest: Mapping[str, Any]) -> Ref:
    """What a manifest's object is called."""
    meta, kind = manifest["metadata"], manifest["kind"]
    if kind == "NetworkPolicy" and "projectcalico.org" in manifest["apiVersion"]:
        kind = CALICO_POLICY
    return Ref(kind, meta.get("namespace", ""), meta["name"])


def put(manifest: Mapping[str, Any], origin: str = "") -> ResourcePut:
    """The event of a manifest."""
    return ResourcePut(translate(ref_of(manifest), dict(manifest), origin).resource)


class Cluster:
    """Pods and objects, compiled."""

    def __init__(self, pods: Iterable[Pod], manifests: Iterable[Mapping[str, Any]]) -> None:
        events: list[Event] = [EndpointPut(pod.endpoint()) for pod in pods]
        self.engine = Engine()
        self.engine.handle([*events, *map(put, manifests)])
        self.view = View(self.engine.programs.values())

    def place(self, workload: str) -> Place:
        place = self.view.workload(workload)
        assert place is not None, workload
        return place

    def _packet(self, source: str, destination: str, protocol: str, port: int) -> Packet:
        first, last = (self.place(side).endpoint.addresses[0] if "/" in side else side
                       for side in (source, destination))
        return Packet(first, last, PROTOCOLS[protocol], port)

    def explain(self, source: str, destination: str, port: int, protocol: str = "TCP") -> Explanation:
        """A flow; each side is `namespace/name` or an address."""
        places = [self.place(side) if "/" in side else self.view.address(side) for side in (source, destination)]
        return explain(self._packet(source, destination, protocol, port), *places)

    def allowed(self, source: str, destination: str, port: int, protocol: str = "TCP") -> bool:
        """Whether a flow passes."""
        return self.explain(source, destination, port, protocol).allowed is True

    def decide(self, source: str, destination: str, port: int, protocol: str, direction: Direction) -> Step:
        """One side of a flow between pods."""
        place = self.place(destination if direction is Direction.INGRESS else source)
        return decide(place, direction, self._packet(source, destination, protocol, port))
