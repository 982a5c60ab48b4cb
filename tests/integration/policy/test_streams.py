"""Streams to nodes for real: lost and gone on with, never read, and what the service tells of them."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from muslin.api.policy.v1 import policy_pb2
from tests.integration.policy.clients import Client, Node, namespace, network_policy, ref
from tests.integration.policy.endpoints import EndpointServer, record
from tests.support.service import Service

WEB = record("x", "web", "10.0.0.1", app="web")
CLIENT = record("x", "client", "10.0.0.2", node="n2", app="client")
POLICY = network_policy("x", "web", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
    {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]})
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535))
"""A line that takes 64 KiB which nobody has read."""


@pytest.fixture(autouse=True)
def pods(endpoint_server: EndpointServer) -> None:
    endpoint_server.endpoints.put(WEB, CLIENT)


async def test_a_node_goes_on_from_what_it_has(client: Client, endpoint_server: EndpointServer) -> None:
    """After a lost stream it gets what it missed, and neither its endpoints nor its policies again."""
    await client.apply(namespace("x"), POLICY)
    async with Node(client, "n1") as first:
        await first.receive()
    endpoint_server.endpoints.put(record("x", "client2", "10.0.0.3", node="n2", app="client"))
    async with Node(client, "n9") as other:  # another node's message says that the change is in
        await other.receive()
    async with Node(client, "n1", since=first) as second:
        await second.until(lambda node: list(node.groups.values()) == [{"10.0.0.2", "10.0.0.3"}])
        assert not any(message.snapshot for message in second.messages)
        assert not any(message.endpoints or message.policies or message.groups for message in second.messages)
        assert (second.endpoints, second.policies) == (first.endpoints, first.policies)
        (state,) = [node for node in (await client.state()).nodes if node.node == "n1"]
        assert (state.connected, state.resumed) == (True, True)


async def test_after_a_restart_of_the_service_it_gets_a_snapshot(client: Client, service: Service) -> None:
    await client.apply(namespace("x"), POLICY)
    async with Node(client, "n1") as first:
        await first.receive()
    await asyncio.to_thread(service.kill)
    service.launch()
    await asyncio.to_thread(service.wait)
    async with Client(service.target) as again, Node(again, "n1", since=first) as second:
        assert (await second.receive()).snapshot
        assert (second.endpoints, second.policies) == (first.endpoints, first.policies)


async def test_a_node_that_never_reads_costs_nobody_anything(client: Client, service: Service,
                                                             endpoint_server: EndpointServer) -> None:
    """Once the line is full nothing more is made for it, and others get every change; when it reads, all is there."""
    endpoint_server.endpoints.put(record("x", "web2", "10.0.0.9", node="n5", app="web"))
    await client.apply(namespace("x"), POLICY)
    async with Client(service.target, SMALL_WINDOW) as narrow, Node(narrow, "n1") as stuck, Node(client, "n5") as brisk:
        await brisk.receive()
        sent = []
        for burst in range(60):
            endpoint_server.endpoints.put(*(record("x", f"c{i}", f"10.1.{i}.{burst}", node="n2", app="client")
                                            for i in range(250)))
            await brisk.until(partial(has_group, {"10.0.0.2", *(f"10.1.{i}.{burst}" for i in range(250))}))
            if burst >= 40:
                sent.append((await state_of(client, "n1")).sent_revision)
        state = await state_of(client, "n1")
        assert (set(sent), state.pending, state.acknowledged_revision) == ({state.sent_revision}, True, 0)
        assert state.lag_seconds > 0
        await stuck.until(lambda node: node.groups == brisk.groups)
        assert len(stuck.messages) < len(brisk.messages)


async def state_of(client: Client, node: str) -> policy_pb2.NodeStatus:
    (found,) = [state for state in (await client.state()).nodes if state.node == node]
    return found


def has_group(members: set[str], node: Node) -> bool:
    return list(node.groups.values()) == [members]


async def policy_state(client: Client) -> policy_pb2.PolicyStatus:
    (found,) = (await client.state()).policies
    return found


async def acknowledged(client: Client, node: str) -> policy_pb2.NodeStatus:
    """The node's state once all that it was sent is acknowledged."""
    async with asyncio.timeout(10):
        # Acknowledgements are not announced.
        while (state := await state_of(client, node)).acknowledged_revision < state.sent_revision:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return state


async def test_the_state_of_nodes_and_policies(client: Client) -> None:
    partly = network_policy("x", "web", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
        {"from": [{"ipBlock": {"cidr": "010.0.0.0/8"}}]}]})
    await client.apply(namespace("x"), partly)
    state = await policy_state(client)
    assert (state.object, state.origin, state.accepted, state.policy) == (
        ref(partly), partly.origin, True, "default/knp.default.x.web")
    assert [(c.object, c.path) for c in state.conditions] == [
        (ref(partly), "spec.ingress[0].from[0].ipBlock.cidr"), (ref(partly), "spec.ingress[0]")]
    assert (list(state.enforced_nodes), list(state.pending_nodes)) == ([], ["n1"])
    assert not (await state_of(client, "n1")).connected
    async with Node(client, "n1") as node:
        await node.receive()
        about = await acknowledged(client, "n1")
        assert (about.connected, about.sent_revision, about.endpoints, about.lag_seconds) == (True, 1, 1, 0)
        assert not about.pending
        assert list((await policy_state(client)).enforced_nodes) == ["n1"]
        applied = await client.apply(POLICY)
        assert (await client.state()).revision >= applied.revision
        assert list((await policy_state(client)).pending_nodes) == ["n1"]
        await node.receive()
        await acknowledged(client, "n1")
        state = await policy_state(client)
        assert (list(state.enforced_nodes), list(state.pending_nodes), list(state.conditions)) == (["n1"], [], [])
