"""The hub: nothing before all sources are complete, bursts compiled once, slow nodes merged."""

from __future__ import annotations

import asyncio
from collections.abc import Set

from services.policy.events import EndpointGone, EndpointPut
from services.policy.hub import Hub
from services.policy.program import EMPTY, Program, apply, diff
from tests.unit.policy.cluster import Pod, namespace, network_policy, put

WEB = Pod("x", "web", "10.0.0.1", {"app": "web"})
POLICY = put(network_policy("x", "p", {"ingress": [{"from": [{"podSelector": {}}]}]}))


def client(number: int) -> EndpointPut:
    return EndpointPut(Pod("x", f"c{number}", f"10.0.1.{number}", node="n2").endpoint())


async def complete() -> Hub:
    hub = Hub(("a",))
    hub.put([EndpointPut(WEB.endpoint()), put(namespace("x")), POLICY])
    hub.complete("a")
    await hub.ready.wait()
    return hub


async def test_nothing_is_compiled_before_all_sources_are_complete() -> None:
    """Half the state would give a poorer program, and that can be an open one."""
    hub = Hub(("a", "b"))
    hub.put([EndpointPut(WEB.endpoint())])
    hub.complete("a")
    hub.flush()
    await asyncio.sleep(0)
    assert not hub.ready.is_set()
    assert hub.missing == "b"
    assert hub.view().workload("x/web") is None
    hub.put([POLICY])
    hub.complete("b")
    await asyncio.wait_for(hub.ready.wait(), 5)
    update, kind = hub.take(hub.subscribe("n1"))
    assert (kind, [policy.name for policy in update.policies]) == ("snapshot", ["knp.default.x.p"])


async def test_a_source_may_be_complete_and_empty() -> None:
    hub = Hub(("a",))
    hub.complete("a")
    await asyncio.wait_for(hub.ready.wait(), 5)
    assert hub.take(hub.subscribe("n1")) == (diff(EMPTY, EMPTY), "snapshot")


async def test_a_node_that_keeps_up_gets_each_update() -> None:
    hub = await complete()
    subscription = hub.subscribe("n1")
    program = apply(EMPTY, hub.take(subscription)[0])
    for number in (1, 2):
        hub.put([client(number)])
        await asyncio.wait_for(subscription.changed.wait(), 5)
        update, kind = hub.take(subscription)
        program = apply(program, update)
        assert (kind, len(update.group_changes)) == ("delta", 1)
    assert members(program) == {"10.0.0.1", "10.0.1.1", "10.0.1.2"}


async def test_a_slow_node_gets_one_merged_update() -> None:
    hub = await complete()
    subscription = hub.subscribe("n1")
    program = apply(EMPTY, hub.take(subscription)[0])
    for number in range(1, 50):
        hub.put([client(number)])
        hub.flush()
    update, kind = hub.take(subscription)
    program = apply(program, update)
    assert (kind, len(update.group_changes), len(update.group_changes[0].added)) == ("merged", 1, 49)
    assert len(members(program)) == 50
    assert not subscription.changed.is_set()


async def test_changes_that_cancel_each_other_out_leave_nothing_to_send() -> None:
    hub = await complete()
    subscription = hub.subscribe("n1")
    hub.take(subscription)
    hub.put([client(1)])
    hub.flush()
    hub.put([EndpointGone(client(1).endpoint.attachment)])
    hub.flush()
    assert not hub.take(subscription)[0]


async def test_only_nodes_concerned_are_woken() -> None:
    hub = await complete()
    one, two = hub.subscribe("n1"), hub.subscribe("n9")
    hub.take(one)
    hub.take(two)
    hub.put([client(1)])
    hub.flush()
    assert (one.changed.is_set(), two.changed.is_set()) == (True, False)
    hub.unsubscribe(one)
    hub.unsubscribe(two)
    assert not hub.subscribed("n1")


async def test_a_burst_is_compiled_once() -> None:
    hub = await complete()
    subscription = hub.subscribe("n1")
    hub.take(subscription)
    for number in range(1, 20):
        hub.put([client(number)])
    await asyncio.wait_for(subscription.changed.wait(), 5)
    assert hub.take(subscription)[1] == "delta"  # not "merged": there was one update


async def test_explanations_see_what_was_put_in_before() -> None:
    hub = await complete()
    hub.view()
    hub.put([client(1)])
    assert hub.view().workload("x/c1") is not None


def members(program: Program) -> Set[str]:
    (group,) = program.groups.values()
    return group.members
