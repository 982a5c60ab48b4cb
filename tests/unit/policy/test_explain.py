"""Explain names what decided, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from muslin.selectors import parse
from services.policy.engine import Engine
from services.policy.events import EndpointPut, Event, ResourcePut
from services.policy.explain import Packet, Place, View, decide, explain
from services.policy.model import Action, Direction, Policy, PortRange, Profile, Rule, Tier
from services.policy.program import EMPTY, CompiledEndpoint, TierPolicies
from tests.unit.policy.cluster import Cluster, Pod, namespace, network_policy, put

WEB = Pod("x", "web", "10.0.0.1", {"app": "web"})
CLIENT = Pod("x", "client", "10.0.0.2", {"app": "client"}, node="n2")
POLICY = network_policy("x", "web", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
    {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80, "endPort": 89}]},
    {"from": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}}]}]})


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster([WEB, CLIENT], [namespace("x"), POLICY])


def test_both_sides_of_a_flow_that_passes(cluster: Cluster) -> None:
    answer = cluster.explain("x/client", "x/web", 80)
    out, into = answer.steps
    assert answer.allowed
    assert (out.endpoint, out.direction, out.tier, out.policy, out.rule) == (
        "x/client", Direction.EGRESS, "", "k8s_ns.x", "egress[0]")
    assert (into.endpoint, into.direction, into.tier, into.policy, into.rule) == (
        "x/web", Direction.INGRESS, "default", "knp.default.x.web", "spec.ingress[0]")
    assert into.reason == (
        "spec.ingress[0] of policy knp.default.x.web allows TCP port 80 from 10.0.0.2: it matches peers with "
        "app == 'client' && projectcalico.org/namespace == 'x'; TCP ports 80-89")


def test_the_end_of_a_tier_drops(cluster: Cluster) -> None:
    answer = cluster.explain("x/client", "x/web", 90)
    into = answer.steps[-1]
    assert not answer.allowed
    assert (into.tier, into.policy, into.rule) == ("default", "knp.default.x.web", "")
    assert into.reason == ("knp.default.x.web isolates ingress of x/web, and no rule matches TCP port 90 from 10.0.0.2")


def test_addresses_that_are_no_endpoints(cluster: Cluster) -> None:
    """Only the endpoint's side is judged."""
    answer = cluster.explain("203.0.113.5", "x/web", 443, "UDP")
    assert (answer.allowed, [step.rule for step in answer.steps]) == (True, ["spec.ingress[1]"])
    assert "addresses in 203.0.113.0/24; except 203.0.113.128/25" in answer.steps[0].reason
    assert cluster.explain("203.0.113.200", "x/web", 443).allowed is False
    assert cluster.explain("x/client", "8.8.8.8", 53, "UDP").allowed is True


def test_the_address_of_a_pod_is_the_pod(cluster: Cluster) -> None:
    assert cluster.explain("x/client", "x/web", 80) == cluster.explain("10.0.0.2", "10.0.0.1", 80)


def test_nobody_here_decides_between_strangers(cluster: Cluster) -> None:
    answer = cluster.explain("8.8.8.8", "9.9.9.9", 1)
    assert (answer.allowed, answer.steps) == (None, ())


def test_a_pod_reaches_itself(cluster: Cluster) -> None:
    """Kubernetes: a pod can not block access to itself; its packets never leave it."""
    answer = cluster.explain("x/web", "x/web", 9999)
    assert answer.allowed
    assert "does not leave" in answer.steps[0].reason


def test_what_egress_drops_does_not_reach_ingress() -> None:
    deny = network_policy("x", "deny", {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]})
    answer = Cluster([WEB, CLIENT], [namespace("x"), deny]).explain("x/client", "x/web", 80)
    assert (answer.allowed, [step.direction for step in answer.steps]) == (False, [Direction.EGRESS])


def test_the_origin_of_the_deciding_object() -> None:
    engine = Engine()
    engine.handle([EndpointPut(WEB.endpoint()), put(namespace("x"), "ns.yaml, document 1"),
                   put(POLICY, "web.yaml, document 3")])
    view = View(engine.programs.values())
    place = view.workload("x/web")
    packet = Packet("10.0.0.9", "10.0.0.1", 6, 80)
    assert explain(packet, None, place).steps[0].origin == "web.yaml, document 3"
    assert explain(packet, place, None).steps[0].origin == "ns.yaml, document 1"


def test_a_missing_profile_drops() -> None:
    answer = Cluster([WEB], []).explain("8.8.8.8", "x/web", 80)
    assert not answer.allowed
    assert answer.steps[0].policy == "k8s_ns.x"
    assert answer.steps[0].reason == (
        "no policy isolates ingress of x/web, and its profile k8s_ns.x is missing, which drops")


def test_no_profile_drops() -> None:
    answer = Cluster([replace(WEB, profiles=())], []).explain("8.8.8.8", "x/web", 80)
    assert answer.steps[0].reason == "no policy isolates ingress of x/web, and it has no profile"
    assert not answer.allowed


def test_of_two_records_of_one_pod_the_younger_counts() -> None:
    """The old container's record is still there when the new one's is stored."""
    old = replace(WEB.endpoint(), revision=5, addresses=("10.0.0.7",))
    new = replace(WEB.endpoint(), revision=6, attachment=old.attachment._replace(container_id="a-new-one"))
    engine = Engine()
    engine.handle([EndpointPut(new), EndpointPut(old)])
    place = View(engine.programs.values()).workload("x/web")
    assert place is not None
    assert place.endpoint.attachment == new.attachment


PACKET = Packet("8.8.8.8", "10.0.0.1", 6, 80)
T1, T2 = Tier("t1", 1), Tier("t2", 2)


def ingress(*rules: Rule, name: str = "p", tier: Tier = T1, order: float = 1) -> ResourcePut:
    return ResourcePut(Policy(name, parse("all()"), frozenset({Direction.INGRESS}), rules, tier=tier, order=order))


def profile(name: str, *rules: Rule) -> ResourcePut:
    return ResourcePut(Profile(name, ingress=rules))


ALLOW, DENY, PASS, LOG = (Rule(action, path=f"rules[{action.value}]") for action in Action)
OTHER = Rule(Action.ALLOW, protocol=6, ports=(PortRange(1, 2),))


@pytest.mark.parametrize(("events", "allowed", "decider"), [
    ([ingress(ALLOW)], True, "p"),
    ([ingress(DENY)], False, "p"),
    ([ingress(DENY, ALLOW)], False, "p"),
    ([ingress(LOG, ALLOW)], True, "p"),  # Log never decides
    ([ingress(LOG)], False, "p"),  # end of the tier
    ([ingress(OTHER, name="a"), ingress(ALLOW, name="b")], True, "b"),
    ([ingress(DENY, name="a", order=2), ingress(ALLOW, name="b", order=1)], True, "b"),
    ([ingress(ALLOW, name="a", order=2), ingress(DENY, name="b", order=1)], False, "b"),
    ([ingress(PASS), ingress(ALLOW, name="q", tier=T2)], True, "q"),
    ([ingress(PASS), ingress(DENY, name="q", tier=T2)], False, "q"),
    ([ingress(PASS, name="a"), ingress(DENY, name="b")], False, "one"),  # Pass skips the rest of its tier
    ([ingress(ALLOW), ingress(DENY, name="q", tier=T2)], True, "p"),  # Allow is final
    ([ingress(PASS), profile("one", ALLOW)], True, "one"),  # after the last tier: the profiles
    ([ingress(OTHER), profile("one", ALLOW)], False, "p"),  # a tier that did not decide drops before them
    ([profile("one", ALLOW)], True, "one"),
    ([profile("one", DENY), profile("two", ALLOW)], False, "one"),
    ([profile("one", PASS), profile("two", ALLOW)], False, "one"),
    ([profile("one"), profile("two", ALLOW)], True, "two"),
    ([profile("one", OTHER), profile("two", LOG)], False, ""),
    ([profile("two", ALLOW)], False, "one"),  # the missing one comes first
])
def test_policy_then_profile(events: list[Event], allowed: bool, decider: str) -> None:
    engine = Engine()
    engine.handle([EndpointPut(replace(WEB, profiles=("one", "two")).endpoint()), *events])
    place = View(engine.programs.values()).workload("x/web")
    assert place is not None
    step = decide(place, Direction.INGRESS, PACKET)
    assert (allowed, decider) == (step.allowed, step.policy)


def test_a_policy_that_is_named_and_missing_drops() -> None:
    endpoint = CompiledEndpoint(WEB.endpoint().attachment, "i", ("10.0.0.1",), (TierPolicies("t", ("t/gone",)),), (),
                                (), "x/web")
    step = decide(Place(endpoint, EMPTY), Direction.INGRESS, PACKET)
    assert (step.allowed, step.policy) == (False, "t/gone")
    assert "missing" in step.reason
