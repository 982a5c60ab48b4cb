"""Clusters to measure policy with: endpoints, namespaces and NetworkPolicies, the same for the same numbers.

Each namespace has pods of some applications, spread over the nodes, and the policies of a careful team: all is
denied both ways, DNS is allowed, applications are let in from each other - by label, by named port, from the namespace
that depends on this one, from all namespaces of the team - and some reach networks outside. What a cluster has once
(DNS, a monitor that is let in everywhere) is in namespaces of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.policy.v1 import policy_pb2

__all__ = ["SHAPE_A", "SHAPE_B", "Shape", "address", "dns", "endpoint", "policy"]

SYSTEM, MONITORING = "kube-system", "monitoring"
_SYSTEM_PODS, _MONITORS = 20, 5


@dataclass(frozen=True)
class Shape:
    """How large a cluster is."""

    nodes: int
    namespaces: int
    pods: int
    policies: int

    @property
    def apps(self) -> int:
        """Applications in a namespace, each of at least one pod."""
        return min(10, max(1, self.pods // self.namespaces))

    def scaled(self, factor: float) -> Shape:
        """The same with as many pods, namespaces and policies as a part of it; nodes have as many pods."""
        return Shape(*(max(1, round(each * factor)) for each in (self.nodes, self.namespaces, self.pods,
                                                                 self.policies)))

    def endpoints(self) -> Iterator[endpoint_pb2.WorkloadEndpoint]:
        """The records of all pods."""
        for number in range(self.pods):
            yield endpoint(self, number)
        for number in range(_SYSTEM_PODS):
            yield dns(self, number)
        for number in range(_MONITORS):
            yield _record(MONITORING, f"prometheus-{number}", f"10.251.0.{number}", f"node-{number % self.nodes}",
                          {"app": "prometheus"})

    def objects(self) -> Iterator[policy_pb2.Object]:
        """The manifests of all namespaces and policies."""
        for number in range(self.namespaces):
            yield namespace(f"ns-{number}", {"team": f"team-{number % 50}"})
        for name in (SYSTEM, MONITORING):
            yield namespace(name, {"purpose": name})
        for number in range(self.policies):
            yield policy(self, number)


SHAPE_A = Shape(nodes=10, namespaces=1_000, pods=3_500, policies=12_000)
"""Where Felix was slow (projectcalico/felix#2032)."""
SHAPE_B = Shape(nodes=1_000, namespaces=1_000, pods=100_000, policies=10_000)


def address(number: int) -> str:
    """The address of a pod of a shape."""
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def endpoint(shape: Shape, number: int, **labels: str) -> endpoint_pb2.WorkloadEndpoint:
    """The record of a pod of a shape, or of one beyond its number; with other labels, if any are given."""
    space, app = number % shape.namespaces, number // shape.namespaces % shape.apps
    node = (number + number // shape.namespaces * 37) % shape.nodes  # a namespace's pods are on different nodes
    return _record(f"ns-{space}", f"app-{app}-{number}", address(number), f"node-{node}",
                   {"app": f"app-{app}", "version": f"v{number % 3}", "pod-template-hash": f"{number % 97:010x}",
                    **labels}, (("http", 8080 + app % 2), ("metrics", 9090)))


def dns(shape: Shape, number: int) -> endpoint_pb2.WorkloadEndpoint:
    """The record of a DNS server, which all pods may reach: a change of it concerns all nodes."""
    return _record(SYSTEM, f"dns-{number}", f"10.250.{number // 250}.{number % 250}", f"node-{number % shape.nodes}",
                   {"k8s-app": "kube-dns"})


def _record(space: str, name: str, where: str, node: str, labels: dict[str, str],
            ports: tuple[tuple[str, int], ...] = ()) -> endpoint_pb2.WorkloadEndpoint:
    container = f"{space}-{name}-".ljust(64, "0")
    return endpoint_pb2.WorkloadEndpoint(
        attachment=cni_pb2.Attachment(network="bench", container_id=container, ifname="eth0"),
        node=node, orchestrator="k8s", workload=f"{space}.{name}", namespace=space, pod=name,
        service_account="default", labels={**labels, "calico/k8s_ns": space}, addresses=[where],
        profiles=[f"k8s_ns.{space}"], host_interface=f"mus{hash_of(where)}",
        ports=[endpoint_pb2.NamedPort(name=port, protocol="TCP", port=number) for port, number in ports])


def hash_of(where: str) -> str:
    """Eleven digits for the name of an interface."""
    return "".join(f"{int(part):02x}" for part in where.split(".")).rjust(11, "0")


def namespace(name: str, labels: dict[str, str]) -> policy_pb2.Object:
    """A Namespace."""
    return _object("Namespace", "", name, {"apiVersion": "v1", "kind": "Namespace",
                                           "metadata": {"name": name, "labels": labels}})


def policy(shape: Shape, number: int, port: int = 8080) -> policy_pb2.Object:
    """A NetworkPolicy of a shape."""
    space, kind = number % shape.namespaces, number // shape.namespaces
    return network_policy(f"ns-{space}", f"policy-{kind}", _spec(shape, space, kind, port))


def network_policy(space: str, name: str, spec: dict[str, Any]) -> policy_pb2.Object:
    """A NetworkPolicy."""
    return _object("NetworkPolicy", space, name, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                                                  "metadata": {"name": name, "namespace": space}, "spec": spec})


def _spec(shape: Shape, space: int, kind: int, port: int) -> dict[str, Any]:
    app, other = f"app-{kind % shape.apps}", f"app-{(kind + 1) % shape.apps}"
    dependent = f"ns-{(space + 1) % shape.namespaces}"
    match kind % 10:
        case 0:
            return {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        case 1:
            return {"podSelector": {}, "policyTypes": ["Egress"], "egress": [
                {"to": [_peer(SYSTEM, {"k8s-app": "kube-dns"})],
                 "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]}
        case 2:
            return {"podSelector": {}, "ingress": [
                {"from": [_peer(MONITORING, {"app": "prometheus"})], "ports": [{"port": "metrics"}]}]}
        case 3:
            return {"podSelector": _labels(app), "policyTypes": ["Egress"], "egress": [
                {"to": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}},
                        {"ipBlock": {"cidr": f"198.51.{space % 256}.0/24"}}], "ports": [{"port": 443}]}]}
        case 4:
            return {"podSelector": _labels(app), "ingress": [
                {"from": [_peer(dependent, {"app": other})], "ports": [{"port": port}]}]}
        case 5:
            return {"podSelector": _labels(app), "policyTypes": ["Egress"], "egress": [
                {"to": [_peer(dependent, {"app": app})], "ports": [{"port": port, "endPort": port + 10}]}]}
        case 6:
            return {"podSelector": _labels(app), "ingress": [
                {"from": [{"podSelector": {"matchExpressions": [
                    {"key": "app", "operator": "In", "values": [app, other]}]}}], "ports": [{"port": "http"}]}]}
        case 7:
            return {"podSelector": _labels(app), "ingress": [
                {"from": [{"namespaceSelector": {"matchLabels": {"team": f"team-{space % 50}"}},
                           "podSelector": _labels(other)}], "ports": [{"port": port}]}]}
        case _:
            return {"podSelector": _labels(app), "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": [{"podSelector": _labels(other)}], "ports": [{"port": port}]}],
                    "egress": [{"to": [{"podSelector": _labels(other)}], "ports": [{"port": port}]}]}


def _labels(app: str) -> dict[str, Any]:
    return {"matchLabels": {"app": app}}


def _peer(space: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}},
            "podSelector": {"matchLabels": labels}}


def _object(kind: str, space: str, name: str, manifest: dict[str, Any]) -> policy_pb2.Object:
    return policy_pb2.Object(kind=kind, namespace=space, name=name, manifest=json.dumps(manifest).encode(),
                             origin="bench")
