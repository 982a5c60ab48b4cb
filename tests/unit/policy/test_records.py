"""Records in etcd, and what changes of them amount to."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from muslin.api.policy.v1 import policy_pb2
from muslin.errors import Corrupt, InvalidArgument
from muslin.etcd import KeyValue, Put, keys
from muslin.etcd.mirror import Change
from muslin.selectors import parse
from services.policy.events import ResourceGone, ResourcePut
from services.policy.explain import View
from services.policy.model import Action, Direction, Policy, Profile, Rule
from services.policy.policies import MAX_COMPLAINTS, checked
from services.policy.records import Object, decode_object, decode_profile, encode, network_profile
from services.policy.sources import Sources
from services.policy.store import MAX_BYTES, MAX_OPERATIONS, batches
from services.policy.translate import Ref
from tests.unit.policy.cluster import Cluster, Pod, calico, namespace, network_policy, ref_of

ZERO = {"ingress": [{"from": [{"ipBlock": {"cidr": "010.0.0.0/8"}}]}]}


def record(manifest: dict[str, Any], origin: str = "a.yaml, document 1") -> Object:
    meta = manifest["metadata"]
    return Object(manifest["kind"], meta.get("namespace", ""), meta["name"], origin,
                  msgspec.Raw(json.dumps(manifest).encode()))


def message(manifest: dict[str, Any], origin: str = "a.yaml, document 1") -> policy_pb2.Object:
    made = record(manifest, origin)
    return policy_pb2.Object(kind=made.kind, namespace=made.namespace, name=made.name, origin=origin,
                             manifest=bytes(made.manifest))


def stored(key: str, value: bytes) -> Change:
    return Change(key, None, KeyValue(key, value, 1, 1))


def gone(key: str) -> Change:
    return Change(key, KeyValue(key, b"", 1, 1), None)


POLICY = record(network_policy("shop", "web", {"ingress": [{}]}))


def test_an_object_is_readable_json_and_comes_back() -> None:
    raw = encode(POLICY)
    assert json.loads(raw)["manifest"]["metadata"]["name"] == "web"
    assert encode(decode_object(POLICY.key, raw)) == raw
    assert POLICY.key == "/muslin/policy/v1/objects/NetworkPolicy/shop/web"
    assert record(namespace("shop")).key == "/muslin/policy/v1/objects/Namespace/_/shop"


@pytest.mark.parametrize("value", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"kind": 1}',
                                   encode(record(network_policy("shop", "other", {})))])
def test_damaged_objects(value: bytes) -> None:
    with pytest.raises(Corrupt, match="/muslin/policy/v1/objects/NetworkPolicy/shop/web"):
        decode_object(POLICY.key, value)


@pytest.mark.parametrize(("manifest", "text"), [
    (b"", "manifest: is not JSON"), (b"{", "manifest: is not JSON"), (b"[" * 100_000, "manifest: is not JSON"),
    (b"\xff", "manifest: is not JSON"), (b" " * (1 << 20) + b"{}", "bytes are more than 1048576"),
    (b"null", "must be an object, is null"),
])
def test_a_manifest_that_is_none_is_refused(manifest: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(text)):
        msgspec.structs.replace(POLICY, manifest=msgspec.Raw(manifest)).translate()


def test_a_networks_profile_lets_its_own_members_in() -> None:
    profile = decode_profile("/muslin/policy/v1/profiles/net", encode(network_profile("net", kubernetes=False)))
    label = "projectcalico.org/profile.net"
    assert profile == Profile("net", {label: ""}, (Rule(Action.ALLOW, "ingress[0]", peer=parse(f"has({label})")),),
                              (Rule(Action.ALLOW, "egress[0]"),), "profile net")


def test_a_networks_profile_under_kubernetes_lets_everybody_in() -> None:
    profile = decode_profile("/muslin/policy/v1/profiles/net", encode(network_profile("net", kubernetes=True)))
    assert profile.ingress == (Rule(Action.ALLOW, "ingress[0]"),)


@pytest.mark.parametrize(("name", "value"), [
    ("net", b"{}"), ("net", b"x"),
    ("net", b'{"labels": {}, "ingress": [{"action": "allow", "ports": [80]}], "egress": []}'),  # would match more
    ("net", b'{"labels": {}, "ingress": [{"action": "permit"}], "egress": []}'),
    ("net", b'{"labels": {}, "ingress": [{"action": "allow", "selector": "a =="}], "egress": []}'),
    ("k8s_ns.shop", encode(network_profile("k8s_ns.shop", kubernetes=True))),
])
def test_a_profile_that_is_not_understood_whole_is_refused(name: str, value: bytes) -> None:
    with pytest.raises(Corrupt, match=f"profiles/{name}"):
        decode_profile(keys.profile(name), value)


def test_a_profile_gives_no_label_of_another_kind() -> None:
    raw = json.loads(encode(network_profile("net", kubernetes=True)))
    raw["labels"]["pcns.team"] = "x"
    assert "pcns.team" not in decode_profile(keys.profile("net"), json.dumps(raw).encode()).labels


def test_objects_and_profiles_become_events() -> None:
    sources = Sources()
    profile = keys.profile("net")
    events = sources.take([stored(POLICY.key, encode(POLICY)),
                           stored(profile, encode(network_profile("net", kubernetes=True)))])
    assert [event.resource.id for event in events if isinstance(event, ResourcePut)] == [
        "default/knp.default.shop.web", "profile/net"]
    assert [item.ref for item in sources.objects()] == [Ref("NetworkPolicy", "shop", "web")]
    assert sources.take([gone(POLICY.key), gone(profile)]) == [
        ResourceGone("default/knp.default.shop.web"), ResourceGone("profile/net")]
    assert sources.objects() == []
    assert sources.take([gone(POLICY.key), gone(profile)]) == []


def test_what_can_not_be_understood_leaves_the_old_in_force() -> None:
    """And is listed; a good version afterwards takes the place of both."""
    sources = Sources()
    sources.take([stored(POLICY.key, encode(POLICY))])
    bad = record(network_policy("shop", "web", {"ingress": [{"form": []}]}))
    assert sources.take([stored(POLICY.key, encode(bad))]) == []
    ((ref, condition),) = sources.conditions()
    assert ref == Ref("NetworkPolicy", "shop", "web")
    assert "spec.ingress[0].form: unknown field" in condition.message
    assert "the version before it is in force" in condition.message
    (event,) = sources.take([stored(POLICY.key, encode(POLICY))])
    assert isinstance(event, ResourcePut)
    assert sources.conditions() == []


def test_what_is_no_policy_and_was_never_understood_is_deleted_without_an_event() -> None:
    """A namespace that is not there closes by itself: its pods' profile is missing, which drops."""
    sources = Sources()
    key = record(namespace("shop")).key
    assert sources.take([stored(key, b"x")]) == []
    assert "it is not in force" in sources.conditions()[0][1].message
    assert sources.take([gone(key)]) == []
    assert sources.conditions() == []


SHOP = "projectcalico.org/namespace == 'shop'"
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS


@pytest.mark.parametrize(("manifest", "selector", "directions", "tier"), [
    (network_policy("shop", "p", {"podSelector": {"matchLabels": {"a": "1"}}, "ingress": [{"form": []}]}),
     f"{SHOP} && a == '1'", {INGRESS}, "default"),
    (network_policy("shop", "p", {"ingress": [{"form": []}], "egress": [{}], "policyTypes": ["Egress"]}), SHOP,
     {EGRESS}, "default"),
    (network_policy("shop", "p", {"ingress": [{}], "egress": [{"to": 7}]}), SHOP, {INGRESS, EGRESS}, "default"),
    (network_policy("shop", "p", {"podSelector": {"matchLabels": {"a": "1"}}, "policyTypes": ["Sideways"]}),
     f"{SHOP} && a == '1'", {INGRESS, EGRESS}, "default"),
    (network_policy("shop", "p", {"podSelector": {"matchFields": {}}}), SHOP, {INGRESS, EGRESS}, "default"),
    ({**network_policy("shop", "p", {}), "spec": []}, SHOP, {INGRESS, EGRESS}, "default"),
    (calico("NetworkPolicy", "p", {"selector": "a == '1'", "tier": "t", "egress": [{"action": "Shrug"}],
                                   "types": ["Egress"]}, "shop"), f"{SHOP} && a == '1'", {EGRESS}, "t"),
    (calico("GlobalNetworkPolicy", "p", {"selector": "a ~ '1'", "namespaceSelector": "b == '2'"}), "all()",
     {INGRESS, EGRESS}, "_closed"),
])
def test_a_policy_that_was_never_understood_isolates_what_it_is_for(manifest: dict[str, Any], selector: str,
                                                                   directions: set[Direction], tier: str) -> None:
    """As after a restart: left out it would open what it shut. A good version takes its place; deleted, it is gone."""
    ref = ref_of(manifest)
    item = Object(ref.kind, ref.namespace, ref.name, "a.yaml", msgspec.Raw(json.dumps(manifest).encode()))
    sources = Sources()
    (event,) = sources.take([stored(item.key, encode(item))])
    assert isinstance(event, ResourcePut)
    made = event.resource
    assert isinstance(made, Policy)
    assert (str(made.selector), set(made.directions)) == (selector, directions)
    for way in Direction:
        rules = made.ingress if way is INGRESS else made.egress
        assert rules == ((Rule(Action.DENY),) if way in directions and ref.kind != "NetworkPolicy" else ())
    assert made.tier.name == tier
    assert len(sources.conditions()) == (2 if tier == "t" else 1), "and that there is no tier t"
    (status,) = sources.policies()
    assert (status.accepted, status.closed, status.policy, status.origin) == (False, True, made.id, "a.yaml")
    assert f"nothing is allowed by it to what it is for: {selector}" in status.conditions[0].message
    good = calico("GlobalNetworkPolicy", "p", {}) if not ref.namespace else manifest | {"spec": {}}
    events = sources.take([stored(item.key, encode(msgspec.structs.replace(
        item, manifest=msgspec.Raw(json.dumps(good).encode()))))])
    assert isinstance(events[-1], ResourcePut)
    assert events[:-1] == ([ResourceGone(made.id)] if events[-1].resource.id != made.id else [])
    assert not sources.policies()[0].closed
    assert sources.take([gone(item.key)]) == [ResourceGone(events[-1].resource.id)]


def test_a_policy_that_denied_is_not_passed_by_what_comes_after_it() -> None:
    """Its place is known, or it comes before everything."""
    after = calico("GlobalNetworkPolicy", "after", {"order": 9, "ingress": [{"action": "Allow"}]})
    for spec in ({"tier": "t", "order": 5, "ingress": [{"action": "Refuse"}]}, {"tier": "t", "order": "5"}):
        bad = calico("GlobalNetworkPolicy", "bad", spec)
        sources = Sources()
        cluster = Cluster([Pod("shop", "a", "10.0.0.1"), Pod("shop", "b", "10.0.0.2")], [
            namespace("shop"), calico("Tier", "t", {"order": 1}), after])
        assert cluster.allowed("shop/a", "shop/b", 80)
        item = Object("GlobalNetworkPolicy", "", "bad", "", msgspec.Raw(json.dumps(bad).encode()))
        cluster.engine.handle(sources.take([stored(item.key, encode(item))]))
        cluster.view = View(cluster.engine.programs.values())
        assert not cluster.allowed("shop/a", "shop/b", 80)


@pytest.mark.parametrize("value", [b"x", b"{}"])
def test_a_record_that_is_none_isolates_the_namespace(value: bytes) -> None:
    sources = Sources()
    (event,) = sources.take([stored(POLICY.key, value)])
    assert isinstance(event, ResourcePut)
    assert event.resource == Policy("knp.default.shop.web", parse(SHOP), frozenset(Direction))
    assert sources.objects() == []
    # A stand-in is no version that could stay in force.
    narrower = record(network_policy("shop", "web", {"podSelector": {"matchLabels": {"a": "1"}}, "ingress": [7]}))
    (event,) = sources.take([stored(POLICY.key, encode(narrower))])
    assert isinstance(event, ResourcePut)
    assert isinstance(event.resource, Policy)
    assert str(event.resource.selector) == f"{SHOP} && a == '1'"
    assert sources.take([gone(POLICY.key)]) == [ResourceGone("default/knp.default.shop.web")]


@pytest.mark.parametrize("key", ["/muslin/policy/v1/objects/x", "/muslin/policy/v1/profiles/a/b",
                                 "/muslin/policy/v2/objects/NetworkPolicy/shop/web"])
def test_keys_of_nobody_we_know_are_passed_over(key: str) -> None:
    sources = Sources()
    assert sources.take([stored(key, b"{}"), gone(key)]) == []
    assert sources.conditions() == []


def test_requests_are_checked_whole() -> None:
    objects, conditions = checked([message(namespace("shop")), message(network_policy("shop", "web", ZERO))])
    assert [item.ref.name for item in objects] == ["shop", "web"]
    assert [condition.path for _, condition in conditions] == [
        "spec.ingress[0].from[0].ipBlock.cidr", "spec.ingress[0]"]


def test_a_refusal_names_every_object_with_its_origin() -> None:
    bad = network_policy("shop", "bad", {"ingress": [{"ports": [{"port": 0}]}]})
    with pytest.raises(InvalidArgument) as caught:
        checked([message(namespace("shop")), message(bad), message({**namespace("X"), "apiVersion": "v2"}),
                 message(namespace("shop"), "b.yaml, document 2")])
    assert caught.value.message.splitlines() == [
        "a.yaml, document 1: NetworkPolicy shop/bad: spec.ingress[0].ports[0].port: 0 is not a port: use 1 to 65535",
        ("a.yaml, document 1: Namespace X: metadata.name: 'X' must be 1 to 63 lower-case letters, digits or '-', with "
         "a letter or digit at both ends"),
        "b.yaml, document 2: Namespace shop: is there twice (also in a.yaml, document 1); remove one"]


def test_a_refusal_has_an_end() -> None:
    with pytest.raises(InvalidArgument) as caught:
        checked(message(network_policy("shop", f"p{i}", {"ingress": [{"x" * 9000: 1}]})) for i in range(30))
    lines = caught.value.message.splitlines()
    assert len(lines) == MAX_COMPLAINTS + 1
    assert lines[-1] == "and 10 more"
    assert len(caught.value.message) < 8000


def test_batches_fit_into_transactions_and_lose_nothing() -> None:
    puts = [Put(str(i), b"x" * (i * 1000)) for i in range(400)]
    made = list(batches(puts))
    assert [put for batch in made for put in batch] == puts
    assert all(len(batch) <= MAX_OPERATIONS for batch in made)
    assert all(sum(len(put.value) for put in batch) <= MAX_BYTES for batch in made)
    assert list(batches([])) == []


def test_a_translation_keeps_the_origin() -> None:
    resource = record(network_policy("shop", "web", {}), "b.yaml, document 7").translate().resource
    assert isinstance(resource, Policy)
    assert replace(resource, origin="") != resource
    assert resource.origin == "b.yaml, document 7"
