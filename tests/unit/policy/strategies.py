"""Random small clusters: few labels, few ports, few addresses, so that things meet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from services.policy.model import NamedPort
from tests.unit.policy.cluster import Pod, namespace, network_policy

NAMESPACES = ("x", "y", "z")
PODS = tuple((space, name) for space in NAMESPACES for name in "ab")
PORTS = (80, 81, 443)
PROTOCOLS = ("TCP", "UDP", "SCTP")
OUTSIDE = ("10.0.0.200", "203.0.113.9")
"""Addresses that no pod has."""

labels = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["1", "2"]), max_size=2)

_expressions = st.one_of(
    st.fixed_dictionaries({"key": st.sampled_from(["app", "tier"]), "operator": st.sampled_from(["In", "NotIn"]),
                           "values": st.lists(st.sampled_from(["1", "2", "3"]), min_size=1, max_size=2)}),
    st.fixed_dictionaries({"key": st.sampled_from(["app", "tier"]),
                           "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
)
selectors = st.fixed_dictionaries(
    {}, optional={"matchLabels": labels, "matchExpressions": st.lists(_expressions, max_size=2)})

_blocks = st.sampled_from([
    {"cidr": "10.0.0.0/24"}, {"cidr": "0.0.0.0/0"}, {"cidr": "10.0.0.2/31"}, {"cidr": "203.0.113.0/24"},
    {"cidr": "10.0.0.0/24", "except": ["10.0.0.0/30"]},
    {"cidr": "0.0.0.0/0", "except": ["10.0.0.4/32", "203.0.113.0/28"]},
])
_peers = st.one_of(
    st.fixed_dictionaries({"podSelector": selectors}),
    st.fixed_dictionaries({"namespaceSelector": selectors}),
    st.fixed_dictionaries({"podSelector": selectors, "namespaceSelector": selectors}),
    st.fixed_dictionaries({"ipBlock": _blocks}),
)
_protocol = {"protocol": st.sampled_from(PROTOCOLS)}
_ports = st.one_of(
    st.fixed_dictionaries({}, optional=_protocol),
    st.fixed_dictionaries({"port": st.sampled_from([*PORTS, "web", "dns"])}, optional=_protocol),
    st.just({"port": 80, "endPort": 81}),
)


def _rules(peers: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    rule = st.fixed_dictionaries({}, optional={peers: st.lists(_peers, max_size=2),
                                               "ports": st.lists(_ports, max_size=2)})
    return st.lists(rule, max_size=2)


specs = st.fixed_dictionaries({"podSelector": selectors}, optional={
    "ingress": _rules("from"), "egress": _rules("to"),
    "policyTypes": st.lists(st.sampled_from(["Ingress", "Egress"]), max_size=2, unique=True)})

_named_ports = st.lists(st.sampled_from([
    NamedPort("web", 6, 80), NamedPort("web", 6, 81), NamedPort("web", 17, 80), NamedPort("dns", 17, 443),
]), max_size=2, unique=True).map(tuple)


@st.composite
def pods(draw: st.DrawFn, where: tuple[str, str]) -> Pod:
    """The pod of a name, with its fixed address."""
    address = f"10.0.0.{1 + PODS.index(where)}"
    return Pod(*where, address, draw(labels), draw(_named_ports), node=draw(st.sampled_from(["n1", "n2"])))


def policies(names: str = "pq") -> st.SearchStrategy[dict[str, Any]]:
    """A NetworkPolicy of some namespace."""
    return st.builds(network_policy, st.sampled_from(NAMESPACES), st.sampled_from(names), specs)


def spaces() -> st.SearchStrategy[dict[str, Any]]:
    """A Namespace."""
    return st.builds(namespace, st.sampled_from(NAMESPACES), labels)


def clusters() -> st.SearchStrategy[tuple[list[Pod], list[dict[str, Any]], list[dict[str, Any]]]]:
    """Pods, Namespaces and NetworkPolicies; all pods and namespaces are there."""
    return st.tuples(
        st.tuples(*map(pods, PODS)).map(list),
        st.tuples(*(st.builds(namespace, st.just(name), labels) for name in NAMESPACES)).map(list),
        st.lists(policies(), max_size=4, unique_by=lambda p: (p["metadata"]["namespace"], p["metadata"]["name"])))
