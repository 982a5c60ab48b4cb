"""What pods and operators ask of Muslin by way of Kubernetes, and what becomes of what can not be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.kubernetes.leaks import none
from tests.kubernetes.machine import until
from tests.kubernetes.muslin import Muslin, in_calicos_place
from tests.kubernetes.node import PATIENCE, Node
from tests.kubernetes.pods import PORT, Space, address_of, manifest, policy, template

WANTED = "192.168.240.77"


@pytest.fixture(scope="module")
def muslin(node: Node) -> Muslin:
    """Muslin in Calico's place, with a second pool."""
    made = in_calicos_place(node)
    made("ipam", "pool", "create", "special", "10.77.0.0/24")
    return made


def asking(name: str, **annotations: str) -> dict[str, Any]:
    """A pod with annotations of Calico's."""
    made = manifest(name)
    made["metadata"]["annotations"] = {f"cni.projectcalico.org/{key}": value for key, value in annotations.items()}
    return made


def reasons(space: Space, name: str) -> Mapping[str, str]:
    """Messages of a pod's Events by reason."""
    found = space.node.get("--namespace", space.name, "events").get("items", ())
    return {each["reason"]: each["message"] for each in found
            if (each["involvedObject"]["kind"], each["involvedObject"]["name"]) == ("Pod", name)}


def test_addresses_that_are_asked_for(muslin: Muslin, space: Space) -> None:
    """An address of its own, a pool by the pod, and a pool by its namespace."""
    space.apply(asking("one", ipAddrs=f'["{WANTED}"]'), asking("two", ipv4pools='["special"]'))
    one, two = space.ready("one", "two")
    assert one == WANTED
    assert two.startswith("10.77.0.")
    space.node.kubectl("annotate", "namespace", space.name, 'cni.projectcalico.org/ipv4pools=["special"]')

    def followed() -> bool:
        [address] = space.run("three")
        if address.startswith("10.77.0."):
            return True
        space.kubectl("delete", "pod", "three", "--now")
        return False
    until(followed, "the namespace's pool is followed", PATIENCE)
    assert space.connect("three", one) == "OK"


def test_a_pod_that_keeps_its_address(muslin: Muslin, space: Space) -> None:
    """A StatefulSet's pod that is deleted comes back with the address that it had."""
    made = template({"app": "db"}, terminationGracePeriodSeconds=1)  # with 0 the new pod need not wait for the old
    made["metadata"]["annotations"] = {"muslin.dev/sticky-addresses": "20s"}
    space.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
        "serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}}, "template": made}})
    until(lambda: space.pod("db-0"), "there is a pod", PATIENCE)
    [before] = space.ready("db-0")
    uid = space.pod("db-0")["metadata"]["uid"]
    space.kubectl("delete", "pod", "db-0", "--wait=false")
    until(lambda: space.pod("db-0").get("metadata", {}).get("uid", uid) != uid, "there is another", PATIENCE)
    assert space.ready("db-0") == [before]
    # It is kept for another return, and then freed: what is looked at next waits for that.


def test_what_can_not_be(muslin: Muslin, space: Space) -> None:
    """Pods that ask for the impossible stay without a network, and their Events say why; mended, they come up."""
    cases = {"outside": ("ipAddrs", '["10.99.0.1"]', "10.99.0.1"), "damaged": ("ipAddrs", "not JSON", "not JSON"),
             "nowhere": ("ipv4pools", '["nosuchpool"]', "nosuchpool"),
             "unsupported": ("ipAddrsNoIpam", '["10.99.0.1"]', "not supported")}
    space.apply(*(asking(name, **{key: value}) for name, (key, value, _) in cases.items()))
    for name, (_, _, says) in cases.items():
        for reason in ("NetworkRefused", "FailedCreatePodSandBox"):  # ours, and kubelet's
            until(lambda: says in reasons(space, name).get(reason, ""),  # noqa: B023
                  lambda: f"{reason} says why: {reasons(space, name)}", PATIENCE)  # noqa: B023
    assert not any(map(address_of, space.pods()))
    for name, (key, _, _) in cases.items():
        space.kubectl("annotate", "pod", name, f"cni.projectcalico.org/{key}-")
    # They ask for no pool now: any of the node's blocks serves, of whichever pool.
    assert all(address.startswith(("192.168.", "10.77.0.")) for address in space.ready(*cases))
    none(muslin)


def test_a_port_that_nobody_names(space: Space) -> None:
    """A rule for a named port that no pod has opens nothing; what else the policy allows holds."""
    address, _ = space.run("web", "other")
    friend = [{"podSelector": {"matchLabels": {"app": "other"}}}]
    space.apply(policy("odd", {"app": "web"}, ingress=[{"from": friend, "ports": [{"port": "nosuchname"}]}]))
    space.comes_to("TIMEOUT", "other", address)
    space.apply(policy("odd", {"app": "web"}, ingress=[
        {"from": friend, "ports": [{"port": "nosuchname"}, {"port": PORT}]}]))
    space.comes_to("OK", "other", address)
