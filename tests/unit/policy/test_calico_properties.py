"""Calico's objects beside Kubernetes': one state, one set of programs; and what decides is what the manifests say."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.engine import Engine
from services.policy.events import EndpointGone, EndpointPut, Event, ResourceGone
from services.policy.explain import Packet
from services.policy.model import PROTOCOLS
from services.policy.program import EMPTY, Program, apply
from tests.unit.policy.calico_oracle import World
from tests.unit.policy.calico_strategies import calico_policies, objects, profiles, tiers
from tests.unit.policy.cluster import Cluster, Pod, namespace, put, ref_of, service_account
from tests.unit.policy.strategies import NAMESPACES, OUTSIDE, PODS, labels, pods
from tests.unit.policy.test_engine import fresh, key

_EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.sampled_from(PODS).flatmap(pods).map(lambda pod: EndpointPut(pod.endpoint())),
    st.sampled_from(PODS).flatmap(pods).map(lambda pod: EndpointGone(pod.endpoint().attachment)),
    objects.map(put), objects.map(put), objects.map(lambda manifest: ResourceGone(put(manifest).resource.id)),
)


@settings(deadline=None)
@given(st.lists(st.lists(_EVENTS, max_size=4), max_size=8))
def test_incremental_is_from_scratch(batches: list[list[Event]]) -> None:
    """And what each node was sent adds up to its program."""
    engine = Engine()
    sent: dict[str, Program] = {}
    for batch in batches:
        for node, update in engine.handle(batch).items():
            assert update
            sent[node] = apply(sent.get(node, EMPTY), update)
        assert {node: program for node, program in sent.items() if program != EMPTY} == dict(engine.programs)
    assert fresh([event for batch in batches for event in batch]) == dict(engine.programs)


@settings(deadline=None)
@given(st.lists(_EVENTS, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(events: list[Event], random: Any) -> None:
    last = list({key(event): event for event in events}.values())
    expected = fresh(last)
    random.shuffle(last)
    engine = Engine()
    for event in last:
        engine.handle([event])
    assert dict(engine.programs) == expected


def _named(manifest: dict[str, Any]) -> object:
    return ref_of(manifest)


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[list[Pod], list[dict[str, Any]]]:
    made = [draw(pods(where)) for where in PODS]
    placed = [Pod(pod.namespace, pod.name, pod.address, pod.labels, pod.ports, pod.node,
                  draw(st.sampled_from([None, ("net",), (f"k8s_ns.{pod.namespace}", "net"), ()])),
                  draw(st.sampled_from(["default", "ci"]))) for pod in made]
    manifests = [namespace(name, draw(labels)) for name in NAMESPACES]
    manifests += [service_account(name, "ci", draw(labels)) for name in NAMESPACES]
    manifests += draw(st.lists(tiers(), max_size=2, unique_by=_named))
    manifests += draw(st.lists(profiles(), max_size=1))
    manifests += draw(st.lists(calico_policies(), max_size=5, unique_by=_named))
    return placed, manifests


@settings(deadline=None)
@given(_worlds())
def test_what_decides_is_what_the_manifests_say(world: tuple[list[Pod], list[dict[str, Any]]]) -> None:
    """Against a reading of the manifests that knows nothing of compilation: each flow, each tier, each action."""
    placed, manifests = world
    cluster, oracle = Cluster(placed, manifests), World(placed, manifests)
    addresses = {pod.workload: pod.address for pod in placed}
    sides = [*(pod.workload for pod in placed), *OUTSIDE]
    for source in sides:
        for destination in sides:
            if source == destination or (source in OUTSIDE and destination in OUTSIDE):
                continue
            for protocol, port in (("TCP", 80), ("TCP", 81), ("UDP", 443)):
                answer = cluster.explain(source, destination, port, protocol)
                packet = Packet(addresses.get(source, source), addresses.get(destination, destination),
                                PROTOCOLS[protocol], port)
                assert answer.allowed is oracle.allowed(packet), (source, destination, protocol, port, answer)
