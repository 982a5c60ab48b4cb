"""What the record of an attachment says, and how it follows its pod."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.cni.v1 import cni_pb2
from muslin.cni.invocation import Invocation
from muslin.errors import InvalidArgument
from services.endpoint.records import NAMESPACE_LABEL, NamedPort, Pod, WorkloadEndpoint, build, follow

POD = Pod("prod", "web", "u1", {"app": "web"}, {}, "runner", (NamedPort("http", "TCP", 8080),))


def invocation(conf: dict[str, Any] | None = None, **fields: Any) -> Invocation:
    config = {"cniVersion": "1.1.0", "name": "net", "type": "calico"} | (conf or {})
    result = {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.7/32"}]}
    base = {"container_id": "abc", "ifname": "eth0", "netns": "/run/netns/x",
            "args": "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID=u1",
            "config": json.dumps(config).encode(), "result": json.dumps(result).encode(),
            "context": b'{"profiles": ["k8s_ns.prod"]}'}
    return Invocation.parse(cni_pb2.Call(**(base | fields)), "worker")


def test_the_record_of_a_pod() -> None:
    record = build(invocation(), POD)
    assert record == WorkloadEndpoint(
        network="net", container_id="abc", ifname="eth0", node="worker", orchestrator="k8s", workload="prod.web",
        namespace="prod", pod="web", pod_uid="u1", service_account="runner",
        labels={"app": "web", NAMESPACE_LABEL: "prod"}, addresses=("10.0.0.7",), profiles=("k8s_ns.prod",),
        host_interface=record.host_interface, mac=record.mac, ports=POD.ports, netns="/run/netns/x")
    assert record.host_interface == "cali" + hashlib.sha1(b"prod.web").hexdigest()[:11]


def test_the_interface_is_named_after_the_workload_and_what_the_plugin_is_called() -> None:
    """Two containers of one pod share the name, another interface of the pod does not."""
    name = build(invocation(), None).host_interface
    assert name == build(invocation(container_id="def"), None).host_interface
    assert name != build(invocation(ifname="net1"), None).host_interface
    assert build(invocation({"type": "muslin"}), None).host_interface == "mus" + name.removeprefix("cali")


def test_the_mac_address_is_the_attachment_s() -> None:
    assert build(invocation(), None).mac == build(invocation(), POD).mac
    assert build(invocation(), None).mac != build(invocation(container_id="def"), None).mac


def test_a_pod_that_is_not_known_has_only_the_label_of_its_namespace() -> None:
    record = build(invocation(), None)
    assert (record.labels, record.ports, record.service_account) == ({NAMESPACE_LABEL: "prod"}, (), "")


def test_outside_kubernetes_the_labels_are_the_configuration_s() -> None:
    labels = {"labels": {"labels": [{"key": "tier", "value": "db"}]}}
    record = build(invocation({"args": {"org.apache.mesos": {"network_info": labels}}}, args=""), None)
    assert (record.orchestrator, record.workload, record.namespace, record.pod) == ("cni", "abc", "", "")
    assert record.labels == {"tier": "db"}


def test_without_an_address_there_is_no_record() -> None:
    with pytest.raises(InvalidArgument, match="address"):
        build(invocation(result=b""), POD)


def test_a_pod_can_not_say_that_it_is_of_another_namespace() -> None:
    pod = msgspec.structs.replace(POD, labels={NAMESPACE_LABEL: "kube-system"})
    assert build(invocation(), pod).labels == {NAMESPACE_LABEL: "prod"}


def test_a_new_pod_of_the_same_name_does_not_change_the_old_one_s_endpoint() -> None:
    record = build(invocation(), POD)
    successor = msgspec.structs.replace(POD, uid="u2", labels={"app": "other"})
    assert follow(record, successor) == record
    assert build(invocation(), successor) == build(invocation(), None)


@pytest.mark.parametrize(("pod_uid", "args"), [("", "K8S_POD_UID=u1;"), ("u1", "")])
def test_a_pod_without_a_uid_on_either_side_is_the_one_of_that_name(pod_uid: str, args: str) -> None:
    call = invocation(args=f"{args}K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web")
    assert build(call, msgspec.structs.replace(POD, uid=pod_uid)).labels["app"] == "web"


@given(labels=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4),
       account=st.text(min_size=1, max_size=5), port=st.integers(1, 65535))
def test_following_changes_what_comes_from_the_pod_and_nothing_else(labels: dict[str, str], account: str,
                                                                    port: int) -> None:
    before = build(invocation(), POD)
    pod = Pod("prod", "web", "u1", labels, {}, account, (NamedPort("p", "UDP", port),))
    after = follow(before, pod)
    assert (after.labels, after.service_account, after.ports) == (
        {**labels, NAMESPACE_LABEL: "prod"}, account, pod.ports)
    assert msgspec.structs.replace(after, labels=before.labels, service_account=before.service_account,
                                   ports=before.ports) == before
    assert follow(after, pod) == after, "doing it again changes nothing"
