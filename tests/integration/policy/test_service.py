"""The policy service for real: a process, etcd, gRPC."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from muslin.api.policy.v1 import policy_pb2
from muslin.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from muslin.etcd import Etcd
from tests.integration.policy.clients import Client, Node, namespace, network_policy, ref
from tests.integration.policy.endpoints import EndpointServer, record
from tests.support.etcd import EtcdServer
from tests.support.service import Service

WEB = record("x", "web", "10.0.0.1", app="web")
CLIENT = record("x", "client", "10.0.0.2", node="n2", app="client")
POLICY = network_policy("x", "web", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
    {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80}]}]})


@pytest.fixture(autouse=True)
def pods(endpoint_server: EndpointServer) -> None:
    endpoint_server.endpoints.put(WEB, CLIENT)


async def test_what_is_applied_decides_at_once(client: Client) -> None:
    """Apply answers when its objects are compiled: there is nothing to wait for."""
    await client.apply(namespace("x"))
    assert await client.allowed("x/client", "x/web", 81)
    applied = await client.apply(POLICY)
    assert not await client.allowed("x/client", "x/web", 81)
    assert await client.allowed("x/client", "x/web", 80)
    deleted = await client.delete(POLICY)
    assert await client.allowed("x/client", "x/web", 81)
    assert list(deleted.deleted) == [ref(POLICY)]
    assert deleted.revision > applied.revision > 0


async def test_nothing_is_applied_if_one_object_is_refused(client: Client) -> None:
    await client.apply(namespace("x"))
    bad = network_policy("x", "bad", {"ingress": [{"ports": [{"port": 0}]}]})
    with pytest.raises(InvalidArgument, match=re.escape(
            "x.yaml, document 2: NetworkPolicy x/bad: spec.ingress[0].ports[0].port: 0 is not a port")):
        await client.apply(POLICY, bad, namespace("y"))
    assert [item.name for item in (await client.listed()).objects] == ["x"]
    assert await client.allowed("x/client", "x/web", 81)


async def test_what_can_not_be_translated_is_reported_and_opens_nothing(client: Client) -> None:
    partly = network_policy("x", "web", {"podSelector": {}, "ingress": [
        {"from": [{"ipBlock": {"cidr": "010.0.0.0/8"}}]}, {"ports": [{"port": 80}]}]})
    answer = await client.apply(namespace("x"), partly)
    assert [(c.object, c.path) for c in answer.conditions] == [
        (ref(partly), "spec.ingress[0].from[0].ipBlock.cidr"), (ref(partly), "spec.ingress[0]")]
    assert not await client.allowed("x/client", "x/web", 81)
    assert await client.allowed("x/client", "x/web", 80)
    assert list((await client.listed()).conditions) == list(answer.conditions)


async def test_list_returns_what_was_applied_in_order(client: Client) -> None:
    objects = [POLICY, network_policy("x", "a", {}), network_policy("a", "z", {}), namespace("x", team="t"),
               namespace("b")]
    await client.apply(*objects)
    listed = (await client.listed()).objects
    assert [(o.kind, o.namespace, o.name) for o in listed] == [
        ("Namespace", "", "b"), ("Namespace", "", "x"), ("NetworkPolicy", "a", "z"), ("NetworkPolicy", "x", "a"),
        ("NetworkPolicy", "x", "web")]
    assert listed[-1] == POLICY


async def test_more_objects_than_one_transaction_takes(client: Client) -> None:
    objects = [network_policy("x", f"p{i}", {}) for i in range(300)]
    await client.apply(*objects, namespace("x"))
    assert len((await client.listed()).objects) == 301
    assert len((await client.delete(*objects, network_policy("x", "none", {}))).deleted) == 300
    assert [item.name for item in (await client.listed()).objects] == ["x"]


async def test_deleting_what_is_not_there_succeeds(client: Client) -> None:
    assert list((await client.delete(POLICY)).deleted) == []
    with pytest.raises(InvalidArgument, match=re.escape("objects[0]: kind: 'Pod' is not supported")):
        await client.delete(policy_pb2.Object(kind="Pod", namespace="x", name="y"))


async def test_explanations_name_rule_and_origin(client: Client) -> None:
    await client.apply(namespace("x"), POLICY)
    flow = policy_pb2.Flow(source=policy_pb2.Peer(pod="x/client"), destination=policy_pb2.Peer(address="10.0.0.1"),
                           protocol="TCP", port=80)
    (answer,) = await client.explain(flow)
    out, into = answer.steps
    assert (answer.verdict, out.policy, out.origin) == (policy_pb2.VERDICT_ALLOW, "k8s_ns.x", "x.yaml, document 1")
    assert (into.endpoint, into.direction, into.tier, into.policy, into.rule, into.verdict, into.origin) == (
        "x/web", policy_pb2.DIRECTION_INGRESS, "default", "knp.default.x.web", "spec.ingress[0]",
        policy_pb2.VERDICT_ALLOW, "x.yaml, document 2")
    flow.source.pod = "x/nobody"
    with pytest.raises(NotFound, match=re.escape("flows[0].source.pod")):
        await client.explain(flow)


KUBERNETES = {"name": "calico-k8s-network", "type": "calico", "policy": {"type": "k8s"}}
PLAIN = {"name": "blue", "type": "muslin", "cniVersion": "1.0.0"}


async def test_profiles_of_the_chain(client: Client, etcd: EtcdServer) -> None:
    """The namespace's in Kubernetes' policy mode; else the network's, made once and never changed."""
    assert await client.add(KUBERNETES, pod="shop/web") == ("k8s_ns.shop",)
    assert await client.add(KUBERNETES, pod="") == ("calico-k8s-network",)
    assert await client.add(PLAIN, pod="") == ("blue",)
    key = "/muslin/policy/v1/profiles/blue"
    async with Etcd([etcd.endpoint]) as store:
        stored = await value(store, key)
        edited = {**stored, "ingress": []}
        await store.put(key, json.dumps(edited).encode())
        assert await client.add(PLAIN, pod="") == ("blue",)
        assert await value(store, key) == edited
    assert stored == {"labels": {"projectcalico.org/profile.blue": ""}, "egress": [{"action": "allow"}],
                      "ingress": [{"action": "allow", "selector": "has(projectcalico.org/profile.blue)"}]}
    await client.delete_attachment(PLAIN)
    with pytest.raises(InvalidArgument, match=re.escape("a network can not be called 'k8s_ns.x'")):
        await client.add({**PLAIN, "name": "k8s_ns.x"}, pod="")


async def value(store: Etcd, key: str) -> Any:
    found = await store.get(key)
    assert found is not None
    return json.loads(found.value)


async def test_members_of_a_network_reach_each_other_and_nobody_else_reaches_them(
        client: Client, endpoint_server: EndpointServer) -> None:
    await client.add(PLAIN, pod="")
    await client.apply(namespace("x"))
    endpoint_server.endpoints.put(record("x", "a", "10.0.1.1", profile="blue"),
                                  record("x", "b", "10.0.1.2", profile="blue"))
    async with Node(client, "n1") as node:
        await node.until(lambda n: {"x/a", "x/b"} <= n.endpoints.keys())
    assert await client.allowed("x/a", "x/b", 80)
    assert await client.allowed("x/a", "x/web", 80)
    assert not await client.allowed("x/web", "x/a", 80)


async def test_a_node_gets_a_snapshot_and_then_what_concerns_it(client: Client,
                                                                endpoint_server: EndpointServer) -> None:
    await client.apply(namespace("x"), POLICY)
    async with Node(client, "n1") as node:
        first = await node.receive()
        assert (first.snapshot, first.revision) == (True, 1)
        assert set(node.endpoints) == {"x/web"}
        assert set(node.policies) == {"default/knp.default.x.web", "profile/k8s_ns.x"}
        assert list(node.groups.values()) == [{"10.0.0.2"}]

        endpoint_server.endpoints.put(record("x", "other", "10.0.0.7", node="n3", app="other"))  # of no concern
        endpoint_server.endpoints.put(record("x", "client2", "10.0.0.3", node="n2", app="client"))
        second = await node.receive()
        assert (second.snapshot, second.revision) == (False, 2)
        assert [list(change.added) for change in second.group_changes] == [["10.0.0.3"]]
        assert [*second.endpoints, *second.policies, *second.groups] == []

        endpoint_server.endpoints.delete(WEB)
        third = await node.receive()
        assert (len(third.removed_endpoints), len(third.removed_groups), len(third.removed_policies)) == (1, 1, 2)
        assert (node.groups, node.policies, node.endpoints) == ({}, {}, {})


async def test_a_node_without_endpoints_is_told_so(client: Client) -> None:
    async with Node(client, "n9") as node:
        first = await node.receive()
        assert first == policy_pb2.SubscribeResponse(revision=1, snapshot=True, resume=first.resume)


async def test_a_node_must_say_its_name(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="the first message must name the node"):
        async with Node(client, "") as node:
            await node.receive()


async def test_a_slow_node_gets_one_message_for_all_that_it_missed(client: Client,
                                                                   endpoint_server: EndpointServer) -> None:
    """It does not read while thousands of changes happen; what it then reads is bounded, and right."""
    await client.apply(namespace("x"), POLICY)
    async with Node(client, "n1") as slow, Node(client, "n1") as quick:
        await slow.receive()
        await quick.receive()
        for burst in range(40):
            for i in range(100):
                endpoint_server.endpoints.put(
                    record("x", f"c{i}", f"10.1.{i}.{burst}", node="n2", app="client"))
            await quick.until(partial(has_group, {"10.0.0.2", *(f"10.1.{i}.{burst}" for i in range(100))}))
        await slow.until(lambda n: n.groups == quick.groups)
        assert len(quick.messages) >= 40
        assert len(slow.messages) <= len(quick.messages)


def has_group(members: set[str], node: Node) -> bool:
    return list(node.groups.values()) == [members]


async def test_check_misses_a_network_s_profile(client: Client, etcd: EtcdServer) -> None:
    """A network's profile is stored; a namespace's is made of the Namespace, and its absence closes its pods."""
    with pytest.raises(FailedPrecondition, match="profile blue is gone"):
        await client.check(PLAIN)
    await client.add(PLAIN, pod="")
    await client.check(PLAIN)
    await client.check(KUBERNETES, args="K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web")
    async with Etcd([etcd.endpoint]) as store:
        await store.delete("/muslin/policy/v1/profiles/blue")
    with pytest.raises(FailedPrecondition, match="profile blue is gone"):
        await persist_until_it_fails(lambda: client.check(PLAIN))


async def persist_until_it_fails(ask: Callable[[], Awaitable[None]]) -> None:
    """The replica follows the store: it learns of what others did a moment later."""
    async with asyncio.timeout(20):
        while True:
            await ask()
            await asyncio.sleep(0.02)


async def test_collection_frees_nothing_and_reads_its_list(client: Client) -> None:
    await client.add(PLAIN, pod="")
    await client.gc(PLAIN)
    await client.gc({**PLAIN, "cni.dev/valid-attachments": []})
    await client.check(PLAIN)
    with pytest.raises(InvalidArgument, match="valid-attachments"):
        await client.gc({**PLAIN, "cni.dev/valid-attachments": "all"})


async def test_status_says_what_is_missing(client: Client, etcd: EtcdServer, endpoint_server: EndpointServer) -> None:
    """Whether the endpoint service and the store are there; without asking them."""
    await client.status(PLAIN)
    with pytest.raises(InvalidArgument, match="name"):
        await client.status({"type": "muslin"})
    await endpoint_server.stop()
    with pytest.raises(Unavailable, match="endpoints: "):
        await persist_until_it_fails(lambda: client.status(PLAIN))
    await endpoint_server.start()
    await persist(lambda: client.status(PLAIN))
    etcd.freeze()
    try:
        await client.status(PLAIN)  # an answer without the store
    finally:
        etcd.kill()
    with pytest.raises(Unavailable, match="store: "):
        await persist_until_it_fails(lambda: client.status(PLAIN))


async def persist(ask: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(20):
        while True:
            with suppress(Unavailable):
                return await ask()
            await asyncio.sleep(0.02)


async def test_a_restart_changes_nothing(client: Client, service: Service, endpoint_server: EndpointServer) -> None:
    """A new process sends nothing before it knows all: its first message is as rich as the last of the old."""
    await client.apply(namespace("x"), POLICY)
    async with Node(client, "n1") as before:
        await before.receive()
    service.kill()
    endpoint_server.endpoints.complete.clear()  # endpoints come late: until then the state is half
    service.launch()
    async with Client(service.target) as again, Node(again, "n1") as after:
        with pytest.raises((TimeoutError, Unavailable)):
            await after.receive(timeout=1.5)
    endpoint_server.endpoints.complete.set()
    async with Client(service.target) as again, Node(again, "n1") as after:
        await after.receive()
        assert (before.groups, before.policies, before.endpoints) == (after.groups, after.policies, after.endpoints)


async def test_the_loss_of_the_endpoint_service_changes_nothing(client: Client,
                                                                endpoint_server: EndpointServer) -> None:
    """The last state stays; the watch resumes where it was, and brings what happened meanwhile."""
    await client.apply(namespace("x"), POLICY)
    async with Node(client, "n1") as node:
        await node.receive()
        await endpoint_server.stop()
        assert await client.allowed("x/client", "x/web", 80)
        await client.apply(network_policy("x", "web", {"podSelector": {}}))  # policies go on working
        assert not await client.allowed("x/client", "x/web", 80)
        endpoint_server.endpoints.put(record("x", "new", "10.0.0.9"))
        await endpoint_server.start()
        await node.until(lambda n: "x/new" in n.endpoints)
        assert "x/web" in node.endpoints
    assert endpoint_server.endpoints.watches[0] == 0
    assert all(revision > 0 for revision in endpoint_server.endpoints.watches[1:])


async def test_a_history_that_is_gone_costs_a_snapshot_and_no_endpoint(client: Client,
                                                                       endpoint_server: EndpointServer) -> None:
    """What vanished meanwhile goes, when the snapshot is complete; the rest is never missing."""
    await client.apply(namespace("x"), POLICY)
    other = record("x", "other", "10.0.0.9")
    endpoint_server.endpoints.put(other)
    async with Node(client, "n1") as node:
        await node.until(lambda n: len(n.endpoints) == 2)
        await endpoint_server.stop()
        endpoint_server.endpoints.delete(other)
        endpoint_server.endpoints.forget_history()
        await endpoint_server.start()
        await node.until(lambda n: set(n.endpoints) == {"x/web"})
        assert not any(message.removed_endpoints and message.endpoints for message in node.messages)
    assert endpoint_server.endpoints.watches[-1] == 0


async def test_the_loss_of_etcd_changes_nothing(client: Client, etcd: EtcdServer) -> None:
    await client.apply(namespace("x"), POLICY)
    etcd.kill()
    assert not await client.allowed("x/client", "x/web", 81)
    with pytest.raises(Unavailable):
        await client.apply(namespace("y"), timeout=3)
    etcd.start()
    await client.apply(namespace("y"))
    assert not await client.allowed("x/client", "x/web", 81)


async def test_two_replicas_send_the_same(client: Client, etcd: EtcdServer, endpoint_server: EndpointServer) -> None:
    await client.apply(namespace("x"), POLICY)
    async with Service("policy", "--etcd", etcd.endpoint, "--endpoint", endpoint_server.target) as other, Client(
            other.target) as second, Node(client, "n1") as a, Node(second, "n1") as b:
        one, another = await a.receive(), await b.receive()
        assert one.resume != another.resume, "each knows only what it has sent itself"
        one.resume = another.resume = ""
        assert one == another
        await second.delete(POLICY)
        await a.until(lambda n: not n.groups)


async def test_how_long_an_endpoint_change_takes_through_the_service(client: Client,
                                                                     endpoint_server: EndpointServer) -> None:
    """Printed with -s: from the endpoint service's record to the node's message, over two gRPC streams.

    The bound is wide, since other things may run; what it catches is a pause on the way.
    """
    await client.apply(namespace("x"), POLICY)
    async with Node(client, "n1") as node:
        await node.receive()
        times = []
        for i in range(200):
            began = time.perf_counter()
            endpoint_server.endpoints.put(record("x", "client", f"10.0.1.{i}", node="n2", app="client"))
            await node.receive()
            times.append((time.perf_counter() - began) * 1000)
    times.sort()
    print(f"endpoint change to node's message, ms: min {times[0]:.2f}, "  # noqa: T201  a measurement
          f"p50 {times[100]:.2f}, p90 {times[180]:.2f}")
    assert times[100] < 50


async def test_acknowledgements_are_metrics(etcd: EtcdServer, endpoint_server: EndpointServer) -> None:
    """Sent and enforced revision of each node, while it is subscribed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = Service("policy", "--etcd", etcd.endpoint, "--endpoint", endpoint_server.target, "--metrics",
                      f"127.0.0.1:{port}")
    try:
        service.launch()
        await asyncio.to_thread(service.wait)
        async with Client(service.target) as client:
            async with Node(client, "n1") as node:
                await node.receive()
                await client.apply(namespace("x"), POLICY)
                await node.receive()
                await until_metric(port, 'muslin_policy_enforced_revision{node="n1"} 2.0')
                text = await scrape(port)
                assert 'muslin_policy_sent_revision{node="n1"} 2.0' in text
                assert 'muslin_policy_state{kind="endpoints"} 2.0' in text
                assert "muslin_policy_subscriptions 1.0" in text
            await until_metric(port, "muslin_policy_subscriptions 0.0")
            assert 'node="n1"' not in await scrape(port)
    finally:
        service.stop()


async def scrape(port: int) -> str:
    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    return await asyncio.to_thread(read)


async def until_metric(port: int, line: str) -> None:
    async with asyncio.timeout(10):
        while line not in await scrape(port):  # noqa: ASYNC110  another process' metric announces nothing
            await asyncio.sleep(0.02)


async def test_a_stop_ends_streams_and_is_clean(service: Service, client: Client) -> None:
    async with Node(client, "n1") as node:
        await node.receive()
        assert await asyncio.to_thread(service.terminate) == 0
        with pytest.raises(Unavailable, match="shutting down"):
            await node.receive()
