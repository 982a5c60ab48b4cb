"""The node itself, before anything of ours is on it: what the other tests stand on."""

from __future__ import annotations

import json
from pathlib import Path

from muslin import netns
from tests.kubernetes import images
from tests.kubernetes.machine import ADDRESS, until
from tests.kubernetes.node import PATIENCE, Node

BRIDGE = {"cniVersion": "0.4.0", "name": "bridge", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True,
     "ipam": {"type": "host-local", "subnet": "192.168.0.0/16", "routes": [{"dst": "0.0.0.0/0"}]}}]}


def test_it_is_as_bare_as_a_new_machine(node: Node) -> None:
    """Nothing of the host's network or of its CNI files is seen in it, and it waits for a network."""
    found = node.listing()
    assert found["links"] == ["lo", "eth0"]
    assert [path for path in found["files"] if path.startswith(("/etc/cni", "/opt/cni"))] == [
        "/etc/cni", "/etc/cni/net.d", "/opt/cni", "/opt/cni/bin", "/opt/cni/bin/loopback"]
    assert not node.is_ready()


def test_debians_plugins_network_it(node: Node) -> None:
    """With the reference plugins it runs a pod: what fails with another network is that network's."""
    node.run("sh", "-ec", "cp /usr/lib/cni/bridge /usr/lib/cni/host-local /opt/cni/bin/")
    node.write("/etc/cni/net.d/10-bridge.conflist", json.dumps(BRIDGE))
    node.ready()
    node.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": images.AGNHOST, "args": ["netexec"]}]}})
    until(lambda: node.get("pod", "web")["status"]["phase"] == "Running", "the pod runs", PATIENCE)
    address = node.get("pod", "web")["status"]["podIP"]
    assert node.kubectl("exec", "web", "--", "hostname").strip() == "web"
    assert node.fetch(f"{address}:8080/hostname") == "web"
    assert node.outside("/bin/busybox", "ping", "-c", "1", "-W", "5", ADDRESS)


def test_it_boots_again_with_its_files(node: Node) -> None:
    """Power off takes network and memory, not files: kubelet makes the pod anew."""
    before = node.get("pod", "web")["status"]["containerStatuses"][0]["containerID"]
    node.reboot()
    node.ready()

    def again() -> bool:
        status = node.get("pod", "web")["status"]["containerStatuses"][0]
        return bool(status["ready"] and status["containerID"] != before)
    until(again, "the pod runs anew", PATIENCE)


def test_nothing_of_it_stays(node: Node) -> None:
    """The host has as many namespaces, links and control groups as before."""
    other = Node("other", report=lambda _: None)
    other.boot()
    groups = list(Path("/sys/fs/cgroup").glob(f"*/{other.label}"))
    assert groups
    other.remove()
    assert not any(path.exists() for path in groups)
    assert f"{other.label}-w" not in netns.names()
    assert not other.directory.exists()
