"""`kubectl apply -k deploy/overlays/ha-1.20` on three nodes, of which one may be away."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.deployed import NAMESPACE, Cluster, left
from tests.kubernetes.machine import until
from tests.kubernetes.node import PATIENCE, Node
from tests.kubernetes.pods import manifest, policy

Listing = dict[str, list[str]]


@pytest.fixture(scope="module")
def nodes(archive: Path) -> Iterator[list[Node]]:
    """Three; the first has the control plane too."""
    print()  # noqa: T201 - as for one node
    made = [Node()]
    try:
        made += [Node(f"node{number}", first=made[0]) for number in (2, 3)]
        for node in made:
            node.up()
            node.import_image(archive)
        yield made
    finally:
        for node in reversed(made):
            node.remove(keep_logs=bool(os.environ.get("MUSLIN_KUBERNETES_KEEP")))


@pytest.fixture(scope="module")
def cluster(nodes: list[Node]) -> Cluster:
    """All of Muslin, seen from the first node."""
    return Cluster(nodes[0], "ha-1.20", members=3)


@pytest.fixture(scope="module")
def before() -> dict[str, Listing]:
    """By node what there was before the first test."""
    return {}


def run(cluster: Cluster, **where: str) -> None:
    """Have pods on nodes, and wait until they are Ready."""
    cluster.node.apply(*(manifest(pod, nodeSelector={"kubernetes.io/hostname": node}) for pod, node in where.items()))
    cluster.running(*where)


def placed(cluster: Cluster, name: str) -> list[str]:
    """The nodes that pods of ours are on."""
    found = cluster.node.get("-n", NAMESPACE, "pods", "-l", f"app.kubernetes.io/name={name}")["items"]
    return sorted(pod["spec"]["nodeName"] for pod in found)


def test_three_nodes_come_up(cluster: Cluster, nodes: list[Node], before: dict[str, Listing]) -> None:
    """Replicas are on different nodes, and each member of etcd where its label says."""
    before.update((node.name, node.listing()) for node in nodes)
    began = time.monotonic()
    for number, node in enumerate(nodes):
        cluster.node.kubectl("label", "node", node.name, f"muslin.dev/etcd={number}")
    cluster.kustomize("apply")
    for node in nodes:
        node.ready()
    cluster.rolled_out()
    cluster.node.report(f"apply -k to three Ready nodes with everything rolled out: {time.monotonic() - began:.0f} s")
    for name in ("muslin-ipam", "muslin-endpoint", "muslin-policy"):
        assert len(set(placed(cluster, name))) == 2, name
    assert placed(cluster, "muslin-etcd") == placed(cluster, "muslin-node") == [node.name for node in nodes]


def test_pods_of_different_nodes(cluster: Cluster) -> None:
    """They reach each other by address and by service as far as policy lets them, and no node masquerades that."""
    run(cluster, web="node2", friend="node3", other="node1")
    address = cluster.address("web")
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}
    cluster.node.apply(service)
    virtual = cluster.node.get("service", "web")["spec"]["clusterIP"]
    for source in ("friend", "other"):
        assert cluster.connect(source, address) == "OK"
        until(lambda: cluster.connect(source, virtual, 80) == "OK", f"{source} reaches the service", 60)  # noqa: B023
    cluster.node.apply(policy("web", {"app": "web"}, ingress=[
        {"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]))
    until(lambda: cluster.connect("other", address) == "TIMEOUT", "the policy is in force", 30)
    assert cluster.connect("other", virtual, 80) == "TIMEOUT"
    assert cluster.connect("friend", address) == cluster.connect("friend", virtual, 80) == "OK"


def test_an_upgrade_touches_no_traffic(cluster: Cluster) -> None:
    """All on three nodes is replaced while pods of two ping each other: nothing is lost."""
    began = time.monotonic()
    with cluster.traffic("friend", cluster.address("web")) as counts:
        cluster.replaced()
    cluster.node.report(f"everything replaced in {time.monotonic() - began:.0f} s: "
                        f"of {counts[0]} packets {counts[1]} came back")
    assert counts[0] > 50
    assert counts[1] == counts[0]
    assert cluster.connect("other", cluster.address("web")) == "TIMEOUT"


def test_one_node_loses_its_power(cluster: Cluster, nodes: list[Node]) -> None:
    """A member of etcd and some replicas with it: pods of the others go on, new ones come, and policies change."""
    lost = nodes[2]
    run(cluster, caller="node1")
    cluster.node.kubectl("label", "pod", "caller", "app=friend", "--overwrite")
    address = cluster.address("web")
    until(lambda: cluster.connect("caller", address) == "OK", "the label counts", 60)
    with cluster.traffic("caller", address) as counts:
        lost.power_off()
        began = time.monotonic()
        run(cluster, newcomer="node1", another="node2")
        cluster.node.report(f"new pods on two nodes {time.monotonic() - began:.0f} s after the third lost its power")
        assert cluster.connect("newcomer", cluster.address("another")) == "OK"
        assert cluster.connect("newcomer", address) == "TIMEOUT"
        cluster.node.kubectl("label", "pod", "newcomer", "app=friend", "--overwrite")
        until(lambda: cluster.connect("newcomer", address) == "OK", "the label counts", 120)
    assert counts[0] > 50
    assert counts[1] == counts[0]
    began = time.monotonic()
    lost.up()
    until(lambda: cluster.connect("friend", address) == "OK", "the pod of the node that was off is back", PATIENCE)
    cluster.node.report(f"its pod is back {time.monotonic() - began:.0f} s after the power")
    cluster.rolled_out()


def test_one_command_takes_all_of_it_away(cluster: Cluster, nodes: list[Node], before: dict[str, Listing]) -> None:
    """From every node."""
    cluster.node.kubectl("delete", "pods", "--all", "--wait", "--timeout=120s")
    cluster.node.kubectl("delete", "networkpolicy,service", "web")
    cluster.kustomize("delete")
    for node in nodes:
        until(lambda: not left(node, before[node.name]),  # noqa: B023
              lambda: f"nothing is left on {node.name}: "  # noqa: B023
                      f"{json.dumps(left(node, before[node.name]), indent=1)}", 60)  # noqa: B023
