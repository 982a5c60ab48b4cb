"""Calico's objects: what they mean, and what is refused, clause by clause."""

from __future__ import annotations

import re
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.fields import FieldError
from services.policy.model import DEFAULT_TIER, Action, Direction, Policy, PortRange, Profile, Tier
from services.policy.port_ranges import LAST, merged_ranges, without
from services.policy.translate import Translation, translate
from tests.unit.policy.cluster import Cluster, Pod, calico, namespace, network_policy, ref_of, service_account

WEB = Pod("x", "web", "10.0.0.1", {"app": "web"})
CLIENT = Pod("x", "client", "10.0.0.2", {"app": "client"}, account="ci")
OTHER = Pod("y", "other", "10.0.0.3", {"app": "client"}, node="n2")
PODS = (WEB, CLIENT, OTHER)
SPACES = (namespace("x", {"env": "prod"}), namespace("y", {"env": "dev"}))


def translated(manifest: dict[str, Any]) -> Translation:
    return translate(ref_of(manifest), manifest)


def policy(spec: dict[str, Any], space: str = "x") -> Policy:
    kind = "NetworkPolicy" if space else "GlobalNetworkPolicy"
    resource = translated(calico(kind, "p", spec, space)).resource
    assert isinstance(resource, Policy)
    return resource


def refused(manifest: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=re.escape(message)):
        translated(manifest)


def allows(peer: dict[str, Any], space: str = "x", **rule: Any) -> list[str]:
    """Who may reach port 80 of x/web under one rule that allows a peer: pods, and an address elsewhere."""
    spec = {"selector": "app == 'web'", "types": ["Ingress"],
            "ingress": [{"action": "Allow", "source": peer, **rule}]}
    cluster = Cluster(PODS, [*SPACES, calico("NetworkPolicy" if space else "GlobalNetworkPolicy", "p", spec, space)])
    return [side for side in ("x/client", "y/other", "203.0.113.9") if cluster.allowed(side, "x/web", 80)]


def test_a_namespaced_policy_has_a_name_no_other_can_have_and_is_last_without_order() -> None:
    made = policy({"selector": "app == 'web'"})
    assert (made.id, made.name, made.order, made.tier) == ("default/x/p", "x/p", inf, DEFAULT_TIER)
    assert str(made.selector) == "projectcalico.org/namespace == 'x' && app == 'web'"
    assert policy({}, "").id == "default/p"
    assert str(policy({}, "").selector) == "all()"
    assert policy({"tier": "security", "order": -1.5}).id == "security/x/p"


@pytest.mark.parametrize(("spec", "expected"), [
    ({}, {Direction.INGRESS}),
    ({"ingress": [{"action": "Deny"}]}, {Direction.INGRESS}),
    ({"egress": [{"action": "Deny"}]}, {Direction.EGRESS}),
    ({"ingress": [{"action": "Deny"}], "egress": [{"action": "Deny"}]}, set(Direction)),
    ({"types": ["Egress"]}, {Direction.EGRESS}),
    ({"types": [], "egress": [{"action": "Deny"}]}, {Direction.EGRESS}),
])
def test_types_default_to_the_directions_that_have_rules(spec: dict[str, Any], expected: set[Direction]) -> None:
    assert policy(spec).directions == expected


def test_rules_of_a_direction_that_types_does_not_name_do_not_count_and_are_reported() -> None:
    made = translated(calico("NetworkPolicy", "p", {"types": ["Ingress"], "egress": [{"action": "Allow"}]}, "x"))
    assert isinstance(made.resource, Policy)
    assert made.resource.egress == ()
    assert [condition.path for condition in made.conditions] == ["spec.egress"]


@pytest.mark.parametrize(("peer", "expected"), [
    ({}, ["x/client", "y/other", "203.0.113.9"]),
    ({"selector": "app == 'client'"}, ["x/client"]),
    ({"notSelector": "app == 'web'"}, ["x/client"]),
    ({"selector": "all()", "namespaceSelector": "all()"}, ["x/client", "y/other"]),
    ({"namespaceSelector": "env == 'dev'"}, ["y/other"]),
    ({"namespaceSelector": "projectcalico.org/name == 'y'"}, ["y/other"]),
    ({"namespaceSelector": "global()"}, []),
    ({"serviceAccounts": {"names": ["ci"]}}, ["x/client"]),
    ({"nets": ["10.0.0.0/30"], "notNets": ["10.0.0.2/32"]}, ["y/other"]),
    ({"notNets": ["10.0.0.0/8"]}, ["203.0.113.9"]),
    ({"nets": ["10.0.0.0/31", "10.0.0.2/31"], "selector": "all()"}, ["x/client"]),
])
def test_peers_of_a_namespaced_policy(peer: dict[str, Any], expected: list[str]) -> None:
    assert allows(peer) == expected


@pytest.mark.parametrize(("peer", "expected"), [
    ({"selector": "app == 'client'"}, ["x/client", "y/other"]),
    ({"selector": "all()", "notSelector": "projectcalico.org/namespace == 'x'"}, ["y/other"]),
    ({"namespaceSelector": "env != 'dev'", "selector": "app == 'client'"}, ["x/client"]),
    ({"serviceAccounts": {"selector": "all()"}}, ["x/client", "y/other"]),
])
def test_peers_of_a_global_policy(peer: dict[str, Any], expected: list[str]) -> None:
    assert allows(peer, "") == expected


def test_labels_of_service_accounts_select_their_pods() -> None:
    spec = {"selector": "app == 'web'", "ingress": [
        {"action": "Allow", "source": {"serviceAccounts": {"selector": "team == 'build'"}}}]}
    objects = [*SPACES, calico("GlobalNetworkPolicy", "p", spec)]
    assert not Cluster(PODS, objects).allowed("x/client", "x/web", 80)
    cluster = Cluster(PODS, [*objects, service_account("x", "ci", {"team": "build"})])
    assert cluster.allowed("x/client", "x/web", 80)
    assert not cluster.allowed("y/other", "x/web", 80)


def test_a_pod_can_not_pass_for_a_service_account() -> None:
    """Neither by a label of its own nor by the name of its network."""
    spoof = Pod("y", "spoof", "10.0.0.4", {"pcsa.team": "build"}, profiles=("k8s_ns.y", "serviceaccount/x/ci"))
    spec = {"selector": "app == 'web'", "ingress": [
        {"action": "Allow", "source": {"serviceAccounts": {"selector": "team == 'build'"}}}]}
    cluster = Cluster([*PODS, spoof], [*SPACES, calico("GlobalNetworkPolicy", "p", spec),
                                       service_account("x", "ci", {"team": "build"})])
    assert cluster.allowed("x/client", "x/web", 80)
    assert not cluster.allowed("y/spoof", "x/web", 80)


@pytest.mark.parametrize(("destination", "expected"), [
    ({"ports": [80, "90:92", 91]}, ((80, 80), (90, 92))),
    ({"ports": ["443"]}, ((443, 443),)),
    ({"notPorts": [80]}, ((0, 79), (81, LAST))),
    ({"ports": ["1:100"], "notPorts": ["10:20", 100]}, ((1, 9), (21, 99))),
    ({"ports": []}, ()),
])
def test_ports(destination: dict[str, Any], expected: tuple[tuple[int, int], ...]) -> None:
    (rule,) = policy({"ingress": [{"action": "Allow", "protocol": "TCP", "destination": destination}]}).ingress
    assert (rule.protocol, rule.ports) == (6, expected)


def test_a_rule_whose_ports_are_all_excluded_matches_nothing() -> None:
    spec = {"ingress": [{"action": "Allow", "protocol": "UDP", "destination": {"ports": [5], "notPorts": ["1:9"]}}]}
    made = translated(calico("NetworkPolicy", "p", spec, "x"))
    assert isinstance(made.resource, Policy)
    assert made.resource.ingress == ()
    assert made.resource.directions == {Direction.INGRESS}
    assert [condition.path for condition in made.conditions] == ["spec.ingress[0]"]


@pytest.mark.parametrize(("protocol", "number"), [("TCP", 6), ("ICMPv6", 58), ("UDPLite", 136), (47, 47), ("47", 47)])
def test_protocols(protocol: object, number: int) -> None:
    assert policy({"egress": [{"action": "Deny", "protocol": protocol}]}).egress[0].protocol == number


def test_ip_version_alone_is_all_addresses_of_it() -> None:
    (rule,) = policy({"egress": [{"action": "Deny", "ipVersion": 6}]}).egress
    assert rule.nets == ("::/0",)


RULE = {"action": "Allow"}


@pytest.mark.parametrize(("spec", "message"), [
    ({"ingres": []}, "spec.ingres: unknown field"),
    ({"ingress": [{}]}, "spec.ingress[0].action: is missing"),
    ({"ingress": [{"action": "allow"}]}, "spec.ingress[0].action: 'allow' is not supported; use Allow"),
    ({"ingress": [{**RULE, "from": []}]}, "spec.ingress[0].from: unknown field"),
    ({"ingress": [None]}, "spec.ingress[0]: must be an object, is null"),
    ({"ingress": [{**RULE, "source": {"selector": "a = 'b'"}}]}, "spec.ingress[0].source.selector: selector, column 3"),
    ({"selector": "has(x"}, "spec.selector: selector, column"),
    ({"selector": "calico/k8s_ns == 'x'"}, "spec.selector: no pod has label 'calico/k8s_ns'"),
    ({"ingress": [{**RULE, "source": {"ports": [80]}, "protocol": "TCP"}]}, "spec.ingress[0].source.ports: is not"),
    ({"ingress": [{**RULE, "destination": {"ports": [80]}}]}, "spec.ingress[0].destination.ports: needs protocol"),
    ({"ingress": [{**RULE, "destination": {"selector": "a == 'b'"}}]}, "spec.ingress[0].destination.selector: is not"),
    ({"egress": [{**RULE, "source": {"nets": ["10.0.0.0/8"]}}]}, "spec.egress[0].source.nets: is not supported"),
    ({"ingress": [{**RULE, "icmp": {"type": 8}}]}, "spec.ingress[0].icmp: is not supported"),
    ({"ingress": [{**RULE, "notProtocol": "TCP"}]}, "spec.ingress[0].notProtocol: is not supported"),
    ({"ingress": [{**RULE, "http": {}}]}, "spec.ingress[0].http: is not supported"),
    ({"egress": [{**RULE, "destination": {"services": {"name": "a"}}}]}, "destination.services: is not supported"),
    ({"ingress": [{**RULE, "source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}]}, "must be of one address family"),
    ({"ingress": [{**RULE, "ipVersion": 4, "source": {"nets": ["fd00::/8"]}}]}, "must be of one address family"),
    ({"ingress": [{**RULE, "ipVersion": 5}]}, "spec.ingress[0].ipVersion: must be 4 or 6"),
    ({"ingress": [{**RULE, "source": {"nets": ["010.0.0.0/8"]}}]}, "spec.ingress[0].source.nets[0]:"),
    ({"ingress": [{**RULE, "protocol": "TCP", "destination": {"ports": ["9:8"]}}]}, "ends before it begins"),
    ({"ingress": [{**RULE, "protocol": "TCP", "destination": {"notPorts": ["web"]}}]}, "is the name of a port"),
    ({"ingress": [{**RULE, "protocol": 0}]}, "spec.ingress[0].protocol: 0 is not between 1 and 255"),
    ({"order": "1"}, "spec.order: must be a number"),
    ({"types": ["Ingress", "Ingress"]}, "spec.types: names one twice"),
    ({"tier": "profile"}, "spec.tier: 'profile' is reserved"),
    ({"doNotTrack": True}, "spec.doNotTrack: unknown field"),
])
def test_what_is_refused(spec: dict[str, Any], message: str) -> None:
    refused(calico("NetworkPolicy", "p", spec, "x"), message)


@pytest.mark.parametrize(("manifest", "message"), [
    (calico("GlobalNetworkPolicy", "p", {"doNotTrack": True}), "spec.doNotTrack: is for hosts"),
    (calico("GlobalNetworkPolicy", "p", {"ingress": [{**RULE, "source": {"notSelector": "a == 'b'"}}]}),
     "spec.ingress[0].source.notSelector: needs selector"),
    (calico("GlobalNetworkPolicy", "knp.default.x.p", {}), "metadata.name: policies called knp.*"),
    (calico("GlobalNetworkPolicy", "p", {}, "x"), "metadata.namespace: a GlobalNetworkPolicy is in none"),
    (calico("NetworkPolicy", "p", {}), "metadata.namespace: is missing"),
    (calico("Tier", "profile", {}), "metadata.name: 'profile' is reserved"),
    (calico("Tier", "default", {"order": 5}), "spec: tier default has order 1000000"),
    (calico("Tier", "t", {"defaultAction": "Allow"}), "spec.defaultAction: 'Allow' is not supported; use Deny, Pass"),
    (calico("Profile", "k8s_ns.x", {}), "metadata.name: profiles called k8s_ns.*"),
    (calico("Profile", "net", {"labelsToApply": {"pcns.env": "prod"}}), "spec.labelsToApply: label 'pcns.env' is"),
    ({**calico("Tier", "t", {}), "apiVersion": "v1"}, "apiVersion: 'v1' is not supported; use projectcalico.org/v3"),
])
def test_what_is_refused_of_others(manifest: dict[str, Any], message: str) -> None:
    refused(manifest, message)


def test_the_form_that_calico_stores_is_taken_too() -> None:
    manifest = {**calico("NetworkPolicy", "p", {}, "x"), "apiVersion": "crd.projectcalico.org/v1"}
    assert isinstance(translated(manifest).resource, Policy)


def test_tiers_and_profiles() -> None:
    assert translated(calico("Tier", "t", {"order": 5, "defaultAction": "Pass"})).resource == Tier("t", 5, Action.PASS)
    assert translated(calico("Tier", "t", {})).resource == Tier("t", inf)
    assert translated(calico("Tier", "default", {})).resource == DEFAULT_TIER
    made = translated(calico("Profile", "net", {"labelsToApply": {"a": "b"}, "egress": [{"action": "Allow"}]})).resource
    assert isinstance(made, Profile)
    assert made.labels == {"a": "b", "projectcalico.org/profile.net": ""}
    assert (made.ingress, [rule.action for rule in made.egress]) == ((), [Action.ALLOW])


PORTS = st.builds(lambda first, length: PortRange(first, first + length), st.integers(0, 40), st.integers(0, 9))


@given(st.lists(PORTS, max_size=6), st.lists(PORTS, max_size=6))
def test_excluding_ports_is_a_difference_of_sets(some: list[PortRange], others: list[PortRange]) -> None:
    def ports(ranges: Any) -> set[int]:
        return {port for first, last in ranges for port in range(first, last + 1)}

    left = without(some, others)
    assert ports(left) == ports(some) - ports(others)
    assert left == merged_ranges(left)


# Evaluation: what several tiers decide together

ALLOW_CLIENT = network_policy("x", "k", {"podSelector": {}, "ingress": [
    {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]})


def tiered(name: str, tier: str, order: float | None, *actions: str, selector: str = "app == 'web'") -> dict[str, Any]:
    spec = {"selector": selector, "tier": tier, "types": ["Ingress"], "ingress": [{"action": a} for a in actions]}
    return calico("GlobalNetworkPolicy", name, {**spec, "order": order} if order is not None else spec)


@pytest.mark.parametrize(("objects", "allowed", "by"), [
    ([ALLOW_CLIENT], True, "knp.default.x.k"),
    # An earlier tier's Deny and Allow are final; its end drops; Pass goes on.
    ([calico("Tier", "t", {"order": 1}), tiered("p", "t", 1, "Deny"), ALLOW_CLIENT], False, "p"),
    ([calico("Tier", "t", {"order": 1}), tiered("p", "t", 1), ALLOW_CLIENT], False, "p"),
    ([calico("Tier", "t", {"order": 1}), tiered("p", "t", 1, "Pass", "Deny"), ALLOW_CLIENT], True, "knp.default.x.k"),
    ([calico("Tier", "t", {"order": 1}), tiered("p", "t", 1, "Log", "Allow")], True, "p"),
    ([calico("Tier", "t", {"order": 1}), tiered("p", "t", 1, "Log")], False, "p"),
    # A tier that has no policy for the endpoint decides nothing.
    ([calico("Tier", "t", {"order": 1}), tiered("p", "t", 1, "Deny", selector="app == 'none'"), ALLOW_CLIENT], True,
     "knp.default.x.k"),
    # A tier behind the default one is reached by Pass only.
    ([calico("Tier", "t", {"order": 2_000_000}), tiered("p", "t", 1, "Deny"), ALLOW_CLIENT], True, "knp.default.x.k"),
    ([calico("Tier", "t", {}), tiered("p", "t", 1, "Deny"), tiered("q", "default", 1, "Pass")], False, "p"),
    # The default action Pass: its end does not drop.
    ([calico("Tier", "t", {"order": 1, "defaultAction": "Pass"}), tiered("p", "t", 1), ALLOW_CLIENT], True,
     "knp.default.x.k"),
    # After the last tier Pass leads to the profiles.
    ([tiered("q", "default", 1, "Pass")], True, "k8s_ns.x"),
    # Ties: of tiers and of policies, by name; no order is after every order.
    ([calico("Tier", "b", {"order": 1}), calico("Tier", "a", {"order": 1}), tiered("p", "b", 1, "Allow"),
      tiered("q", "a", 1, "Deny")], False, "q"),
    ([tiered("b", "default", 1, "Allow"), tiered("a", "default", 1, "Deny")], False, "a"),
    ([tiered("a", "default", None, "Deny"), tiered("b", "default", 1e9, "Allow")], True, "b"),
    ([tiered("a", "default", 1000, "Deny"), ALLOW_CLIENT], False, "a"),
    ([tiered("z", "default", 1000, "Deny"), ALLOW_CLIENT], True, "knp.default.x.k"),
])
def test_evaluation_of_tiers(objects: list[dict[str, Any]], allowed: bool, by: str) -> None:
    answer = Cluster(PODS, [*SPACES, *objects]).explain("x/client", "x/web", 80)
    assert (answer.allowed, answer.steps[-1].policy) == (allowed, by)


def test_a_tier_that_is_not_declared_is_last() -> None:
    """As one without order: neither its Deny nor its Allow comes before that of a tier that has one."""
    cluster = Cluster(PODS, [*SPACES, tiered("p", "missing", 1, "Allow"), tiered("q", "default", 1, "Deny")])
    assert not cluster.allowed("x/client", "x/web", 80)


def test_an_own_label_goes_before_a_profile_s() -> None:
    pods = [Pod("x", "web", "10.0.0.1", {"app": "web"}, profiles=("net", "k8s_ns.x")), CLIENT]
    spec = {"labelsToApply": {"app": "client", "zone": "a"}, "ingress": [{"action": "Allow"}]}
    rules = {"selector": "zone == 'a' && app == 'web'", "ingress": [{"action": "Deny"}]}
    cluster = Cluster(pods, [*SPACES, calico("Profile", "net", spec), calico("GlobalNetworkPolicy", "p", rules)])
    assert not cluster.allowed("x/client", "x/web", 80)
