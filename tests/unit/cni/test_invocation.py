"""Understanding a call."""

from __future__ import annotations

import json

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.cni import names
from muslin.cni.context import Context
from muslin.cni.invocation import Invocation
from muslin.errors import Corrupt, InvalidArgument

CONF = json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "calico", "policy": {"type": "k8s"}}).encode()
POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"


def call(**changes: object) -> cni_pb2.Call:
    fields = {"container_id": "c1", "netns": "/ns", "ifname": "eth0", "args": POD, "config": CONF} | changes
    return cni_pb2.Call(**fields)  # type: ignore[arg-type]  # built from a table


def test_a_pod_is_known_by_its_arguments() -> None:
    seen = Invocation.parse(call(), "n1")
    assert (seen.kubernetes, seen.namespace, seen.pod) == (True, "shop", "web-0")
    assert (seen.orchestrator, seen.workload, seen.node) == ("k8s", "shop.web-0", "n1")


def test_without_them_the_container_is_the_workload() -> None:
    seen = Invocation.parse(call(args=""), "n1")
    assert (seen.kubernetes, seen.namespace, seen.orchestrator, seen.workload) == (False, "", "cni", "c1")


@pytest.mark.parametrize(("changes", "named"), [
    ({"container_id": ""}, "CNI_CONTAINERID"),
    ({"container_id": "../x"}, "CNI_CONTAINERID"),
    ({"ifname": ""}, "CNI_IFNAME"),
    ({"ifname": "a/b"}, "CNI_IFNAME"),
    ({"ifname": "sixteen-bytes-xx"}, "CNI_IFNAME"),
    ({"args": "K8S_POD_NAME"}, "CNI_ARGS"),
    ({"args": "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=x"}, "K8S_POD_NAMESPACE"),
])
def test_a_wrong_value_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Invocation.parse(call(**changes), "n1")
    assert named in raised.value.message


def test_a_damaged_context_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        Invocation.parse(call(context=b"{"), "n1")


def test_the_answer_hands_result_and_context_on() -> None:
    seen = Invocation.parse(call(), "n1")
    answer = seen.response(seen.result, Context(profiles=("k8s_ns.shop",), mac="02:00:00:00:00:01"))
    again = Invocation.parse(call(result=answer.result, context=answer.context), "n1")
    assert again.context == Context(profiles=("k8s_ns.shop",), mac="02:00:00:00:00:01")


def test_host_interface_names_are_calicos() -> None:
    """The prefix and the first 11 digits that `printf default.nginx | sha1sum` prints."""
    assert names.host_interface("cali", "default.nginx") == "calic440f455693"
    assert names.host_interface("cali", "default.nginx", "net1") != names.host_interface("cali", "default.nginx")
    assert len(names.host_interface("cali", "default.nginx")) == 15


@pytest.mark.parametrize(("changes", "prefix"), [
    ({"type": "calico"}, "cali"), ({"type": "muslin"}, "mus"),
    ({"type": "calico", "muslin": {"interface_prefix": "pod"}}, "pod")])
def test_the_prefix_is_the_configurations_own_or_follows_from_the_type(changes: dict[str, object], prefix: str) -> None:
    config = json.dumps({"cniVersion": "1.0.0", "name": "net", **changes}).encode()
    seen = Invocation.parse(call(config=config), "n1")
    assert seen.host_interface == names.host_interface(prefix, seen.workload, seen.ifname)


def test_mac_addresses_are_stable_unicast_and_local() -> None:
    one = cni_pb2.Attachment(network="n", container_id="a", ifname="eth0")
    two = cni_pb2.Attachment(network="n", container_id="b", ifname="eth0")
    assert names.mac_address(one) == names.mac_address(one) != names.mac_address(two)
    assert int(names.mac_address(one)[:2], 16) & 3 == 2
