"""What happens to a node: its daemons stop, the API server is away, a hundred pods come at once, its power fails.

Through each of it there is a pair of pods of which one may reach the other and another pair of which one may not.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from muslin import netns
from tests.kubernetes.leaks import none
from tests.kubernetes.machine import until
from tests.kubernetes.muslin import Muslin
from tests.kubernetes.node import PATIENCE
from tests.kubernetes.pods import PORT, Space, address_of, container, manifest, policy, template

AWAY = 60.0
"""Seconds that the API server is away."""
MANY = 100


class World:
    """Three pods of which `friend` may reach `web`, and `foe` may not."""

    def __init__(self, muslin: Muslin, space: Space) -> None:
        self.muslin, self.space = muslin, space
        space.run("web", "friend", "foe")
        space.apply(policy("friends", {"app": "web"}, ingress=[
            {"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]))
        space.comes_to("TIMEOUT", "foe", self.address)

    @property
    def address(self) -> str:
        return str(self.endpoint("web")["addresses"][0])

    def endpoint(self, pod: str) -> dict[str, Any]:
        """Its record; there must be one."""
        [found] = [each for each in self.muslin.asked("endpoint", "list")["endpoints"]
                   if each["pod"] == pod and each["namespace"] == self.space.name]
        return dict(found)

    def connect(self, source: str) -> str:
        """From a pod to `web`, without asking the API server; the pods' own namespaces are entered."""
        place = self.space.node.path(str(self.endpoint(source)["netns"]).replace("/var/run", "/run"))
        address = self.address

        def attempt() -> str:
            try:
                socket.create_connection((address, PORT), timeout=2.0).close()
            except TimeoutError:
                return "TIMEOUT"
            except OSError as problem:
                return str(problem)
            return "OK"
        return netns.run(place, attempt)

    def holds(self) -> None:
        """Who may, can; who may not, can not."""
        assert self.connect("friend") == "OK"
        assert self.connect("foe") == "TIMEOUT"


@pytest.fixture
def world(muslin: Muslin, space: Space) -> Iterator[World]:
    """Checked before and after the test."""
    made = World(muslin, space)
    made.holds()
    yield made
    until(lambda: (made.connect("friend"), made.connect("foe")) == ("OK", "TIMEOUT"), "all is as it was", 60)


def test_kubelet_restarted(muslin: Muslin, space: Space, world: World) -> None:
    """Killed and started again: running pods stay as they are, and what was deleted meanwhile goes."""
    before = world.address
    space.run("gone")
    muslin.node.stop("kubelet", signal.SIGKILL)
    space.kubectl("delete", "pod", "gone", "--wait=false")
    world.holds()
    muslin.node.begin("kubelet")
    until(lambda: not space.pod("gone"), "the deleted pod is gone", PATIENCE)
    space.run("new")
    assert world.address == before
    none(muslin)


def test_containerd_restarted(muslin: Muslin, space: Space, world: World) -> None:
    """Killed and started again: pods run on, and kubelet makes and deletes others afterwards."""
    before = world.address
    space.run("gone")
    muslin.node.stop("containerd", signal.SIGKILL)
    world.holds()
    space.kubectl("delete", "pod", "gone", "--wait=false")
    muslin.node.begin("containerd")
    until(lambda: not space.pod("gone"), "the deleted pod is gone", PATIENCE)
    muslin.node.ready()
    space.run("new")
    assert world.address == before
    none(muslin)


def test_services_killed(muslin: Muslin, space: Space, world: World) -> None:
    """All of Muslin killed: traffic and verdicts go on, DELs succeed, and pods that were asked for come afterwards."""
    space.run("gone")
    muslin.node.stop("muslin", signal.SIGKILL)
    space.apply(manifest("new"))
    space.kubectl("delete", "pod", "gone", "--wait=false")
    until(lambda: not space.pod("gone"), "the deleted pod is gone without us", PATIENCE)
    muslin.begin()
    space.ready("new")
    none(muslin)


def test_the_api_server_away(muslin: Muslin, space: Space, world: World) -> None:
    """A minute without it: a known pod's new sandbox is networked and enforced, the old one's address is freed."""
    node = muslin.node
    before = world.endpoint("web")["attachment"]
    node.stop("kube-apiserver", signal.SIGKILL)
    began = time.monotonic()
    world.holds()
    node.run("ctr", "--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io", "task", "kill",
             "--signal", "9", before["container_id"])

    def renewed() -> bool:
        found = [each for each in muslin.asked("endpoint", "list")["endpoints"]
                 if each["pod"] == "web" and each["namespace"] == space.name]
        return len(found) == 1 and found[0]["attachment"] != before and world.connect("friend") == "OK"
    until(renewed, "kubelet has made a new sandbox, without asking anybody", 50)
    node.report(f"  a new sandbox after {time.monotonic() - began:.0f} s without an API server")
    while time.monotonic() - began < AWAY:
        world.holds()
        time.sleep(2)
    held = [each["attachment"] for each in muslin.asked("ipam", "show", "--handles")["handles"]]
    assert before not in held
    node.begin("kube-apiserver")
    until(lambda: address_of(space.pod("web")) == world.address, "the API server learns of it", PATIENCE)
    space.run("new")
    space.apply(policy("friends", {"app": "web"}, ingress=[
        {"from": [{"podSelector": {"matchExpressions": [
            {"key": "app", "operator": "In", "values": ["friend", "new"]}]}}]}]))
    space.comes_to("OK", "new", world.address)


def test_a_hundred_pods_at_once(muslin: Muslin, space: Space, world: World) -> None:
    """All come up, each with an address of its own, and all go."""
    space.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"}, "spec": {
        "replicas": MANY, "selector": {"matchLabels": {"app": "many"}},
        "template": template({"app": "many"}, containers=[container("pause")])}})
    began = time.monotonic()

    def status(field: str) -> int:
        return int(space.node.get("--namespace", space.name, "deployment", "many")["status"].get(field, 0))
    until(lambda: status("readyReplicas") == MANY, lambda: f"{status('readyReplicas')} of {MANY} are ready", 600, 1.0)
    muslin.node.report(f"  {MANY} pods are Ready after {time.monotonic() - began:.0f} s")
    addresses = {address_of(pod) for pod in space.pods()}
    assert len(addresses) == MANY + 3
    none(muslin)
    began = time.monotonic()
    space.kubectl("delete", "deployment", "many")
    until(lambda: len(space.pods()) == 3, "they are gone", 600, 1.0)
    muslin.node.report(f"  and gone {time.monotonic() - began:.0f} s after their deletion")
    none(muslin)


def test_power_fails(muslin: Muslin, space: Space, world: World) -> None:
    """All processes, namespaces and memory are gone at once; after the start all pods are back, and nothing else."""
    before = {each["attachment"]["container_id"] for each in muslin.asked("endpoint", "list")["endpoints"]}
    muslin.node.reboot()
    muslin.begin()
    muslin.node.ready()

    def back() -> bool:
        found = {each["attachment"]["container_id"] for each in muslin.asked("endpoint", "list")["endpoints"]}
        return len(found) == len(before) and not found & before
    until(back, "every pod has a new sandbox", PATIENCE)
    space.ready("web", "friend", "foe")
    none(muslin)


def test_power_fails_while_pods_come(muslin: Muslin, space: Space) -> None:
    """Pods that were under way are made anew, and what their first sandboxes had is freed."""
    space.apply(*(manifest(f"p{number}") for number in range(20)))
    until(lambda: len(muslin.asked("endpoint", "list")["endpoints"]) >= 5, "some are there", PATIENCE, 0.01)
    muslin.node.reboot()
    muslin.begin()
    muslin.node.ready()
    space.ready(*(f"p{number}" for number in range(20)))
    none(muslin)


def test_the_daemon_starts_after_kubelet(muslin: Muslin, space: Space, world: World) -> None:
    """After a reboot kubelet may be quicker than we are: it tries until we answer."""
    before = shim_errors(muslin)
    muslin.node.reboot()
    until(lambda: shim_errors(muslin) > before + 3, "kubelet has tried", PATIENCE)
    muslin.begin()
    none(muslin)
    space.ready("web", "friend", "foe")
    none(muslin)


def shim_errors(muslin: Muslin) -> int:
    """How many ADDs have failed, by the plugin's log."""
    return sum(" ADD " in line and " error " in line
               for line in muslin.node.path("/var/log/muslin/shim.log").read_text().splitlines())
