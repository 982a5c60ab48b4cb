"""Policies of an API server that can not be stored or read: what is kept of them closes, and says why."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from muslin.errors import InvalidArgument
from muslin.etcd import KeyValue
from muslin.etcd.mirror import Change
from muslin.kube import kinds
from muslin.kube.kinds import Kind, Manifest, Meta, Plain
from services.policy import records
from services.policy.kubernetes import converted, key_of, stand_in
from services.policy.model import Action, Direction, Policy
from services.policy.records import MAX_MANIFEST, Object
from services.policy.sources import Sources

CALICO = kinds.CALICO_NETWORK_POLICIES
LONG = [{"to": [{"ipBlock": {"cidr": f"10.{number >> 8}.{number & 255}.0/24"}}]} for number in range(30_000)]


def policy(kind: Kind[Any], **spec: Any) -> Object:
    item = Manifest(Meta("web", "shop"), msgspec.Raw(msgspec.json.encode(spec)))
    made = converted(kind, item)
    assert made is not None
    assert made.key == key_of(kind, ("shop", "web"))
    return made


def force(made: Object) -> tuple[Policy, Sources]:
    """What it comes to in a process that knows of no version before."""
    sources = Sources()
    (event,) = sources.take([Change(made.key, None, KeyValue(made.key, records.encode(made), 1, 1))])
    resource = getattr(event, "resource", None)
    assert isinstance(resource, Policy)
    return resource, sources


@pytest.mark.parametrize(("spec", "ways"), [
    ({"podSelector": {"matchLabels": {"app": "a"}}, "egress": LONG}, {Direction.INGRESS, Direction.EGRESS}),
    ({"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Egress"], "egress": LONG}, {Direction.EGRESS}),
])
def test_a_policy_that_is_too_long_isolates_what_it_is_for(spec: dict[str, Any], ways: set[Direction]) -> None:
    made = policy(kinds.NETWORK_POLICIES, **spec)
    assert len(bytes(made.manifest)) < 1000
    closed, sources = force(made)
    assert set(closed.directions) == ways
    assert (closed.ingress, closed.egress) == ((), ())
    assert "app == 'a'" in str(closed.selector)
    (status,) = sources.noted()
    assert (status.accepted, status.closed) == (False, True)
    assert f"and {MAX_MANIFEST} are the most; split it" in status.conditions[0].message


def test_one_of_calicos_denies_in_its_place() -> None:
    made = policy(CALICO, selector="app == 'a'", tier="t", order=7, egress=[
        {"action": "Allow", "destination": {"nets": [f"192.168.{n >> 8}.{n & 255}/32" for n in range(65_536)]}}])
    closed, _ = force(made)
    assert (closed.tier.name, closed.order) == ("t", 7)
    assert [rule.action for rule in closed.egress] == [Action.DENY]
    assert "app == 'a'" in str(closed.selector)


def test_where_even_what_it_is_for_is_too_long_it_is_for_all_of_its_namespace() -> None:
    made = policy(kinds.NETWORK_POLICIES, podSelector={"matchLabels": {f"k{n}": "v" * 60 for n in range(20_000)}})
    closed, _ = force(made)
    assert set(closed.directions) == {Direction.INGRESS, Direction.EGRESS}
    assert "k1" not in str(closed.selector)


def test_what_is_no_policy_is_refused_when_it_is_too_long() -> None:
    item = Plain(Meta("shop", labels={f"k{n}": "v" * 60 for n in range(20_000)}))
    with pytest.raises(InvalidArgument, match="are the most"):
        converted(kinds.NAMESPACES, item)


def test_a_policy_that_does_not_decode_isolates_its_namespace() -> None:
    made = stand_in(kinds.NETWORK_POLICIES, ("shop", "web"), "it does not decode")
    assert made is not None
    closed, sources = force(made)
    assert set(closed.directions) == {Direction.INGRESS, Direction.EGRESS}
    assert "shop" in str(closed.selector)
    assert "it does not decode" in sources.noted()[0].conditions[0].message
    assert stand_in(kinds.NAMESPACES, ("", "shop"), "why") is None
    assert stand_in(kinds.CALICO_TIERS, ("", "t"), "why") is None


def test_the_version_before_stays_in_force() -> None:
    sources = Sources()
    key = key_of(kinds.NETWORK_POLICIES, ("shop", "web"))
    good = policy(kinds.NETWORK_POLICIES, podSelector={}, egress=[{}])
    bad = policy(kinds.NETWORK_POLICIES, podSelector={}, egress=LONG)
    before, after = (KeyValue(key, records.encode(each), 1, number) for number, each in enumerate((good, bad)))
    assert len(sources.take([Change(key, None, before)])) == 1
    assert sources.take([Change(key, before, after)]) == []
    (status,) = sources.noted()
    assert (status.accepted, status.closed) == (False, False)
