"""Random objects of Calico's, beside Kubernetes': few names, labels and ports, so that things meet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.unit.policy.cluster import calico, service_account
from tests.unit.policy.strategies import NAMESPACES, labels, policies, spaces

TIERS = ("a", "b", "default")
ORDERS = (1, 2, 1000, None)
ACTIONS = ("Allow", "Deny", "Pass", "Log")

_terms = st.one_of(
    st.builds("{} {} '{}'".format, st.sampled_from(["app", "tier"]), st.sampled_from(["==", "!=", "contains"]),
              st.sampled_from(["1", "2"])),
    st.builds("{} {} {{'1', '3'}}".format, st.sampled_from(["app", "tier"]), st.sampled_from(["in", "not in"])),
    st.sampled_from(["has(app)", "!has(tier)", "all()", "!all()"]),
)
selectors = st.one_of(_terms, st.builds("{} && !({})".format, _terms, _terms),
                      st.builds("{} || {}".format, _terms, _terms))

_sides: dict[str, st.SearchStrategy[Any]] = {
    "namespaceSelector": st.one_of(selectors, st.sampled_from(["global()", "projectcalico.org/name == 'x'"])),
    "serviceAccounts": st.fixed_dictionaries({}, optional={
        "names": st.lists(st.sampled_from(["default", "ci"]), max_size=2), "selector": selectors}),
    "nets": st.lists(st.sampled_from(["10.0.0.0/30", "0.0.0.0/0", "203.0.113.0/24"]), max_size=2),
    "notNets": st.lists(st.sampled_from(["10.0.0.2/31", "203.0.113.0/28"]), max_size=1),
}
_peers = st.one_of(
    st.fixed_dictionaries({}, optional={**_sides, "selector": selectors}),
    st.fixed_dictionaries({"selector": selectors, "notSelector": selectors}, optional=_sides),
)
_ports = st.fixed_dictionaries({}, optional={
    "ports": st.lists(st.sampled_from([80, "80:81", 443]), max_size=2),
    "notPorts": st.lists(st.sampled_from([81, "400:500"]), max_size=2)})


@st.composite
def rules(draw: st.DrawFn, way: str) -> dict[str, Any]:
    """A rule of ingress or of egress."""
    peer, ports = draw(_peers), draw(_ports)
    rule: dict[str, Any] = {"action": draw(st.sampled_from(ACTIONS))}
    if any(ports.values()) or draw(st.booleans()):
        rule["protocol"] = draw(st.sampled_from(["TCP", "UDP"]))
    if way == "ingress":
        return {**rule, "source": peer, "destination": ports}
    return {**rule, "destination": {**peer, **ports}}


@st.composite
def calico_policies(draw: st.DrawFn) -> dict[str, Any]:
    """A NetworkPolicy or a GlobalNetworkPolicy."""
    spec: dict[str, Any] = {"tier": draw(st.sampled_from(TIERS)), "selector": draw(selectors)}
    if (order := draw(st.sampled_from(ORDERS))) is not None:
        spec["order"] = order
    for way in ("ingress", "egress"):
        spec[way] = draw(st.lists(rules(way), max_size=3))
    if draw(st.booleans()):
        spec["types"] = draw(st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]]))
    if draw(st.booleans()):
        return calico("NetworkPolicy", draw(st.sampled_from("pq")), spec, draw(st.sampled_from(NAMESPACES)))
    if draw(st.booleans()):
        spec["namespaceSelector"] = draw(selectors)
    if draw(st.booleans()):
        spec["serviceAccountSelector"] = draw(selectors)
    return calico("GlobalNetworkPolicy", draw(st.sampled_from("pq")), spec)


@st.composite
def tiers(draw: st.DrawFn) -> dict[str, Any]:
    """A Tier; orders tie, some come after Kubernetes' policies, some have none."""
    spec: dict[str, Any] = {"defaultAction": draw(st.sampled_from(["Deny", "Pass"]))}
    if (order := draw(st.sampled_from([1, 2, 2_000_000, None]))) is not None:
        spec["order"] = order
    return calico("Tier", draw(st.sampled_from("ab")), spec)


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    """A Profile."""
    spec: dict[str, Any] = {way: draw(st.lists(rules(way), max_size=2)) for way in ("ingress", "egress")}
    return calico("Profile", "net", {**spec, "labelsToApply": draw(labels)})


accounts = st.builds(service_account, st.sampled_from(NAMESPACES), st.sampled_from(["default", "ci"]), labels)

objects = st.one_of(policies(), spaces(), calico_policies(), tiers(), profiles(), accounts)
"""An object of any kind."""
