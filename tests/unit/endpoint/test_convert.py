"""What is applied is checked field by field, and comes back as it was sent."""

from __future__ import annotations

from typing import Any

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import InvalidArgument
from services.endpoint import convert


def port(**fields: Any) -> endpoint_pb2.NamedPort:
    whole: dict[str, Any] = {"name": "http", "protocol": "TCP", "port": 80}
    return endpoint_pb2.NamedPort(**(whole | fields))


def pod(**fields: Any) -> endpoint_pb2.Pod:
    return endpoint_pb2.Pod(**({"namespace": "prod", "name": "web"} | fields))


def test_a_pod_comes_back_as_it_was_sent() -> None:
    sent = pod(uid="u", labels={"a": "b"}, annotations={"c": "d"}, service_account="sa", ports=[port()])
    read, = convert.pods([sent])
    assert convert.pod_message(read) == sent


def test_defaults() -> None:
    read, = convert.pods([pod()])
    assert read.service_account == "default"


def test_of_a_pod_that_is_named_twice_the_last_counts() -> None:
    read, = convert.pods([pod(uid="first"), pod(uid="last")])
    assert read.uid == "last"


@pytest.mark.parametrize(("bad", "named"), [
    (pod(namespace=""), r"pods\[1\]\.namespace"),
    (pod(namespace="a/b"), r"pods\[1\]\.namespace"),
    (pod(name="Web"), r"pods\[1\]\.name"),
    (pod(name="x" * 254), r"pods\[1\]\.name"),
    (pod(ports=[port(), port(name="")]), r"pods\[1\]\.ports\[1\]\.name"),
    (pod(ports=[port(protocol="ICMP")]), r"pods\[1\]\.ports\[0\]\.protocol.*TCP, UDP, SCTP"),
    (pod(ports=[port(port=0)]), r"pods\[1\]\.ports\[0\]\.port must be 1 to 65535"),
    (pod(ports=[port(port=65536)]), r"pods\[1\]\.ports\[0\]\.port must be 1 to 65535"),
])
def test_bad_pods_name_the_field(bad: endpoint_pb2.Pod, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        convert.pods([pod(), bad])


def test_references_are_checked_too() -> None:
    ref = endpoint_pb2.PodRef(namespace="prod", name="web")
    assert convert.refs([ref, ref]) == [("prod", "web")]
    with pytest.raises(InvalidArgument, match=r"pods\[1\]\.name"):
        convert.refs([ref, endpoint_pb2.PodRef(namespace="prod")])


@pytest.mark.parametrize("field", ["network", "container_id", "ifname"])
def test_attachments_name_the_field(field: str) -> None:
    whole = {"network": "net", "container_id": "abc", "ifname": "eth0"}
    assert convert.identity(cni_pb2.Attachment(**whole)) == ("net", "abc", "eth0")
    with pytest.raises(InvalidArgument, match=f"attachment.{field}"):
        convert.identity(cni_pb2.Attachment(**(whole | {field: ""})))


def test_namespaces_and_nodes_come_back_as_they_were_sent() -> None:
    namespace = endpoint_pb2.Namespace(name="prod", labels={"a": "b"}, annotations={"c": "d"})
    node = endpoint_pb2.Node(name="worker-1.example", labels={"zone": "a"})
    one, = convert.namespaces([endpoint_pb2.Namespace(name="prod"), namespace])
    other, = convert.nodes([endpoint_pb2.Node(name=node.name), node])
    assert convert.told(one) == endpoint_pb2.InventoryChange(namespace=namespace)
    assert convert.told(other) == endpoint_pb2.InventoryChange(node=node)


def test_what_is_gone_is_told_by_its_name_only() -> None:
    record, = convert.pods([pod(labels={"a": "b"}, annotations={"c": "d"})])
    gone = convert.forgotten(record)
    assert gone == endpoint_pb2.InventoryChange(deleted=True, pod=endpoint_pb2.Pod(namespace="prod", name="web"))


def test_names_that_are_none_are_refused_with_their_place() -> None:
    for name in ("", "A", "a/b", "-", "a" * 254):
        with pytest.raises(InvalidArgument, match=r"^namespaces\[1\].name "):
            convert.namespaces([endpoint_pb2.Namespace(name="a"), endpoint_pb2.Namespace(name=name)])
        with pytest.raises(InvalidArgument, match=r"^nodes\[0\].name "):
            convert.nodes([endpoint_pb2.Node(name=name)])
        with pytest.raises(InvalidArgument, match=r"^names\[1\] "):
            convert.names(["a", name])
    assert convert.names(["b", "a", "b"]) == ["b", "a"]


def test_an_endpoint_comes_back_as_it_was_sent() -> None:
    """What a node sends of what was wired, after a record was lost; the label of the namespace is made here."""
    sent = endpoint_pb2.WorkloadEndpoint(
        attachment=cni_pb2.Attachment(network="net", container_id="c1", ifname="eth0"), node="n", orchestrator="k8s",
        workload="prod.web", namespace="prod", pod="web", pod_uid="u", service_account="sa",
        labels={"a": "b", "calico/k8s_ns": "prod"}, addresses=["10.0.0.1", "fd00::1"], profiles=["k8s_ns.prod"],
        host_interface="cali1", mac="0a:00:00:00:00:01", ports=[port()], netns="/run/netns/x", revision=7)
    assert convert.endpoint_message(convert.endpoint(sent, "e", ""), 7) == sent
    sent.ClearField("node")
    assert convert.endpoint(sent, "e", "caller").node == "caller"
    with pytest.raises(InvalidArgument, match="node is missing"):
        convert.endpoint(sent, "e", "")
