"""Objects as an API server sends them, decoded as far as they are needed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from muslin.errors import Corrupt
from muslin.kube import kinds
from muslin.kube.client import _Lines
from muslin.kube.decode import Decoder


def pod(**fields: Any) -> kinds.Pod:
    return Decoder(kinds.PODS).one(json.dumps({"metadata": {"name": "web", "namespace": "shop"}, **fields}).encode())


def test_of_a_pod_what_counts() -> None:
    found = pod(spec={
        "serviceAccountName": "robot",
        "containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]}, {}],
        "initContainers": [
            {"restartPolicy": "Always", "ports": [{"containerPort": 5, "name": "side", "protocol": "UDP"}]},
            {"ports": [{"containerPort": 6, "name": "init"}]}]})
    assert found.ports == [("http", "TCP", 80), ("side", "UDP", 5)]
    assert (found.service_account, found.host_network, found.finished) == ("robot", False, False)


def test_null_is_absent() -> None:
    found = pod(metadata={"name": "web", "labels": None, "annotations": None, "uid": None, "namespace": None},
                spec={"containers": None, "initContainers": None, "hostNetwork": None, "serviceAccountName": None},
                status={"phase": None})
    assert (found.name, found.labels, found.annotations, found.uid, found.ports, found.service_account) == (
        ("", "web"), {}, {}, "", [], "default")
    assert pod(spec=None, status=None).ports == []


@pytest.mark.parametrize(("phase", "finished"), [
    ("Pending", False), ("Running", False), ("Unknown", False), ("Succeeded", True), ("Failed", True)])
def test_phases(phase: str, finished: bool) -> None:
    assert pod(status={"phase": phase}).finished is finished


def test_a_pod_of_the_kubelets_own_has_the_uid_that_the_kubelet_uses() -> None:
    """The runtime is told that of the file's pod; the object in the API, which stands for it, has another."""
    notes = {"kubernetes.io/config.mirror": "abc", "kubernetes.io/config.hash": "abc"}
    assert pod(metadata={"name": "etcd", "uid": "u", "annotations": notes}).uid == "abc"
    assert pod(metadata={"name": "etcd", "uid": "u", "annotations": {"kubernetes.io/config.hash": "abc"}}).uid == "u"


def test_ranges_of_a_node() -> None:
    def ranges(spec: Any) -> tuple[str, ...]:
        body = json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec}).encode()
        return Decoder(kinds.NODES).one(body).pod_cidrs

    assert ranges({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]}) == ("10.0.0.0/24", "fd00::/64")
    assert ranges({"podCIDR": "10.0.0.0/24"}) == ("10.0.0.0/24",)
    assert ranges({}) == ranges(None) == ()


@pytest.mark.parametrize("body", [
    b"", b"[]", b"{}", b'{"metadata":{}}', b'{"metadata":{"name":1}}', b'{"metadata":{"name":"a"},"apiVersion":"v2"}',
    b'{"metadata":{"name":"a"},"apiVersion":"v1","kind":"Node"}', b'{"metadata":{"name":"a","labels":{"a":1}}}',
    b'{"metadata":{"name":"a"},"spec":{"containers":[{"ports":[{}]}]}}', b"\xff", b"[" * 100_000])
def test_what_is_no_pod_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt, match=r"pods of v1|Pod of v1"):
        Decoder(kinds.PODS).one(body)


@pytest.mark.parametrize("body", [
    b"", b"null", b'{"items":[]}', b'{"metadata":{},"items":[]}', b'{"metadata":{"resourceVersion":"1"},"items":{}}',
    b'{"apiVersion":"v9","kind":"PodList","metadata":{"resourceVersion":"1"},"items":[]}',
    b'{"metadata":{"resourceVersion":"1"},"items":[{"metadata":{}}]}', b"<html>"])
def test_what_is_no_list_is_corrupt(body: bytes) -> None:
    """An object without a name, too: nobody could say what of the state before it stands for."""
    with pytest.raises(Corrupt, match="pods of v1"):
        Decoder(kinds.PODS).page(body)


def test_paths() -> None:
    assert kinds.PODS.path() == "/api/v1/pods"
    assert kinds.PODS.path(("shop", "web")) == "/api/v1/namespaces/shop/pods/web"
    assert kinds.NODES.path(("", "n")) == "/api/v1/nodes/n"
    assert kinds.NETWORK_POLICIES.path() == "/apis/networking.k8s.io/v1/networkpolicies"


def test_lines_are_whole_wherever_the_network_cuts() -> None:
    whole = b'{"a":1}\n\n{"b":2}\r\n{"c":3}\n{"rest'
    for size in range(1, len(whole) + 1):
        lines, found = _Lines(), []
        for start in range(0, len(whole), size):
            found += lines.take(whole[start:start + size])
        assert [line.strip() for line in found] == [b'{"a":1}', b'{"b":2}', b'{"c":3}'], size
