"""Pods and policies on a node whose network has the configuration that Calico's users have, to the letter."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.kubernetes.leaks import none
from tests.kubernetes.machine import until
from tests.kubernetes.muslin import CALICO, Muslin
from tests.kubernetes.node import PATIENCE
from tests.kubernetes.pods import PORT, UDP_PORT, Space, address_of, container, manifest, policy, template

PLACE = "/etc/cni/net.d/10-calico.conf"


def test_the_configuration_is_calicos(muslin: Muslin) -> None:
    """The file that kubelet's runtime reads is the one that was written for Calico, and nothing else is there."""
    assert muslin.node.path(PLACE).read_bytes() == CALICO.read_bytes()
    assert muslin.node.run("ls", str(Path(PLACE).parent)).split() == [Path(PLACE).name]
    assert json.loads(CALICO.read_bytes()) == {
        "name": "calico-k8s-network", "type": "calico", "etcd_authority": "127.0.0.1:2379", "log_level": "info",
        "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
        "kubernetes": {"kubeconfig": "/etc/kubernetes/kubelet.conf"}}


def test_a_pod(muslin: Muslin, space: Space) -> None:
    """The address in its status is the one that we gave; record, profile and labels are the pod's; it is reached."""
    address, other = space.run("web", "other")
    found = {each["pod"]: each for each in muslin.asked("endpoint", "list")["endpoints"]}
    assert found["web"]["addresses"] == [address]
    assert found["web"]["profiles"] == [f"k8s_ns.{space.name}"]
    assert found["web"]["labels"] == {"app": "web", "calico/k8s_ns": space.name}
    assert found["web"]["host_interface"].startswith("cali")
    assert space.connect("other", address) == "OK"
    assert space.fetch("other", address, "hostname", UDP_PORT, "udp") == "web"
    assert space.fetch("web", other, "clientip").startswith(f"{address}:")


def test_a_container_restarted(muslin: Muslin, space: Space) -> None:
    """Kubelet restarts a container in its sandbox: the network is not asked, and the address stays."""
    address, _ = space.run("web", "other")
    space.node.fetch(f"{address}:{PORT}/exit?code=1")
    until(lambda: space.pod("web")["status"]["containerStatuses"][0]["restartCount"] == 1, "it is restarted", PATIENCE)
    assert space.ready("web") == [address]
    assert space.connect("other", address) == "OK"


def test_a_sandbox_killed(muslin: Muslin, space: Space) -> None:
    """Kubelet makes a new sandbox for a pod whose old one died: ADD of the new one, DEL of the old, and one address."""
    space.run("web", "other")
    before = next(each for each in muslin.asked("endpoint", "list")["endpoints"] if each["pod"] == "web")
    kill_sandbox(muslin, "web")
    until(lambda: sandbox(muslin, "web") != before["attachment"]["container_id"], "there is a new sandbox", PATIENCE)
    none(muslin)
    [address] = space.ready("web")
    assert space.connect("other", address) == "OK"


def test_labels_of_a_running_pod(space: Space) -> None:
    """Who may reach it follows its labels, and those of who asks, while both run."""
    address, _ = space.run("web", "other")
    space.apply(policy("friends", {"app": "web"}, ingress=[
        {"from": [{"podSelector": {"matchLabels": {"friend": "yes"}}}]}]))
    space.comes_to("TIMEOUT", "other", address)
    space.kubectl("label", "pod", "other", "friend=yes")
    space.comes_to("OK", "other", address)
    space.kubectl("label", "pod", "other", "friend-")
    space.comes_to("TIMEOUT", "other", address)
    space.kubectl("label", "pod", "web", "app=moved", "--overwrite")
    space.comes_to("OK", "other", address)


def test_policies_applied_updated_deleted(space: Space) -> None:
    """Ingress, egress, ports and named ports; each change is in force soon, and with the last policy all is open."""
    named = manifest("web", containers=[container(ports=[{"name": "http", "containerPort": PORT}])])
    space.apply(named, manifest("other"))
    address, _ = space.ready("web", "other")
    space.apply(policy("deny", policyTypes=["Ingress"]))
    space.comes_to("TIMEOUT", "other", address)
    space.apply(policy("deny", policyTypes=["Ingress"], ingress=[{"ports": [{"port": "http"}]}]))
    space.comes_to("OK", "other", address)
    space.apply(policy("deny", policyTypes=["Ingress"], ingress=[{"ports": [{"port": PORT + 1}]}]))
    space.comes_to("TIMEOUT", "other", address)
    space.kubectl("delete", "networkpolicy", "deny")
    space.comes_to("OK", "other", address)
    space.apply(policy("out", {"app": "other"}, policyTypes=["Egress"]))
    space.comes_to("TIMEOUT", "other", address)
    space.apply(policy("out", {"app": "other"}, policyTypes=["Egress"],
                       egress=[{"to": [{"ipBlock": {"cidr": f"{address}/32"}}]}]))
    space.comes_to("OK", "other", address)
    assert space.connect("web", address_of(space.pod("other"))) == "OK"


def test_policies_of_a_namespaces_labels(muslin: Muslin, space: Space) -> None:
    """Another namespace's pods are let in by its labels, and shut out when these change."""
    [address] = space.run("web")
    elsewhere = Space(space.node, f"{space.name}-2")
    elsewhere.make()
    elsewhere.run("other")
    space.apply(policy("team", ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]}]))
    elsewhere.comes_to("TIMEOUT", "other", address)
    space.node.kubectl("label", "namespace", elsewhere.name, "team=a")
    elsewhere.comes_to("OK", "other", address)
    space.node.kubectl("label", "namespace", elsewhere.name, "team=b", "--overwrite")
    elsewhere.comes_to("TIMEOUT", "other", address)
    elsewhere.empty()


def test_probes_under_default_deny(space: Space) -> None:
    """Kubelet's probes pass where nobody else does, so that the pod becomes and stays Ready."""
    space.apply(policy("deny", policyTypes=["Ingress", "Egress"]))
    probes = {"readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
              "livenessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1, "failureThreshold": 1},
              "startupProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1}}
    space.apply(manifest("web", containers=[container(**probes)]), manifest("other"))
    address, _ = space.ready("web", "other")
    assert space.connect("other", address) == "TIMEOUT"
    space.comes_to("TIMEOUT", "other", address)
    status = space.pod("web")["status"]["containerStatuses"][0]
    assert status["ready"]
    assert status["restartCount"] == 0


def test_a_statefulsets_pod_comes_back(muslin: Muslin, space: Space) -> None:
    """A pod of the same name follows at once: the late DEL of the old sandbox leaves the new one's network alone."""
    space.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
        "serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
        "template": template({"app": "db"})}})
    space.run("other")
    until(lambda: space.pod("db-0"), "there is a pod", PATIENCE)
    space.ready("db-0")
    for _ in range(3):
        before = space.pod("db-0")["metadata"]["uid"]
        space.kubectl("delete", "pod", "db-0", "--wait=false", "--grace-period=0", "--force")
        until(lambda: space.pod("db-0").get("metadata", {}).get("uid", before) != before, "there is another", PATIENCE)  # noqa: B023
        [address] = space.ready("db-0")
        space.comes_to("OK", "other", address)
    none(muslin)


def test_jobs_that_are_done_hold_nothing(muslin: Muslin, space: Space) -> None:
    """The pods of a finished Job stay in the API server; their addresses do not stay with them."""
    spec = template({"app": "job"}, restartPolicy="Never", containers=[
        {"name": "c", "image": container()["image"], "command": ["/bin/true"]}])
    space.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": {
        "completions": 5, "parallelism": 5, "template": spec}})
    until(lambda: space.node.get("--namespace", space.name, "job", "once")["status"].get("succeeded") == 5,
          "the job is done", PATIENCE)
    assert len(space.pods()) == 5
    none(muslin)
    assert all(each["namespace"] != space.name for each in muslin.asked("ipam", "show", "--handles")["handles"])


def test_a_namespace_deleted_with_all_in_it(muslin: Muslin, space: Space) -> None:
    """Pods, policies and the namespace go in whatever order the controller has it; nothing stays of them."""
    space.run("a", "b", "c")
    space.apply(policy("deny", policyTypes=["Ingress"]))
    space.node.kubectl("delete", "namespace", space.name)
    none(muslin)
    assert space.name not in muslin("policy", "status")
    space.make()


def sandbox(muslin: Muslin, pod: str) -> str:
    """The container id of a pod's attachment, "" while there is not exactly one."""
    found = [each["attachment"]["container_id"] for each in muslin.asked("endpoint", "list")["endpoints"]
             if each["pod"] == pod]
    return str(found[0]) if len(found) == 1 else ""


def kill_sandbox(muslin: Muslin, pod: str) -> None:
    """Kill what holds a pod's namespaces."""
    muslin.node.run("ctr", "--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io", "task", "kill",
                    "--signal", str(int(signal.SIGKILL)), sandbox(muslin, pod))
