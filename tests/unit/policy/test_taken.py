"""NetworkPolicies that an API server has taken: what is not understood of them closes, and the rest stands."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import InvalidArgument
from muslin.kube import kinds
from muslin.kube.decode import Decoder
from services.policy import records
from services.policy.kubernetes import KINDS, converted, key_of
from services.policy.model import Direction, Policy
from services.policy.records import KUBERNETES, Object
from services.policy.translate import Ref, Translation, translate

REF = Ref("NetworkPolicy", "shop", "web")
GOOD = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}


def taken(**spec: Any) -> Translation:
    return translate(REF, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {}, "spec": spec},
                     taken=True)


def policy(translation: Translation) -> Policy:
    assert isinstance(translation.resource, Policy)
    return translation.resource


@pytest.mark.parametrize("rule", [
    {"from": [{"clusterSelector": {}}]}, {"fromAll": True}, {"from": [{"podSelector": {"matchNames": []}}]},
    {"ports": [{"portRange": "1-2"}]}, {"ports": [{"protocol": "QUIC", "port": 1}]}, "a rule", None,
    {"from": [GOOD["from"][0], {"ipBlock": {"cidr": "300.0.0.0/8"}}]}])
def test_a_rule_that_is_not_understood_goes_as_a_whole_and_the_others_stand(rule: Any) -> None:
    """At their paths: a condition, and Explain, name the rule as its user wrote it."""
    translation = taken(podSelector={}, ingress=[rule, GOOD])
    found = policy(translation)
    assert [item.path for item in found.ingress] == ["spec.ingress[1]"]
    assert found.directions == {Direction.INGRESS}
    (condition,) = translation.conditions
    assert condition.path.startswith("spec.ingress[0]")
    assert condition.message.endswith("; spec.ingress[0] is dropped")


def test_of_an_egress_rule_the_isolation_remains() -> None:
    """Without policyTypes it is the rules of egress that isolate: also one that is dropped."""
    assert policy(taken(podSelector={}, egress=[{"toAll": True}])).directions == set(Direction)


def test_types_that_are_not_understood_are_both() -> None:
    translation = taken(podSelector={}, policyTypes=["Ingress", "Forward"])
    assert policy(translation).directions == set(Direction)
    assert [(item.path, item.message) for item in translation.conditions] == [
        ("spec.policyTypes[1]", "'Forward' is not supported; use Ingress, Egress; both directions are isolated")]


@pytest.mark.parametrize("spec", [
    {"podSelector": {"matchNames": []}}, {"podSelector": {}, "tier": "x"},
    {"podSelector": {"matchLabels": {"pcns.a": "b"}}}])
def test_what_nobody_can_say_whom_it_is_for_is_an_error(spec: Any) -> None:
    """Then the version before it stays in force, or its namespace is isolated (`closed`)."""
    with pytest.raises(InvalidArgument):
        taken(**spec)


BOTH: list[Any] = [{}, {"ports": [{"port": 80}]}, {"y": 1}]
INGRESS: list[Any] = [*BOTH, GOOD, {"from": [{"x": {}}]}, {"from": [{}]}]


@given(st.lists(st.sampled_from(INGRESS), max_size=5), st.lists(st.sampled_from(BOTH), max_size=3))
def test_it_never_allows_more_than_what_is_understood_of_it(ingress: list[Any], egress: list[Any]) -> None:
    """The same as the policy without the rules that alone would be refused."""
    def good(rule: Any, where: str) -> bool:
        try:
            translate(REF, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {},
                            "spec": {"podSelector": {}, where: [rule]}})
        except InvalidArgument:
            return False
        return True

    found = policy(taken(podSelector={}, ingress=ingress, egress=egress))
    assert [item.path for item in found.ingress] == [
        f"spec.ingress[{i}]" for i, rule in enumerate(ingress) if good(rule, "ingress")]
    assert [item.path for item in found.egress] == [
        f"spec.egress[{i}]" for i, rule in enumerate(egress) if good(rule, "egress")]


# Records


def sent(kind: Any, **fields: Any) -> Object:
    body = {"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7", "uid": "u",
                         "managedFields": [{"x": 1}], "annotations": {"a": "b"}}, **fields}
    return converted(kind, Decoder(kind).one(json.dumps(body).encode()))


def test_a_record_has_what_policy_needs_and_no_more() -> None:
    """It changes when that does: not with each version, annotation or status."""
    spec = {"podSelector": {}, "ingress": [GOOD]}
    record = sent(kinds.NETWORK_POLICIES, spec=spec, status={"x": 1})
    assert msgspec.json.decode(record.manifest) == {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}
    assert (record.source, record.key) == (KUBERNETES, key_of(kinds.NETWORK_POLICIES, ("shop", "web")))
    assert record.translate().conditions == ()
    assert records.decode_object(record.key, records.encode(record)) == record


def test_the_annotation_that_logs_is_kept() -> None:
    record = sent(kinds.NETWORK_POLICIES, spec={"podSelector": {}}, metadata={
        "name": "web", "namespace": "shop", "annotations": {"muslin.dev/log-denied": "true", "other": "x"}})
    resource = record.translate().resource
    assert isinstance(resource, Policy)
    assert resource.log_denied


def test_what_is_applied_by_hand_is_not_marked() -> None:
    """And is refused for what an API server may have: its user is there to be told."""
    hand = Object("NetworkPolicy", "shop", "web", "file.yaml", msgspec.Raw(
        b'{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{},"spec":{"ingress":[{"x":1}]}}'))
    assert b"source" not in records.encode(hand)
    with pytest.raises(InvalidArgument):
        hand.translate()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_each_kind_can_be_named_as_the_policy_service_does(kind: Any) -> None:
    fields: dict[str, Any] = {} if kind.type is kinds.Plain else {"spec": {}}
    named = {"name": "web"} if kind.kind in ("Namespace", "GlobalNetworkPolicy", "Tier") else {
        "name": "web", "namespace": "shop"}
    record = sent(kind, metadata=named, **fields)
    assert record.key == key_of(kind, (named.get("namespace", ""), "web"))
    record.translate()


