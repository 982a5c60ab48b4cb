"""Services by kube-proxy's iptables beside our tables, and hostPort by the portmap plugin after ours in a list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kubernetes.machine import ADDRESS, WORLD, until
from tests.kubernetes.muslin import Muslin
from tests.kubernetes.node import PATIENCE, Node
from tests.kubernetes.pods import PORT, Space, container, manifest, policy

CONFLIST = {"cniVersion": "1.0.0", "name": "k8s-pod-network", "plugins": [
    {"type": "muslin", "ipam": {"type": "muslin-ipam"}, "policy": {"type": "k8s"}},
    {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}]}
CLUSTER, LOCAL = 30_080, 30_081
"""Node ports by externalTrafficPolicy."""


@pytest.fixture(scope="module")
def muslin(node: Node) -> Muslin:
    """Muslin first in a list, with portmap."""
    made = Muslin(node)
    made.up()
    node.run("cp", "/usr/lib/cni/portmap", "/opt/cni/bin/")
    node.write("/root-of-tests/10-muslin.conflist", json.dumps(CONFLIST))
    made.install("--conf", "/root-of-tests/10-muslin.conflist")
    node.ready()
    return made


@pytest.fixture
def masquerade_all(node: Node) -> Iterator[None]:
    """kube-proxy gives all traffic of services the node's address as source."""
    node.proxy_flags = ("--masquerade-all",)
    node.restart("kube-proxy")
    yield
    node.proxy_flags = ()
    node.restart("kube-proxy")


def service(name: str, app: str, **spec: Any) -> dict[str, Any]:
    """One in front of pods by their label `app`."""
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": PORT}], **spec}}


def address_of(space: Space, name: str) -> str:
    """A service's own address."""
    return str(space.node.get("--namespace", space.name, "service", name)["spec"]["clusterIP"])


def test_cluster_address(space: Space) -> None:
    """Pods and the node reach a service by its address, and policies judge the pod behind it and who really asks."""
    web, other = space.run("web", "other")
    space.apply(service("web", "web"))
    address = address_of(space, "web")
    space.comes_to("OK", "other", address, 80)
    assert space.fetch("other", address, "clientip", 80).startswith(f"{other}:")
    until(lambda: space.node.fetch(f"{address}/hostname") == "web", "the node reaches it", 60)
    space.apply(policy("deny", {"app": "web"}, policyTypes=["Ingress"]))
    space.comes_to("TIMEOUT", "other", address, 80)
    assert space.node.fetch(f"{address}/hostname") == "web", "the node itself is not shut out of its pods"
    space.apply(policy("deny", {"app": "web"}, ingress=[
        {"from": [{"podSelector": {"matchLabels": {"app": "other"}}}], "ports": [{"port": PORT}]}]))
    space.comes_to("OK", "other", address, 80)
    # What egress names is the pod and its port, not the service's.
    space.apply(policy("out", {"app": "other"}, policyTypes=["Egress"], egress=[
        {"to": [{"ipBlock": {"cidr": f"{address}/32"}}]}]))
    space.comes_to("TIMEOUT", "other", address, 80)
    space.apply(policy("out", {"app": "other"}, policyTypes=["Egress"], egress=[
        {"to": [{"ipBlock": {"cidr": f"{web}/32"}}], "ports": [{"port": PORT}]}]))
    space.comes_to("OK", "other", address, 80)


def test_a_pod_reaches_itself_by_its_service(space: Space) -> None:
    """The hairpin: out by its interface, through kube-proxy, and in again by the same."""
    space.run("web")
    space.apply(service("web", "web"))
    space.comes_to("OK", "web", address_of(space, "web"), 80)
    assert space.fetch("web", address_of(space, "web"), "hostname", 80) == "web"


def test_masquerade_all(space: Space, masquerade_all: None) -> None:
    """Where all is masqueraded a pod sees the node as its client, but policies still see who asks."""
    _, other, _ = space.run("web", "other", "third")
    space.apply(service("web", "web"), policy("friends", {"app": "web"}, ingress=[
        {"from": [{"podSelector": {"matchLabels": {"app": "other"}}}]}]))
    address = address_of(space, "web")
    space.comes_to("OK", "other", address, 80)
    until(lambda: not space.fetch("other", address, "clientip", 80).startswith(other), "it is masqueraded", 60)
    space.comes_to("TIMEOUT", "third", address, 80)


def test_node_ports(space: Space) -> None:
    """Who is outside reaches pods by the node's ports; Local keeps its address; policies see it with either."""
    space.run("web", "other")
    space.apply(
        service("cluster", "web", type="NodePort", externalTrafficPolicy="Cluster",
                ports=[{"port": 80, "targetPort": PORT, "nodePort": CLUSTER}]),
        service("local", "web", type="NodePort", externalTrafficPolicy="Local",
                ports=[{"port": 80, "targetPort": PORT, "nodePort": LOCAL}]))
    for port in (CLUSTER, LOCAL):
        until(lambda: space.node.fetch(f"{ADDRESS}:{port}/hostname", outside=True) == "web", f"port {port}", 60)  # noqa: B023
        space.comes_to("OK", "other", ADDRESS, port)
    assert space.node.fetch(f"{ADDRESS}:{LOCAL}/clientip", outside=True).startswith(f"{WORLD}:")
    assert not space.node.fetch(f"{ADDRESS}:{CLUSTER}/clientip", outside=True).startswith(f"{WORLD}:")
    space.apply(policy("deny", {"app": "web"}, policyTypes=["Ingress"]))
    for port in (CLUSTER, LOCAL):
        until(lambda: not space.node.fetch(f"{ADDRESS}:{port}/hostname", outside=True), f"{port} is shut", 60)  # noqa: B023
    space.apply(policy("deny", {"app": "web"}, ingress=[{"from": [{"ipBlock": {"cidr": f"{WORLD}/32"}}]}]))
    for port in (CLUSTER, LOCAL):
        until(lambda: space.node.fetch(f"{ADDRESS}:{port}/hostname", outside=True) == "web", f"port {port}", 60)  # noqa: B023
        space.comes_to("TIMEOUT", "other", ADDRESS, port)


def test_a_host_port(muslin: Muslin, space: Space) -> None:
    """portmap, next in the list, forwards a port of the node to the pod; policies judge who asks."""
    port = 8_085
    space.apply(manifest("web", containers=[container(ports=[{"containerPort": PORT, "hostPort": port}])]),
                manifest("other"))
    space.ready("web", "other")
    assert space.node.fetch(f"{ADDRESS}:{port}/hostname", outside=True) == "web"
    assert space.node.fetch(f"{ADDRESS}:{port}/hostname") == "web"
    assert space.node.fetch(f"127.0.0.1:{port}/hostname") == "web"
    space.comes_to("OK", "other", ADDRESS, port)
    space.apply(policy("deny", {"app": "web"}, policyTypes=["Ingress"]))
    until(lambda: not space.node.fetch(f"{ADDRESS}:{port}/hostname", outside=True), "it is shut", 60)
    space.comes_to("TIMEOUT", "other", ADDRESS, port)
    space.apply(policy("deny", {"app": "web"}, ingress=[{"from": [{"ipBlock": {"cidr": f"{WORLD}/32"}}]}]))
    until(lambda: space.node.fetch(f"{ADDRESS}:{port}/hostname", outside=True) == "web", "it is open again", 60)
    space.kubectl("delete", "pod", "web", "--now")
    until(lambda: not space.pod("web"), "it is gone", PATIENCE)
    until(lambda: str(port) not in muslin.node.run("iptables-save"), "portmap's rules are gone", 60)
