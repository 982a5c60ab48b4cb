"""The engine: one state, one set of programs; updates lead from one to the next; nothing is sent in vain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muslin.selectors import parse
from services.policy.engine import Engine
from services.policy.events import EndpointGone, EndpointPut, Event, ResourceGone, ResourcePut
from services.policy.labels import PROFILE_PREFIX
from services.policy.members import Members
from services.policy.model import Action, Attachment, Direction, NamedPort, Policy, Profile, Rule, Tier
from services.policy.program import (
    EMPTY,
    CompiledEndpoint,
    CompiledPolicy,
    CompiledRule,
    Group,
    GroupChange,
    GroupKind,
    Program,
    TierPolicies,
    Update,
    apply,
    diff,
)
from tests.unit.policy.cluster import Cluster, Pod, namespace, network_policy, put, service_account
from tests.unit.policy.strategies import PODS, pods, policies, spaces

TIERS = (Tier("default", 1_000_000), Tier("t", 1), Tier("u", 2, Action.PASS))
SELECTORS = ("all()", "global()", "app == '1'", "app in {'1', '2'}", "has(tier)", "!has(tier)", "app != '1'",
             "app == '1' && has(pcsa.role)", "pcsa.role == 'a' || pcns.app == '1'", "app contains '1'")
"""One of each kind that is filed differently."""


def calico_policies() -> st.SearchStrategy[Event]:
    """Policies as Calico's resources give them, of which some differ in nothing but place, order or rules."""
    rules = st.lists(st.sampled_from(SELECTORS).map(lambda text: Rule(Action.ALLOW, "r", peer=parse(text))), max_size=2)
    return st.builds(lambda name, selector, tier, order, directions, ingress: ResourcePut(Policy(
        name, parse(selector), frozenset(directions), tuple(ingress), tier=tier, order=order)),
        st.sampled_from("vw"), st.sampled_from(SELECTORS), st.sampled_from(TIERS), st.sampled_from([1, 2]),
        st.sets(st.sampled_from(Direction), min_size=1), rules)


EVENTS: st.SearchStrategy[Event] = st.one_of(
    calico_policies(),
    st.builds(lambda name, tier: ResourceGone(f"{tier.name}/{name}"), st.sampled_from("vw"), st.sampled_from(TIERS)),
    st.builds(Tier, st.sampled_from("tu"), st.sampled_from([1, 3]), st.sampled_from([Action.DENY, Action.PASS])).map(
        ResourcePut),
    st.sampled_from("tu").map(lambda name: ResourceGone(f"tier:{name}")),
    st.sampled_from("ab").map(lambda role: put(service_account("x", "default", {"role": role}))),
    # The record of a container that is gone, with the address that another has now.
    st.sampled_from(PODS).flatmap(pods).map(lambda pod: EndpointPut(replace(
        pod.endpoint(), attachment=Attachment("net", "stale", "eth0"), interface="calistale"))),
    st.just(EndpointGone(Attachment("net", "stale", "eth0"))),
    st.sampled_from(PODS).flatmap(pods).map(lambda pod: EndpointPut(pod.endpoint())),
    st.sampled_from(PODS).flatmap(pods).map(lambda pod: EndpointGone(pod.endpoint().attachment)),
    policies().map(put), spaces().map(put),
    st.one_of(policies(), spaces()).map(lambda manifest: ResourceGone(put(manifest).resource.id)),
)


def key(event: Event) -> object:
    """What an event is about."""
    match event:
        case EndpointPut(endpoint):
            return endpoint.attachment
        case EndpointGone(attachment):
            return attachment
        case ResourcePut(resource):
            return resource.id
        case ResourceGone(resource_id):
            return resource_id


def fresh(events: list[Event]) -> dict[str, Program]:
    """The programs that an engine has which sees only the last event about each thing, all at once."""
    engine = Engine()
    engine.handle({key(event): event for event in events}.values())
    return dict(engine.programs)


@settings(deadline=None)
@given(st.lists(st.lists(EVENTS, max_size=4), max_size=8))
def test_any_way_to_a_state_gives_the_same_programs_and_updates_lead_there(batches: list[list[Event]]) -> None:
    engine = Engine()
    nodes: dict[str, Program] = {}
    for batch in batches:
        for node, update in engine.handle(batch).items():
            assert update
            nodes[node] = apply(nodes.get(node, EMPTY), update)
        assert {node: program for node, program in nodes.items() if program != EMPTY} == dict(engine.programs)
    assert fresh([event for batch in batches for event in batch]) == dict(engine.programs)


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(events: list[Event], random: Any) -> None:
    last = list({key(event): event for event in events}.values())
    expected = fresh(last)
    random.shuffle(last)
    assert expected == fresh(last)


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=12), st.lists(EVENTS, max_size=12))
def test_a_difference_leads_from_one_program_to_any_other(first: list[Event], second: list[Event]) -> None:
    """Even between unrelated ones, as when a slow node skips many."""
    old, new = fresh(first).get("n1", EMPTY), fresh(second).get("n1", EMPTY)
    assert new == apply(old, diff(old, new))
    assert not diff(new, new)


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_a_program_holds_what_its_endpoints_need_and_no_more(events: list[Event]) -> None:
    for node, program in fresh(events).items():
        assert program.endpoints, node
        used = {p for e in program.endpoints.values() for t in (*e.ingress, *e.egress) for p in t.policies}
        assert {k for k in program.policies if not k.startswith("profile/")} == used
        assert {k for k in program.policies if k.startswith("profile/")} <= {
            p for e in program.endpoints.values() for p in e.profiles}
        groups = {g for p in program.policies.values() for r in (*p.ingress, *p.egress)
                  for g in (r.peer_group, r.port_group) if g}
        assert set(program.groups) == groups


def test_forgetting_everything_leaves_nothing() -> None:
    """Neither programs nor counts: the engine does not grow with history."""
    pod = Pod("x", "a", "10.0.0.1", {"app": "1"})
    objects = [put(namespace("x")), put(network_policy("x", "p", {"ingress": [
        {"from": [{"podSelector": {}}], "ports": [{"port": "web"}]}]}))]
    engine = Engine()
    engine.handle([EndpointPut(pod.endpoint()), *objects])
    update = engine.handle([EndpointGone(pod.endpoint().attachment),
                            *(ResourceGone(event.resource.id) for event in objects)])
    assert update["n1"].removed_endpoints == (pod.endpoint().attachment,)
    assert not engine.programs
    assert set(engine.counts().values()) == {0}


WEB = Pod("x", "web", "10.0.0.1", {"app": "web"}, (NamedPort("http", 6, 8080),))
CLIENT = Pod("x", "client", "10.0.0.2", {"app": "client"}, node="n2")
OBJECTS = [put(namespace("x")), put(network_policy("x", "web", {
    "podSelector": {"matchLabels": {"app": "web"}},
    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "http"}]}]}))]


def test_a_program_in_full() -> None:
    engine = Engine()
    engine.handle([EndpointPut(WEB.endpoint()), EndpointPut(CLIENT.endpoint()), *OBJECTS])
    program = engine.program("n1")
    clients, ports = sorted(program.groups.values(), key=lambda group: group.id)
    assert clients == Group(clients.id, GroupKind.ADDRESS, Members({"10.0.0.2"}),
                            "app == 'client' && projectcalico.org/namespace == 'x'")
    assert ports == Group(ports.id, GroupKind.PORT, Members({"10.0.0.1,6,8080"}),
                          "port http of app == 'web' && projectcalico.org/namespace == 'x'")
    assert len(clients.id) <= 31  # what nf_tables' older tools take as a name
    assert program.policies == {
        "default/knp.default.x.web": CompiledPolicy(
            "default/knp.default.x.web", "knp.default.x.web",
            (CompiledRule(Action.ALLOW, "spec.ingress[0]", 6, clients.id, port_group=ports.id),), ()),
        "profile/k8s_ns.x": CompiledPolicy(
            "profile/k8s_ns.x", "k8s_ns.x", (CompiledRule(Action.ALLOW, "ingress[0]"),),
            (CompiledRule(Action.ALLOW, "egress[0]"),)),
    }
    endpoint = WEB.endpoint()
    assert program.endpoints == {endpoint.attachment: CompiledEndpoint(
        endpoint.attachment, "calixweb", ("10.0.0.1",), (TierPolicies("default", ("default/knp.default.x.web",)),), (),
        ("profile/k8s_ns.x",), "x/web")}
    assert engine.program("n2").groups == {}  # the client's node needs none of it


def test_a_named_port_of_egress_is_of_the_selected_peers_only() -> None:
    """Each destination has its own number under the name, and one that is not selected has none."""
    policy = network_policy("x", "out", {"podSelector": {"matchLabels": {"app": "client"}}, "egress": [
        {"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "http"}]},
        {"to": [{"ipBlock": {"cidr": "10.0.0.4/32"}}], "ports": [{"port": "http"}]}]})
    other = Pod("x", "other", "10.0.0.3", {"app": "other"}, (NamedPort("http", 6, 8080),))
    inside = Pod("y", "inside", "10.0.0.4", {}, (NamedPort("http", 6, 9090),))
    cluster = Cluster([WEB, CLIENT, other, inside], [namespace("x"), namespace("y"), policy])
    assert cluster.allowed("x/client", "x/web", 8080)
    assert not cluster.allowed("x/client", "x/web", 9090)
    assert not cluster.allowed("x/client", "x/other", 8080)
    assert cluster.allowed("x/client", "y/inside", 9090)  # a block can hold pods, too
    assert not cluster.allowed("x/client", "y/inside", 8080)


def test_a_label_change_moves_one_member() -> None:
    """And nothing else: the change goes to the node that uses the group, as one member."""
    engine = Engine()
    engine.handle([EndpointPut(WEB.endpoint()), EndpointPut(CLIENT.endpoint()), *OBJECTS])
    clients = next(g for g in engine.program("n1").groups.values() if g.kind is GroupKind.ADDRESS)
    other = replace(CLIENT, labels={"app": "other"}).endpoint()
    assert engine.handle([EndpointPut(other)]) == {"n1": Update(
        group_changes=(GroupChange(clients.id, (), ("10.0.0.2",)),))}


def test_nothing_is_sent_when_nothing_changed() -> None:
    engine = Engine()
    events: list[Event] = [EndpointPut(WEB.endpoint()), EndpointPut(CLIENT.endpoint()), *OBJECTS]
    assert set(engine.handle(events)) == {"n1", "n2"}
    assert engine.handle(events) == {}
    assert engine.handle([EndpointPut(replace(WEB.endpoint(), revision=9))]) == {}


def test_a_pod_can_not_pass_for_another_namespaces() -> None:
    """Labels that only Muslin may set are taken off a pod's own."""
    spoof = Pod("evil", "a", "10.0.0.9", {"projectcalico.org/namespace": "x", "pcns.team": "good", "app": "client"})
    policy = network_policy("x", "web", {"podSelector": {}, "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"app": "client"}}},
                  {"namespaceSelector": {"matchLabels": {"team": "good"}}}]}]})
    cluster = Cluster([WEB, CLIENT, spoof], [namespace("x"), namespace("evil"), policy])
    assert cluster.allowed("x/client", "x/web", 80)
    assert not cluster.allowed("evil/a", "x/web", 80)


def test_an_undeclared_namespace_is_not_selected_even_by_what_it_lacks() -> None:
    policy = network_policy("x", "web", {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {
        "matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]}}]}]})
    stranger = Pod("unknown", "a", "10.0.0.9", profiles=("k8s_ns.x",))
    pods_ = [WEB, stranger]
    assert not Cluster(pods_, [namespace("x"), policy]).allowed("unknown/a", "x/web", 80)
    assert Cluster(pods_, [namespace("x"), namespace("unknown"), policy]).allowed("unknown/a", "x/web", 80)


def test_namespace_labels_are_live() -> None:
    policy = network_policy("x", "web", {"podSelector": {}, "ingress": [
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]}]})
    engine = Engine()
    engine.handle([EndpointPut(WEB.endpoint()), EndpointPut(Pod("y", "a", "10.0.0.9").endpoint()),
                   put(namespace("x")), put(namespace("y")), put(policy)])
    assert [change.added for change in engine.handle([put(namespace("y", {"team": "a"}))])["n1"].group_changes] == [
        ("10.0.0.9",)]
    assert [change.removed for change in engine.handle([ResourceGone("profile/k8s_ns.y")])["n1"].group_changes] == [
        ("10.0.0.9",)]


def test_a_network_profile_selects_its_own_members() -> None:
    """Outside Kubernetes: whoever is in the profile reaches whoever is in it, and a label can not fake it."""
    label = PROFILE_PREFIX + "blue"
    profile = Profile("blue", {label: ""}, (Rule(Action.ALLOW, "ingress[0]", peer=parse(f"has({label})")),),
                      (Rule(Action.ALLOW, "egress[0]"),))
    blue, other = (replace(Pod("", name, f"10.0.0.{i}", profiles=("blue",)).endpoint(), orchestrator="cni")
                   for i, name in enumerate("ab"))
    green = replace(Pod("", "c", "10.0.0.9", {label: ""}, profiles=("green",)).endpoint(), orchestrator="cni")
    engine = Engine()
    engine.handle([ResourcePut(profile), *map(EndpointPut, (blue, other, green))])
    (group,) = engine.program("n1").groups.values()
    assert group.members == {"10.0.0.0", "10.0.0.1"}


def test_tiers_and_policies_are_in_order() -> None:
    def policy(name: str, tier: Tier, order: float) -> ResourcePut:
        return ResourcePut(Policy(name, parse("all()"), frozenset({Direction.INGRESS}), tier=tier, order=order))
    first, second = Tier("zz", 1), Tier("aa", 2)
    engine = Engine()
    engine.handle([EndpointPut(WEB.endpoint()), policy("b", second, 1), policy("a", second, 1), policy("c", second, 0),
                   policy("z", first, 5)])
    (endpoint,) = engine.program("n1").endpoints.values()
    assert endpoint.ingress == (TierPolicies("zz", ("zz/z",)), TierPolicies("aa", ("aa/c", "aa/a", "aa/b")))
    assert endpoint.egress == ()


def test_an_update_for_another_program_is_an_error() -> None:
    with pytest.raises(KeyError):
        apply(EMPTY, Update(group_changes=(GroupChange("a1", ("10.0.0.1",), ()),)))
