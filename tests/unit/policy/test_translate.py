"""Each clause of Kubernetes' NetworkPolicy documentation, and what becomes of it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from muslin.selectors import parse
from services.node.enforce.program import from_message
from services.policy import wire
from services.policy.fields import FieldError
from services.policy.model import Action, Direction, Policy, PortRange, Profile, Rule
from services.policy.program import EMPTY, diff
from services.policy.translate import Condition, Ref, Translation, translate
from tests.unit.policy.cluster import Cluster, Pod, namespace, network_policy

SHOP = "projectcalico.org/namespace == 'shop'"
KNOWN = "has(pcns.kubernetes.io/metadata.name)"
BOTH = frozenset(Direction)
INGRESS = frozenset({Direction.INGRESS})
EGRESS = frozenset({Direction.EGRESS})


def translated(spec: dict[str, Any]) -> Translation:
    return translate(Ref("NetworkPolicy", "shop", "web"), network_policy("shop", "web", spec), "shop.yaml, document 2")


def policy(spec: dict[str, Any]) -> Policy:
    result = translated(spec)
    assert result.conditions == ()
    assert isinstance(result.resource, Policy)
    return result.resource


def allow(peer: str | None = None, protocol: int = 0, nets: tuple[str, ...] = (), not_nets: tuple[str, ...] = (),
          ports: tuple[tuple[int, int], ...] = (), names: tuple[str, ...] = (), path: str = "spec.ingress[0]") -> Rule:
    return Rule(Action.ALLOW, path, protocol, parse(peer) if peer else None, nets, not_nets,
                tuple(PortRange(*port) for port in ports), names)


def test_name_tier_order_and_origin() -> None:
    made = policy({"podSelector": {}})
    assert (made.name, made.tier.name, made.order) == ("knp.default.shop.web", "default", 1000)
    assert made.id == "default/knp.default.shop.web"
    assert made.origin == "shop.yaml, document 2"


@pytest.mark.parametrize(("selector", "expected"), [
    ({}, SHOP),  # "An empty podSelector selects all pods in the namespace."
    (None, SHOP),
    ({"matchLabels": {"b": "2", "a": "1"}}, f"{SHOP} && a == '1' && b == '2'"),
    ({"matchLabels": {"a": ""}}, f"{SHOP} && a == ''"),
    ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["2", "1"]}]}, f"{SHOP} && a in {{'1', '2'}}"),
    ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, f"{SHOP} && a == '1'"),
    ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1", "2"]}]},
     f"{SHOP} && a not in {{'1', '2'}}"),
    ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, f"{SHOP} && has(a)"),
    ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist", "values": []}]}, f"{SHOP} && !has(a)"),
    ({"matchLabels": {"x.io/a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]},
     f"{SHOP} && x.io/a == '1' && has(b)"),
])
def test_pod_selector(selector: dict[str, Any] | None, expected: str) -> None:
    assert expected == str(policy({"podSelector": selector}).selector)


def test_without_a_spec_all_pods_are_isolated_for_ingress() -> None:
    """The API server takes it: an empty spec is an empty selector and no rule."""
    manifest = network_policy("shop", "web", {})
    del manifest["spec"]
    made = translate(Ref("NetworkPolicy", "shop", "web"), manifest).resource
    assert isinstance(made, Policy)
    assert (str(made.selector), made.directions, made.ingress, made.egress) == (SHOP, INGRESS, (), ())


@pytest.mark.parametrize(("fields", "expected"), [
    ({}, INGRESS),  # "If no policyTypes are specified ... Ingress will always be set"
    ({"ingress": [{}]}, INGRESS),
    ({"egress": []}, INGRESS),
    ({"egress": None}, INGRESS),
    ({"egress": [{}]}, BOTH),  # "... and Egress will be set if the NetworkPolicy has any egress rules."
    ({"policyTypes": []}, INGRESS),
    ({"policyTypes": None, "egress": [{}]}, BOTH),
    ({"policyTypes": ["Ingress"]}, INGRESS),
    ({"policyTypes": ["Egress"]}, EGRESS),  # default deny of egress
    ({"policyTypes": ["Egress", "Ingress"]}, BOTH),
    ({"policyTypes": ["Egress", "Egress"]}, EGRESS),
])
def test_policy_types(fields: dict[str, Any], expected: frozenset[Direction]) -> None:
    assert expected == policy({"podSelector": {}, **fields}).directions


def test_egress_rules_that_can_not_be_translated_still_isolate_egress() -> None:
    result = translated({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "010.0.0.0/8"}}]}]})
    assert isinstance(result.resource, Policy)
    assert (result.resource.directions, result.resource.egress) == (BOTH, ())


def test_rules_of_a_type_that_is_not_named_do_not_count_and_are_reported() -> None:
    result = translated({"policyTypes": ["Ingress"], "egress": [{}]})
    assert isinstance(result.resource, Policy)
    assert (result.resource.directions, result.resource.egress) == (INGRESS, ())
    assert result.conditions == (
        Condition("spec.egress", "ignored, because spec.policyTypes does not name Egress"),)


@pytest.mark.parametrize(("rules", "expected"), [
    ([], ()),  # isolated, nothing allowed
    (None, ()),
    ([{}], (allow(),)),  # an empty rule allows everything
    ([{"from": []}], (allow(),)),  # "If this field is empty or missing, this rule matches all sources"
    ([{"from": None, "ports": None}], (allow(),)),
    ([{"ports": []}], (allow(),)),  # "... this rule matches all ports"
    ([{"from": [{"podSelector": {}}]}], (allow(SHOP),)),
    ([{"from": [{"podSelector": {"matchLabels": {"a": "1"}}}]}], (allow(f"{SHOP} && a == '1'"),)),
    ([{"from": [{"namespaceSelector": {}}]}], (allow(KNOWN),)),  # all namespaces
    ([{"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}}}]}], (allow(f"{KNOWN} && pcns.team == 'x'"),)),
    ([{"from": [{"namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["a", "b"]}]}}]}],
     (allow(f"{KNOWN} && pcns.kubernetes.io/metadata.name not in {{'a', 'b'}}"),)),
    ([{"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}},  # one peer: both must hold
                 "podSelector": {"matchLabels": {"a": "1"}}}]}],
     (allow(f"{KNOWN} && pcns.team == 'x' && a == '1'"),)),
    ([{"from": [{"namespaceSelector": {}, "podSelector": {}}]}], (allow(KNOWN),)),
    ([{"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}}},  # two peers: either
                {"podSelector": {"matchLabels": {"a": "1"}}}]}],
     (allow(f"{KNOWN} && pcns.team == 'x'"), allow(f"{SHOP} && a == '1'"))),
    ([{"from": [{"ipBlock": {"cidr": "10.1.2.3/8"}}]}], (allow(nets=("10.0.0.0/8",)),)),
    ([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.0.0/16"]}}]}],
     (allow(nets=("10.0.0.0/8",), not_nets=("10.1.0.0/16", "10.2.0.0/16")),)),
    ([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": []}}]}], (allow(nets=("10.0.0.0/8",)),)),
    ([{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}], (allow(nets=("0.0.0.0/0",)),)),
    ([{"from": [{"ipBlock": {"cidr": "2001:DB8::/32", "except": ["2001:db8:1::/48"]}}]}],
     (allow(nets=("2001:db8::/32",), not_nets=("2001:db8:1::/48",)),)),
    ([{"from": [{"ipBlock": {"cidr": "10.0.0.0/9"}}, {"ipBlock": {"cidr": "10.128.0.0/9"}},  # as few rules as can be
                {"ipBlock": {"cidr": "fd00::/8"}}, {"ipBlock": {"cidr": "10.1.0.0/16"}}]}],
     (allow(nets=("10.0.0.0/8",)), allow(nets=("fd00::/8",)))),
    ([{"ports": [{"port": 80}]}], (allow(protocol=6, ports=((80, 80),)),)),  # "defaults to TCP"
    ([{"ports": [{"port": 53, "protocol": "UDP"}]}], (allow(protocol=17, ports=((53, 53),)),)),
    ([{"ports": [{"port": 7, "protocol": "SCTP"}]}], (allow(protocol=132, ports=((7, 7),)),)),
    ([{"ports": [{"port": 1, "endPort": 65535}]}], (allow(protocol=6, ports=((1, 65535),)),)),
    ([{"ports": [{"port": 80, "endPort": 80}]}], (allow(protocol=6, ports=((80, 80),)),)),
    ([{"ports": [{"protocol": "UDP"}]}], (allow(protocol=17),)),  # "all port names and numbers"
    ([{"ports": [{}]}], (allow(protocol=6),)),
    ([{"ports": [{"port": None, "protocol": None, "endPort": None}]}], (allow(protocol=6),)),
    ([{"ports": [{"port": "http"}]}], (allow(protocol=6, names=("http",)),)),
    ([{"ports": [{"port": "http"}, {"port": 80}, {"port": "dns", "protocol": "UDP"}, {"port": 90, "endPort": 99},
                 {"port": 81}, {"port": 95, "endPort": 100}]}],
     (allow(protocol=6, ports=((80, 81), (90, 100)), names=("http",)), allow(protocol=17, names=("dns",)))),
    ([{"ports": [{"port": 80}, {"protocol": "TCP"}]}], (allow(protocol=6),)),  # all ports include 80
    ([{"from": [{"podSelector": {}}, {"namespaceSelector": {}}],
       "ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}]}],
     (allow(SHOP, 6, ports=((1, 1),)), allow(SHOP, 17, ports=((2, 2),)),
      allow(KNOWN, 6, ports=((1, 1),)), allow(KNOWN, 17, ports=((2, 2),)))),
    ([{"ports": [{"port": 1}]}, {}], (allow(protocol=6, ports=((1, 1),)), allow(path="spec.ingress[1]"))),
])
def test_rules(rules: list[Any] | None, expected: tuple[Rule, ...]) -> None:
    assert expected == policy({"podSelector": {}, "ingress": rules}).ingress


def test_egress_rules_name_their_peers_in_to() -> None:
    made = policy({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
        {"to": [{"podSelector": {"matchLabels": {"a": "1"}}}], "ports": [{"port": 80}]}, {}]})
    assert made.ingress == ()
    assert made.egress == (allow(f"{SHOP} && a == '1'", 6, ports=((80, 80),), path="spec.egress[0]"),
                           allow(path="spec.egress[1]"))


ZERO = {"ipBlock": {"cidr": "010.0.0.0/8"}}


@pytest.mark.parametrize(("rule", "left", "conditions"), [
    ({"from": [ZERO]}, (), ["spec.ingress[0].from[0].ipBlock.cidr", "spec.ingress[0]"]),
    ({"from": [ZERO], "ports": [{"port": 80}]}, (), ["spec.ingress[0].from[0].ipBlock.cidr", "spec.ingress[0]"]),
    ({"from": [ZERO, {"podSelector": {}}]}, (allow(SHOP),), ["spec.ingress[0].from[0].ipBlock.cidr"]),
    ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.01.0.0/16"]}}]}, (),
     ["spec.ingress[0].from[0].ipBlock.except[0]", "spec.ingress[0]"]),
    ({"from": [{"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}]}, (),
     ["spec.ingress[0].from[0].ipBlock.cidr", "spec.ingress[0]"]),
    ({"from": [{"podSelector": {"matchLabels": {"pcns.team": "x"}}}]}, (),
     ["spec.ingress[0].from[0].podSelector", "spec.ingress[0]"]),
    ({"from": [{"namespaceSelector": {}, "podSelector": {"matchExpressions": [
        {"key": "projectcalico.org/namespace", "operator": "DoesNotExist"}]}}]}, (),
     ["spec.ingress[0].from[0].podSelector", "spec.ingress[0]"]),
])
def test_what_can_not_be_translated_is_dropped_and_reported(rule: dict[str, Any], left: tuple[Rule, ...],
                                                            conditions: list[str]) -> None:
    """A rule that loses its last peer goes: it must not become a rule for everybody. The next rule stands."""
    result = translated({"podSelector": {}, "ingress": [rule, {"ports": [{"port": 1}]}]})
    assert isinstance(result.resource, Policy)
    assert (*left, allow(protocol=6, ports=((1, 1),), path="spec.ingress[1]")) == result.resource.ingress
    assert conditions == [condition.path for condition in result.conditions]
    assert all("dropped" in condition.message for condition in result.conditions)


@pytest.mark.parametrize(("spec", "message"), [
    ("x", "spec: must be an object, is a string"),
    ({"podSelector": []}, "spec.podSelector: must be an object, is a list"),
    ({"podselector": {}}, "spec.podselector: unknown field"),
    ({"podSelector": {"matchLabel": {}}}, "spec.podSelector.matchLabel: unknown field"),
    ({"podSelector": {"matchLabels": {"a": 1}}}, 'spec.podSelector.matchLabels[a]: must be a string; quote it: "1"'),
    ({"podSelector": {"matchLabels": {"a": None}}}, "spec.podSelector.matchLabels[a]: must be a string, is null"),
    ({"podSelector": {"matchLabels": {"a b": "x"}}}, "spec.podSelector.matchLabels: 'a b' is not a label's key"),
    ({"podSelector": {"matchLabels": {"": "x"}}}, "spec.podSelector.matchLabels: '' is not a label's key"),
    ({"podSelector": {"matchLabels": {"A.io/a": "x"}}}, "must be a DNS subdomain"),
    ({"podSelector": {"matchLabels": {"a" * 64: "x"}}}, "is not a label's key"),
    ({"podSelector": {"matchLabels": {"a": "x" * 64}}}, "is not a label's value"),
    ({"podSelector": {"matchLabels": {"a": "-x"}}}, "is not a label's value"),
    ({"podSelector": {"matchLabels": {"pcns.team": "x"}}}, "spec.podSelector: label 'pcns.team' is reserved"),
    ({"podSelector": {"matchExpressions": [{"operator": "Exists"}]}},
     "spec.podSelector.matchExpressions[0].key: is missing"),
    ({"podSelector": {"matchExpressions": [{"key": "a"}]}},
     "spec.podSelector.matchExpressions[0].operator: is missing"),
    ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "in", "values": ["x"]}]}},
     "spec.podSelector.matchExpressions[0].operator: 'in' is not supported; use In, NotIn, Exists, DoesNotExist"),
    ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
     "spec.podSelector.matchExpressions[0].values: must not be empty with operator In"),
    ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": []}]}},
     "spec.podSelector.matchExpressions[0].values: must not be empty with operator NotIn"),
    ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}},
     "spec.podSelector.matchExpressions[0].values: must be empty with operator Exists"),
    ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["a b"]}]}},
     "spec.podSelector.matchExpressions[0].values[0]: 'a b' is not a label's value"),
    ({"policyTypes": ["ingress"]}, "spec.policyTypes[0]: 'ingress' is not supported; use Ingress, Egress"),
    ({"policyTypes": ["Ingress", "Egress", "Ingress"]}, "spec.policyTypes: must name Ingress and Egress at most"),
    ({"policyTypes": "Ingress"}, "spec.policyTypes: must be a list, is a string"),
    ({"ingress": {}}, "spec.ingress: must be a list, is an object"),
    ({"ingress": [None]}, "spec.ingress[0]: must be an object, is null"),
    ({"ingress": [{"form": []}]}, "spec.ingress[0].form: unknown field; known are from, ports"),
    ({"ingress": [{"to": []}]}, "spec.ingress[0].to: unknown field"),
    ({"egress": [{"from": []}]}, "spec.egress[0].from: unknown field"),
    ({"ingress": [{"from": [{}]}]}, "spec.ingress[0].from[0]: must have podSelector, namespaceSelector or ipBlock"),
    ({"ingress": [{"from": [None]}]}, "spec.ingress[0].from[0]: must be an object, is null"),
    ({"ingress": [{"from": [{"podSelector": None}]}]}, "spec.ingress[0].from[0]: must have podSelector"),
    ({"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
     "spec.ingress[0].from[0]: must not have ipBlock beside a selector"),
    ({"ingress": [{"from": [{"ipBlock": {}}]}]}, "spec.ingress[0].from[0].ipBlock.cidr: is missing"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}]}, "ipBlock.cidr: '10.0.0.0' is not a CIDR"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}, "ipBlock.cidr: '10.0.0.0/33' is not a CIDR"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/255.0.0.0"}}]}]}, "is not a CIDR"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0/8"}}]}]}, "is not a CIDR"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "fe80::1%eth0/64"}}]}]}, "is not a CIDR"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": 10}}]}]}, "ipBlock.cidr: must be a string"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}]},
     "ipBlock.except[0]: 10.0.0.0/8 must lie within cidr 10.0.0.0/8 and be smaller"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}, "must lie within cidr"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/16"]}}]}]}, "must lie within cidr"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "excepts": []}}]}]}, "excepts: unknown field"),
    ({"ingress": [{"ports": [{"port": 0}]}]}, "spec.ingress[0].ports[0].port: 0 is not a port: use 1 to 65535"),
    ({"ingress": [{"ports": [{"port": 65536}]}]}, "spec.ingress[0].ports[0].port: 65536 is not a port"),
    ({"ingress": [{"ports": [{"port": 80.0}]}]}, "spec.ingress[0].ports[0].port: must be a number"),
    ({"ingress": [{"ports": [{"port": True}]}]}, "spec.ingress[0].ports[0].port: must be a number, is a boolean"),
    ({"ingress": [{"ports": [{"port": "80"}]}]}, "spec.ingress[0].ports[0].port: '80' is a string; write the number"),
    ({"ingress": [{"ports": [{"port": "HTTP"}]}]}, "spec.ingress[0].ports[0].port: 'HTTP' is not a port's name"),
    ({"ingress": [{"ports": [{"port": "a--b"}]}]}, "is not a port's name"),
    ({"ingress": [{"ports": [{"port": "-a"}]}]}, "is not a port's name"),
    ({"ingress": [{"ports": [{"port": ""}]}]}, "is not a port's name"),
    ({"ingress": [{"ports": [{"port": "a" * 16}]}]}, "is not a port's name"),
    ({"ingress": [{"ports": [{"protocol": "ICMP"}]}]},
     "spec.ingress[0].ports[0].protocol: 'ICMP' is not supported; use TCP, UDP, SCTP"),
    ({"ingress": [{"ports": [{"protocol": ""}]}]}, "spec.ingress[0].ports[0].protocol: '' is not supported"),
    ({"ingress": [{"ports": [{"endPort": 80}]}]}, "spec.ingress[0].ports[0].endPort: needs `port`"),
    ({"ingress": [{"ports": [{"port": "http", "endPort": 80}]}]}, "spec.ingress[0].ports[0].endPort: needs `port`"),
    ({"ingress": [{"ports": [{"port": 80, "endPort": 79}]}]},
     "spec.ingress[0].ports[0].endPort: 79 must not be below port 80"),
    ({"ingress": [{"ports": [{"port": 80, "endPort": 70000}]}]}, "endPort: 70000 is not a port"),
    ({"ingress": [{"ports": [{"ports": 80}]}]}, "spec.ingress[0].ports[0].ports: unknown field"),
    # a refusal goes before a drop
    ({"ingress": [{"from": [ZERO, {}]}]}, "spec.ingress[0].from[1]: must have"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "010.0.0.0/8", "except": ["x"]}}]}]}, "'x' is not a CIDR"),
    # rules of a type that policyTypes does not name are checked all the same
    ({"policyTypes": ["Ingress"], "egress": [{"ports": [{"port": 0}]}]}, "spec.egress[0].ports[0].port"),
])
def test_what_the_api_server_refuses_is_refused_with_its_path(spec: Any, message: str) -> None:
    manifest = network_policy("shop", "web", {})
    manifest["spec"] = spec
    with pytest.raises(FieldError, match=re.escape(message)):
        translate(Ref("NetworkPolicy", "shop", "web"), manifest)


@pytest.mark.parametrize(("change", "message"), [
    ({"kind": "Pod"}, "kind: 'Pod' is not supported; use NetworkPolicy"),
    ({"kind": None}, "kind: is missing"),
    ({"apiVersion": "extensions/v1beta1"}, "apiVersion: 'extensions/v1beta1' is not supported"),
    ({"apiVersion": None}, "apiVersion: is missing; it must be networking.k8s.io/v1"),
    ({"metadata": {"name": "other"}}, "metadata.name: is 'other', and 'web'"),
    ({"metadata": {"name": "web", "namespace": "other"}}, "metadata.namespace: is 'other', and 'shop'"),
    ({"metadata": {"labels": {"a": 1}}}, "metadata.labels[a]: must be a string"),
    ({"metadata": []}, "metadata: must be an object"),
    ({"specs": {}}, "specs: unknown field"),
])
def test_the_envelope(change: dict[str, Any], message: str) -> None:
    manifest = {**network_policy("shop", "web", {}), **change}
    with pytest.raises(FieldError, match=re.escape(message)):
        translate(Ref("NetworkPolicy", "shop", "web"), manifest)


@pytest.mark.parametrize(("ref", "message"), [
    (Ref("Pod", "shop", "web"), "kind: 'Pod' is not supported; use Namespace, GlobalNetworkPolicy, Tier"),
    (Ref("NetworkPolicy", "shop", ""), "metadata.name: is missing"),
    (Ref("NetworkPolicy", "", "web"), "metadata.namespace: is missing"),
    (Ref("NetworkPolicy", "a.b", "web"), "metadata.namespace: 'a.b' must be"),
    (Ref("NetworkPolicy", "shop", "Web"), "metadata.name: 'Web' must be"),
    (Ref("NetworkPolicy", "shop", "a..b"), "metadata.name: 'a..b' must be"),
    (Ref("Namespace", "", "a.b"), "metadata.name: 'a.b' must be"),
    (Ref("Namespace", "", "a" * 64), "must be 1 to 63"),
    (Ref("Namespace", "x", "a"), "metadata.namespace: a Namespace is in none"),
])
def test_names(ref: Ref, message: str) -> None:
    with pytest.raises(FieldError, match=re.escape(message)):
        translate(ref, {})


def test_a_manifest_must_be_an_object() -> None:
    with pytest.raises(FieldError, match="must be an object, is a list"):
        translate(Ref("Namespace", "", "shop"), [])


@pytest.mark.parametrize(("annotations", "logged", "told"), [
    ({}, False, False),
    ({"muslin.dev/log-denied": "true", "other": "x"}, True, False),
    ({"muslin.dev/log-denied": "false"}, False, False),
    ({"muslin.dev/log-denied": "yes"}, False, True),
    ({"muslin.dev/log-denied": True}, False, True),
    ("muslin.dev/log-denied", False, False),
])
def test_an_annotation_logs_what_is_denied(annotations: object, logged: bool, told: bool) -> None:
    manifest = network_policy("shop", "web", {"podSelector": {}})
    manifest["metadata"]["annotations"] = annotations
    made = translate(Ref("NetworkPolicy", "shop", "web"), manifest)
    assert isinstance(made.resource, Policy)
    assert made.resource.log_denied is logged
    assert made.conditions == ((Condition("metadata.annotations['muslin.dev/log-denied']",
                                          'ignored, because it is neither "true" nor "false"'),) if told else ())


def test_a_node_is_told_which_policy_logs() -> None:
    manifest = network_policy("shop", "web", {"podSelector": {}})
    manifest["metadata"]["annotations"] = {"muslin.dev/log-denied": "true"}
    engine = Cluster([Pod("shop", "web", "10.0.0.1")], [namespace("shop"), manifest]).engine
    message = wire.subscribe_response(diff(EMPTY, engine.program("n1")), 1, snapshot=True, resume="")
    assert {policy.id: policy.log_denied for policy in from_message(message).policies} == {
        "default/knp.default.shop.web": True, "profile/k8s_ns.shop": False}


def test_a_namespace_becomes_a_profile_that_allows_and_hands_down_its_labels() -> None:
    made = translate(Ref("Namespace", "", "shop"), namespace("shop", {"team": "x"}), "shop.yaml").resource
    assert isinstance(made, Profile)
    assert made == Profile(
        "k8s_ns.shop",
        {"pcns.team": "x", "pcns.kubernetes.io/metadata.name": "shop", "pcns.projectcalico.org/name": "shop",
         "projectcalico.org/namespace": "shop"},
        (Rule(Action.ALLOW, "ingress[0]"),), (Rule(Action.ALLOW, "egress[0]"),), "shop.yaml")
    assert made.id == "profile/k8s_ns.shop"


def test_a_namespace_can_not_bear_the_name_of_another() -> None:
    """Kubernetes overwrites the label too."""
    made = translate(Ref("Namespace", "", "shop"), namespace("shop", {"kubernetes.io/metadata.name": "bank"})).resource
    assert isinstance(made, Profile)
    assert made.labels["pcns.kubernetes.io/metadata.name"] == "shop"


def test_a_namespace_as_the_api_server_returns_it() -> None:
    manifest = {**namespace("shop"), "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    manifest["metadata"] |= {"uid": "1", "managedFields": []}
    assert isinstance(translate(Ref("Namespace", "", "shop"), manifest).resource, Profile)
