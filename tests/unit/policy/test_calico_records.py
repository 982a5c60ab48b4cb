"""Records of Calico's objects: tiers that must be there, policies that move, profiles that take a network's place."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from muslin.api.policy.v1 import policy_pb2
from muslin.errors import InvalidArgument
from muslin.etcd import KeyValue, keys
from muslin.etcd.mirror import Change
from services.policy.events import ResourceGone, ResourcePut
from services.policy.model import Profile
from services.policy.policies import checked
from services.policy.records import Object, encode, network_profile
from services.policy.sources import Sources
from tests.unit.policy.cluster import calico, put, ref_of, service_account

IN_TIER = calico("GlobalNetworkPolicy", "p", {"tier": "t"})
TIER = calico("Tier", "t", {"order": 1})


def record(manifest: dict[str, Any]) -> Object:
    ref = ref_of(manifest)
    return Object(ref.kind, ref.namespace, ref.name, "a.yaml, document 1", msgspec.Raw(json.dumps(manifest).encode()))


def message(manifest: dict[str, Any]) -> policy_pb2.Object:
    made = record(manifest)
    return policy_pb2.Object(kind=made.kind, namespace=made.namespace, name=made.name, origin=made.origin,
                             manifest=bytes(made.manifest))


def stored(manifest: dict[str, Any]) -> Change:
    made = record(manifest)
    return Change(made.key, None, KeyValue(made.key, encode(made), 1, 1))


def gone(manifest: dict[str, Any]) -> Change:
    made = record(manifest)
    return Change(made.key, KeyValue(made.key, b"", 1, 1), None)


def test_a_policy_needs_its_tier_in_the_request_or_in_the_store() -> None:
    with pytest.raises(InvalidArgument, match=re.escape("GlobalNetworkPolicy p: spec.tier: there is no Tier t")):
        checked([message(IN_TIER)])
    assert len(checked([message(IN_TIER), message(TIER)])[0]) == 2
    assert len(checked([message(IN_TIER)], {"default", "t"})[0]) == 1


def test_both_kinds_that_are_called_network_policy_are_kept_apart() -> None:
    made = record(calico("NetworkPolicy", "web", {}, "shop"))
    assert made.key == "/muslin/policy/v1/objects/NetworkPolicy.projectcalico.org/shop/web"
    assert record(service_account("shop", "web", {})).key == "/muslin/policy/v1/objects/ServiceAccount/shop/web"


def test_a_policy_that_moves_to_another_tier_leaves_the_one_it_was_in() -> None:
    sources = Sources()
    sources.take([stored(TIER), stored(IN_TIER)])
    moved = calico("GlobalNetworkPolicy", "p", {"tier": "default"})
    assert sources.take([stored(moved)]) == [ResourceGone("t/p"), put(moved, "a.yaml, document 1")]
    assert (sources.in_tier("t"), sources.in_tier("default")) == ([], [ref_of(moved)])


def test_a_new_version_that_is_bad_leaves_the_old_one_in_force() -> None:
    sources = Sources()
    sources.take([stored(TIER), stored(IN_TIER)])
    bad = calico("GlobalNetworkPolicy", "p", {"tier": "t", "selector": "a = b"})
    assert sources.take([stored(bad)]) == []
    (status,) = sources.policies()
    assert (status.accepted, status.policy) == (False, "t/p")
    assert "the version before it is in force" in status.conditions[0].message
    assert sources.take([stored(IN_TIER)]) == [put(IN_TIER, "a.yaml, document 1")]
    assert sources.policies()[0].accepted


def test_a_policy_whose_tier_has_gone_says_so() -> None:
    sources = Sources()
    sources.take([stored(TIER), stored(IN_TIER)])
    assert sources.conditions() == []
    sources.take([gone(TIER)])
    ((ref, condition),) = sources.conditions()
    assert (ref, condition.path) == (ref_of(IN_TIER), "spec.tier")
    assert sources.tiers() == {"default"}


def test_a_profile_that_is_applied_takes_the_place_of_a_network_s_own() -> None:
    key = keys.profile("net")
    network = Change(key, None, KeyValue(key, encode(network_profile("net", kubernetes=False)), 1, 1))
    declared = calico("Profile", "net", {"ingress": [{"action": "Deny"}]})
    for first in (True, False):
        sources = Sources()
        events = sources.take([network, stored(declared)] if first else [stored(declared), network])
        assert events[-1] == put(declared, "a.yaml, document 1")
        (back,) = sources.take([gone(declared)])
        assert isinstance(back, ResourcePut)
        assert isinstance(back.resource, Profile)
        assert back.resource.origin == "profile net"
        assert sources.take([Change(key, network.new, None)]) == [ResourceGone("profile/net")]
