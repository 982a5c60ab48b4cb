"""The view of all programs finds, whatever happened before, what one finds that is made of the programs alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.engine import Engine
from services.policy.events import EndpointGone, EndpointPut, Event
from services.policy.explain import View
from tests.unit.policy.cluster import Pod, put
from tests.unit.policy.strategies import PODS, pods, policies, spaces

RECORDS = st.builds(
    lambda pod, container, last, revision: EndpointPut(replace(
        pod.endpoint(), attachment=pod.endpoint().attachment._replace(container_id=container),
        addresses=(f"10.0.0.{last}", "fd00::1"), revision=revision)),
    st.sampled_from(PODS).flatmap(pods), st.sampled_from("abcd"), st.integers(1, 3), st.integers(0, 5))
EVENTS: st.SearchStrategy[Event] = st.one_of(
    RECORDS, RECORDS, RECORDS.map(lambda event: EndpointGone(event.endpoint.attachment)), policies().map(put),
    spaces().map(put))


@settings(deadline=None)
@given(st.lists(st.lists(EVENTS, max_size=4), max_size=8))
def test_a_view_that_follows_is_one_that_is_made_anew(batches: list[list[Event]]) -> None:
    """Of two records of a pod or an address the younger counts; a revision alone is a change, too."""
    engine, followed = Engine(), View()
    for batch in batches:
        engine.handle(batch)
        followed.follow(engine.programs)
        fresh = View(engine.programs.values())
        for space, name in PODS:
            assert followed.workload(f"{space}/{name}") == fresh.workload(f"{space}/{name}")
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"):
            found, expected = followed.address(address), fresh.address(address)
            assert found == expected
            if found and expected:
                assert found.endpoint.revision == expected.endpoint.revision
    followed.follow({})
    assert (followed._by_workload, followed._by_address) == ({}, {})


def test_programs_that_did_not_change_are_not_looked_at() -> None:
    """Else each question after a change would take as long as the cluster is large."""
    engine, view = Engine(), View()
    engine.handle([EndpointPut(Pod("x", f"p{n}", f"10.0.0.{n}", node=f"n{n % 2}").endpoint()) for n in range(20)])
    view.follow(engine.programs)
    before = {name: view._by_workload[name] for name in view._by_workload}
    engine.handle([EndpointPut(Pod("x", "p1", "10.0.0.99", node="n1").endpoint())])
    view.follow(engine.programs)
    assert [name for name, sites in view._by_workload.items() if sites is not before[name]] == ["x/p1"]
