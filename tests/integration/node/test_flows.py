"""What a pod is connected to: real connections, with what they carry and what allows them."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from muslin.api.node.v1 import node_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.errors import NotFound
from services.node.enforce.program import Action, Policy, Rule
from services.node.enforcer import Enforcer
from services.node.flows import connections, flows_of
from tests.integration.node.test_cutting import Talk, enforcing, made, snapshot
from tests.integration.node.world import Pod, World
from tests.support.netns import command

__all__ = ["made"]  # the fixture

pytestmark = pytest.mark.root

OUT, IN = policy_pb2.DIRECTION_EGRESS, policy_pb2.DIRECTION_INGRESS
TO_80 = Policy("t/in", "in", ingress=(Rule(Action.ALLOW, 6, ports=((443, 443),), path="spec.ingress[0]"),
                                      Rule(Action.ALLOW, 6, ports=((80, 80),), path="spec.ingress[1]")))


async def flows(made: World, enforcer: Enforcer, workload: str, most: int = 1000) -> node_pb2.GetFlowsResponse:
    endpoints = enforcer.state.required(workload)
    return flows_of(enforcer.state, endpoints, await asyncio.to_thread(connections, endpoints, made.host), most)


def told(found: node_pb2.GetFlowsResponse) -> set[tuple[int, str, int, int, str, str]]:
    """Of TCP, without what they carry."""
    return {(f.direction, f.peer, f.port, f.connections, f.policy, f.rule) for f in found.flows if f.protocol == 6}


async def test_what_a_pod_is_connected_to_and_what_allows_it(made: World) -> None:
    """By both sides' policy; the host's own connections are allowed by none."""
    a, b, _ = made.pods.values()
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint(ingress=[["t/in"]])], [TO_80]))
        with ExitStack() as stack:
            await asyncio.to_thread(talks, stack, made, a, b)
            of_a, of_b = await flows(made, enforcer, "test/a"), await flows(made, enforcer, "test/b")
            assert told(of_a) == {(OUT, b.address, 80, 2, "profile/all", ""),
                                  (OUT, b.address6, 80, 1, "profile/all", "")}
            assert told(of_b) == {(IN, a.address, 80, 2, "t/in", "spec.ingress[1]"),
                                  (IN, a.address6, 80, 1, "t/in", "spec.ingress[1]"),
                                  (IN, "10.99.0.1", 81, 1, "", "")}
            assert not of_a.accounted
            assert not any(flow.sent_bytes for flow in of_a.flows)
            least = await flows(made, enforcer, "test/b", most=1)
            assert (len(least.flows), least.left_out) == (1, len(of_b.flows) - 1)
        with pytest.raises(NotFound, match="test/nobody"):
            await flows(made, enforcer, "test/nobody")


def talks(stack: ExitStack, made: World, a: Pod, b: Pod) -> None:
    for source, address, port in ((a.netns, b.address, 80), (a.netns, b.address, 80), (a.netns, b.address6, 80)):
        Talk(stack, source, address, port)
    command(made.host, "ip", "route", "replace", f"{b.address}/32", "dev", b.interface, "src", "10.99.0.1")
    Talk(stack, made.host, b.address, 81)


async def test_packets_and_bytes_where_the_kernel_counts_them(made: World) -> None:
    """Those of who began are told from those of the other side; the flow that carries most comes first."""
    a, b, c = made.pods.values()
    command(made.host, "sysctl", "-q", "net.netfilter.nf_conntrack_acct=1")
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [pod.endpoint() for pod in (a, b, c)]))
        with ExitStack() as stack:
            quiet, loud = Talk(stack, a.netns, b.address, 80), Talk(stack, a.netns, c.address, 81)
            for _ in range(20):
                assert loud.answered()
            found = await flows(made, enforcer, "test/a")
            assert found.accounted
            first, second = (flow for flow in found.flows if flow.protocol == 6)
            assert ((first.peer, first.port), (second.peer, second.port)) == ((c.address, 81), (b.address, 80))
            # An IPv4 and a TCP header at the least for each, and four bytes for each word.
            for flow, talk in ((first, loud), (second, quiet)):
                assert flow.sent_packets >= talk.said + 2, "words, and two of the handshake"
                assert flow.sent_bytes >= 40 * flow.sent_packets + 4 * talk.said
                assert flow.answered_packets >= talk.said + 1
                assert flow.answered_bytes >= 40 * flow.answered_packets + 4 * talk.said
            (other,) = (flow for flow in (await flows(made, enforcer, "test/c")).flows if flow.protocol == 6)
            assert (other.direction, other.peer) == (IN, a.address)
            assert other.sent_bytes >= first.sent_bytes, "as much as before, or an acknowledgement more"
