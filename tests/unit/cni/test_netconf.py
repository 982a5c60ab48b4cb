"""Reading the network configuration."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.cni import netconf
from muslin.cni.netconf import Ipam
from muslin.errors import Corrupt, InvalidArgument, MuslinError

ARTICLE = {
    "name": "calico-k8s-network", "type": "calico", "etcd_authority": "127.0.0.1:2379", "log_level": "info",
    "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
    "kubernetes": {"kubeconfig": "/etc/kubernetes/kubelet.conf"},
}


def conf(**changes: Any) -> bytes:
    return json.dumps(ARTICLE | changes).encode()


def test_the_articles_configuration_works_verbatim() -> None:
    parsed = netconf.parse(conf())
    assert (parsed.cni_version, parsed.name, parsed.type) == ("0.1.0", "calico-k8s-network", "calico")
    assert (parsed.ipam.type, parsed.policy_type, parsed.log_level) == ("calico-ipam", "k8s", "info")


@pytest.mark.parametrize("raw", [b"garbage", b"", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"name":'])
def test_what_is_not_a_json_object_is_corrupt(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        netconf.parse(raw)


@pytest.mark.parametrize(("change", "named"), [
    ({"cniVersion": "9.9.9"}, "cniVersion"),
    ({"cniVersion": 1}, "cniVersion"),
    ({"name": None}, "name"),
    ({"name": "a/b"}, "name"),
    ({"name": 7}, "name"),
    ({"type": ""}, "type"),
    ({"mtu": "1500"}, "mtu"),
    ({"muslin": {"interface_prefix": 1}}, "muslin.interface_prefix"),
    ({"muslin": {"interface_prefix": "toolong"}}, "muslin.interface_prefix"),
    ({"muslin": {"interface_prefix": "a/b"}}, "muslin.interface_prefix"),
    ({"mtu": True}, "mtu"),
    ({"mtu": -1}, "mtu"),
    ({"ipam": []}, "ipam"),
    ({"ipam": {"type": 1}}, "ipam.type"),
    ({"ipam": {"assign_ipv4": "yes"}}, "ipam.assign_ipv4"),
    ({"ipam": {"assign_ipv6": 1}}, "ipam.assign_ipv6"),
    ({"ipam": {"ipv4_pools": "10.0.0.0/8"}}, "ipam.ipv4_pools"),
    ({"ipam": {"ipv6_pools": ["a", 7]}}, "ipam.ipv6_pools[1]"),
    ({"runtimeConfig": []}, "runtimeConfig"),
    ({"runtimeConfig": {"ips": "10.0.0.1"}}, "runtimeConfig.ips"),
    ({"runtimeConfig": {"ips": [None]}}, "runtimeConfig.ips[0]"),
    ({"policy": {"type": "cilium"}}, "policy.type"),
    ({"policy": "k8s"}, "policy"),
    ({"kubernetes": {"node_name": 3}}, "kubernetes.node_name"),
    ({"nodename": "a b"}, "nodename"),
    ({"prevResult": 3}, "prevResult"),
    ({"args": {"org.apache.mesos": {"network_info": {"labels": {"labels": {}}}}}}, "labels"),
    ({"args": {"org.apache.mesos": {"network_info": {"labels": {"labels": [{"key": 1}]}}}}}, "labels[0].key"),
    ({"muslin": "x"}, "muslin"),
])
def test_a_wrong_field_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        netconf.parse(conf(**change))
    assert named in raised.value.message


def test_the_node_is_named_by_nodename_then_hostname_then_kubernetes() -> None:
    kubernetes = {"node_name": "c"}
    assert netconf.parse(conf(nodename="a", hostname="b", kubernetes=kubernetes)).nodename == "a"
    assert netconf.parse(conf(hostname="b", kubernetes=kubernetes)).nodename == "b"
    assert netconf.parse(conf(kubernetes=kubernetes)).nodename == "c"
    assert netconf.parse(conf()).nodename == ""


@pytest.mark.parametrize(("written", "read"), [
    ({}, Ipam()), (None, Ipam()),
    ({"assign_ipv4": "false", "assign_ipv6": "true"}, Ipam(assign_ipv4=False, assign_ipv6=True)),
    ({"assign_ipv4": "True", "assign_ipv6": True}, Ipam(assign_ipv6=True)),
    ({"assign_ipv4": False}, Ipam(assign_ipv4=False)),
    ({"ipv4_pools": ["10.0.0.0/8", "default"], "ipv6_pools": []}, Ipam(ipv4_pools=("10.0.0.0/8", "default"))),
    ({"ipv4_pools": None, "assign_ipv4": None, "subnet": "usePodCidr"}, Ipam()),
])
def test_the_ipam_section(written: Any, read: Ipam) -> None:
    """Strings as Calico writes them, or booleans; IPv4 alone unless something else is said."""
    assert netconf.parse(conf(ipam=written)).ipam == read


def test_addresses_that_the_runtime_asks_for() -> None:
    asked = netconf.parse(conf(runtimeConfig={"ips": ["10.0.0.1/24", "fd00::1"]}))
    assert asked.runtime_ips == ("10.0.0.1/24", "fd00::1")
    assert netconf.parse(conf(runtimeConfig={"portMappings": [{}]})).runtime_ips == ()


def test_mesos_labels_become_labels() -> None:
    labels = [{"key": "role", "value": "db"}, {"key": "tier", "value": "back"}]
    raw = conf(args={"org.apache.mesos": {"network_info": {"labels": {"labels": labels}}}})
    assert netconf.parse(raw).labels == {"role": "db", "tier": "back"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)


@given(st.dictionaries(st.sampled_from([*ARTICLE, "cniVersion", "mtu", "prevResult", "args", "muslin"]), json_values))
def test_any_json_gives_a_configuration_or_a_named_error(changes: dict[str, Any]) -> None:
    """No shape of input escapes as another kind of exception."""
    with contextlib.suppress(MuslinError):
        netconf.parse(conf(**changes))
