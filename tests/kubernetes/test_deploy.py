"""`kubectl apply -k deploy/overlays/single` on a node that has nothing yet, and `kubectl delete -k` of it again.

The images are those of MUSLIN_IMAGES, an archive as of `docker save`, or are built, which needs Docker.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes import images
from tests.kubernetes.deployed import NAMESPACE, ROOT, Cluster, left
from tests.kubernetes.machine import ADDRESS, until
from tests.kubernetes.node import PATIENCE, Node

CONFIGURATION = "/etc/cni/net.d/10-muslin.conflist"


@pytest.fixture(scope="module")
def before() -> dict[str, list[str]]:
    """What there was before the first test."""
    return {}


@pytest.fixture(scope="module")
def cluster(node: Node, archive: Path) -> Cluster:
    """Images there, and Debian's portmap, as Kubernetes' own packages bring one."""
    node.import_image(archive)
    shutil.copy2("/usr/lib/cni/portmap", node.path("/opt/cni/bin"))
    return Cluster(node)


def test_one_command_gives_a_network(cluster: Cluster, node: Node, before: dict[str, list[str]]) -> None:
    """From a node without any to one that is Ready, and everything of ours with it."""
    before.update(node.listing())
    began = time.monotonic()
    cluster.kustomize("apply")
    node.ready()
    cluster.rolled_out()
    node.report(f"apply -k to a node that is Ready with everything rolled out: {time.monotonic() - began:.0f} s")
    configuration = json.loads(node.path(CONFIGURATION).read_text())
    assert [each["type"] for each in configuration["plugins"]] == ["muslin", "portmap"]
    for pod in node.get("-n", NAMESPACE, "pods")["items"]:
        restarts = [each["restartCount"] for each in pod["status"]["containerStatuses"]]
        assert not any(restarts), f"{pod['metadata']['name']}: {restarts}"


def test_nobody_runs_with_more_rights_than_is_said(cluster: Cluster, node: Node) -> None:
    """As the kernel sees the processes: capabilities, no new privileges, users."""
    net_admin, net_raw, sys_admin, dac_override = 1 << 12, 1 << 13, 1 << 21, 1 << 1
    expected = {"muslin-node/node": (0, net_admin | net_raw | sys_admin),
                "muslin-node/agent": (0, net_admin | dac_override)}
    for pod in node.get("-n", NAMESPACE, "pods")["items"]:
        name = pod["metadata"]["labels"]["app.kubernetes.io/name"]
        for container in pod["spec"]["containers"]:
            if name == "muslin-etcd":
                continue  # there may be no shell in its image
            said = node.kubectl("-n", NAMESPACE, "exec", pod["metadata"]["name"], "-c", container["name"], "--",
                                "sh", "-c", "cat /proc/1/status; touch /x || true")
            status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
            user, bounding = int(status["Uid"].split()[0]), int(status["CapBnd"], 16)
            assert (user, bounding) == expected.get(f"{name}/{container['name']}", (65532, 0)), name
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), name


def test_pods_have_addresses_policy_and_host_ports(cluster: Cluster, node: Node) -> None:
    """Of the pool; who may not, does not get through, and who may, does."""
    def pod(name: str, **more: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": images.AGNHOST, "args": ["netexec"], **more}]}}

    node.apply(pod("web", ports=[{"containerPort": 8080, "hostPort": 8099}]), pod("friend"), pod("other"))
    cluster.running("web", "friend", "other")
    address = cluster.address("web")
    assert address.startswith("192.168.")
    assert cluster.connect("friend", address) == cluster.connect("other", address) == "OK"
    said = node.outside("/bin/busybox", "nc", "-w", "5", ADDRESS, "8099", text="GET /hostname HTTP/1.0\r\n\r\n")
    assert said.endswith("\nweb"), "by the host's port"
    node.apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "web"}, "spec": {
        "podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]}})
    until(lambda: cluster.connect("other", address) == "TIMEOUT", "the policy is in force", 30)
    assert cluster.connect("friend", address) == "OK"


def test_an_upgrade_touches_no_traffic(cluster: Cluster, node: Node) -> None:
    """Everything is replaced, one after the other, while a pod pings another: nothing is lost, and pods can be made."""
    began = time.monotonic()
    with cluster.traffic("friend", cluster.address("web")) as counts:
        cluster.replaced()
        assert node.path(CONFIGURATION).exists()
    took = time.monotonic() - began
    node.report(f"everything replaced in {took:.0f} s: of {counts[0]} packets {counts[1]} came back")
    assert counts[0] > 50
    assert counts[1] == counts[0]
    assert cluster.connect("other", cluster.address("web")) == "TIMEOUT"
    node.kubectl("run", "later", f"--image={images.AGNHOST}", "--restart=Never", "--", "netexec")
    cluster.running("later")
    assert cluster.connect("later", cluster.address("other")) == "OK"


def test_a_pod_that_is_deleted_by_force_removes_nothing(cluster: Cluster, node: Node) -> None:
    """Its token is void at once, as when everything is removed: what is not known removes nothing."""
    (pod,) = node.get("-n", NAMESPACE, "pods", "-l", "app.kubernetes.io/name=muslin-node")["items"]
    with cluster.traffic("friend", cluster.address("web")) as counts:
        node.kubectl("-n", NAMESPACE, "delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")
        cluster.rolled_out()
        assert node.path(CONFIGURATION).exists()
    assert counts[1] == counts[0]
    assert cluster.connect("other", cluster.address("web")) == "TIMEOUT"


def test_a_daemon_that_is_killed_needs_no_api_server(cluster: Cluster, node: Node) -> None:
    """Its certificate is on the node."""
    assert node.run("sh", "-c", "ls /var/lib/muslin/pki").split() == ["ca.crt", "tls.crt", "tls.key"]
    node.stop("kube-apiserver", signal.SIGKILL)  # asked to, it would wait for those who watch
    try:
        node.run("pkill", "--full", "services[.]node")
        until(lambda: "OK" if _status(node) == 0 else "", lambda: "the plugin can serve again", PATIENCE)
    finally:
        node.begin("kube-apiserver")
    cluster.rolled_out()
    assert cluster.connect("friend", cluster.address("web")) == "OK"


def _status(node: Node) -> int:
    script = ROOT / "docker/status.sh"
    return subprocess.run(node.entering("sh", str(script)), capture_output=True, check=False, timeout=60).returncode


def test_one_command_takes_all_of_it_away(cluster: Cluster, node: Node, before: dict[str, list[str]]) -> None:
    """The host is as it was, but for what its runtime and portmap leave with any network."""
    node.kubectl("delete", "pods", "--all", "--wait", "--timeout=120s")
    node.kubectl("delete", "networkpolicy", "--all")
    began = time.monotonic()
    cluster.kustomize("delete")
    node.report(f"delete -k: {time.monotonic() - began:.0f} s")

    until(lambda: not left(node, before), lambda: f"nothing is left: {json.dumps(left(node, before), indent=1)}", 60)
    assert not node.is_ready()


def test_it_can_be_installed_again(cluster: Cluster, node: Node) -> None:
    """Nothing that was left hinders it."""
    cluster.kustomize("apply")
    node.ready()
    cluster.rolled_out()
    node.kubectl("run", "again", f"--image={images.AGNHOST}", "--restart=Never", "--", "netexec")
    cluster.running("again")
