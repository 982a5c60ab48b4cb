"""What a real API server is told by Muslin, and what becomes of a node whose object is deleted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kubernetes.leaks import none
from tests.kubernetes.machine import until
from tests.kubernetes.muslin import Muslin, in_calicos_place
from tests.kubernetes.node import PATIENCE, Node
from tests.kubernetes.pods import Space, manifest, policy

TAINT = "muslin.dev/not-ready"


@pytest.fixture(scope="module")
def muslin(node: Node) -> Muslin:
    """Muslin in Calico's place, on a node that was registered with the taint that waits for a network."""
    until(lambda: node.get("node", node.name), "the node is registered", PATIENCE)
    node.kubectl("taint", "node", node.name, f"{TAINT}=:NoSchedule")
    return in_calicos_place(node)


def events(space: Space, name: str) -> dict[str, dict[str, Any]]:
    """Events that we wrote on an object, by reason."""
    found = space.node.get("--namespace", space.name, "events", "--field-selector", f"involvedObject.name={name}")
    return {each["reason"]: each for each in found.get("items", ())
            if each.get("source", {}).get("component", "").startswith("muslin-")}


def told(space: Space, name: str, reason: str, kind: str = "pod") -> dict[str, Any]:
    """The event of a reason on an object, once it is there."""
    until(lambda: reason in events(space, name), lambda: space.kubectl("describe", kind, name), PATIENCE)
    return events(space, name)[reason]


def condition(node: Node) -> tuple[str, str] | None:
    """What the node says of its network."""
    said = node.get("node", node.name).get("status", {}).get("conditions", ())
    return next(((each["status"], each["reason"]) for each in said if each["type"] == "NetworkUnavailable"), None)


def tainted(node: Node) -> bool:
    return any(taint["key"] == TAINT for taint in node.get("node", node.name).get("spec", {}).get("taints", ()))


def test_a_node_with_a_network_says_so(muslin: Muslin) -> None:
    """Its condition is set, and the taint with which it was registered is gone."""
    until(lambda: condition(muslin.node) == ("False", "MuslinIsUp"), "the node has a network", PATIENCE)
    until(lambda: not tainted(muslin.node), "the taint is gone", PATIENCE)
    [seen] = muslin.asked("node", "list")["nodes"]
    assert (seen["node"], seen["host"]["present"], seen["host"]["trouble"]) == (muslin.node.name, True, "")


def test_a_pod_that_asks_for_what_can_not_be_is_told_so(muslin: Muslin, space: Space) -> None:
    """An Event on it says what to change, others are not held up, and once it asks for what can be it runs."""
    wrong = manifest("wrong")
    wrong["metadata"]["annotations"] = {"cni.projectcalico.org/ipAddrs": '["172.31.0.1"]'}
    space.apply(wrong)
    space.run("other")
    said = told(space, "wrong", "NetworkRefused")
    assert "address 172.31.0.1 is in no pool; pools are default (192.168.0.0/16)" in said["message"]
    assert said["involvedObject"]["uid"] == space.pod("wrong")["metadata"]["uid"]
    assert "172.31.0.1 is in no pool" in space.kubectl("describe", "pod", "wrong"), "where its user looks"
    space.kubectl("annotate", "--overwrite", "pod", "wrong", 'cni.projectcalico.org/ipAddrs=["192.168.77.7"]')
    assert space.ready("wrong") == ["192.168.77.7"]


def test_a_policy_that_is_too_long_isolates_and_says_so(muslin: Muslin, space: Space) -> None:
    """The API server takes it; what can not be stored of it must not open what it shuts."""
    address, _ = space.run("web", "other")
    space.comes_to("OK", "other", address)
    peers = [{"ipBlock": {"cidr": f"10.{number >> 8}.{number & 255}.0/24"}} for number in range(30_000)]
    made = policy("long", {"app": "web"}, ingress=[{"from": peers}])
    space.node.kubectl("--namespace", space.name, "create", "--filename", "-", text=json.dumps(made))
    space.comes_to("TIMEOUT", "other", address)
    assert space.connect("web", space.ready("other")[0]) == "OK"
    assert "1048576 are the most; split it" in told(space, "long", "PolicyNotInForce", "networkpolicy")["message"]
    space.kubectl("delete", "networkpolicy", "long")
    space.comes_to("OK", "other", address)


def test_a_node_that_was_deleted_by_mistake_comes_back_as_itself(muslin: Muslin, space: Space) -> None:
    """Its pods are taken from it, as Kubernetes has it; nothing of theirs stays, and it serves new ones."""
    node = muslin.node
    space.run("web")
    node.kubectl("delete", "node", node.name)
    until(lambda: not space.pods(), "the pods of the deleted node are gone", PATIENCE)
    node.restart("kubelet")
    node.ready()
    until(lambda: condition(node) == ("False", "MuslinIsUp"), "the node has a network", PATIENCE)
    address, _ = space.run("web", "other")
    assert space.connect("other", address) == "OK"
    none(muslin)
    [seen] = muslin.asked("node", "list")["nodes"]
    assert (seen["node"], seen["use"]["draining"]) == (node.name, False)


def test_a_drained_node_gives_no_address_and_then_some_again(muslin: Muslin, space: Space) -> None:
    """The pod that gets none is told why; what runs is not touched."""
    node = muslin.node
    [web] = space.run("web")
    assert muslin("node", "drain-ipam", node.name).startswith(f"node {node.name} gets no new address; ")
    space.apply(manifest("late"))
    assert f"node {node.name} is drained of addresses" in told(space, "late", "NoAddressLeft")["message"]
    assert space.ready("web") == [web]
    muslin("node", "drain-ipam", node.name, "--undo")
    space.ready("late")
    assert space.connect("late", web) == "OK"
