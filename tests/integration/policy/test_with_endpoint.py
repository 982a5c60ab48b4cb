"""Policy and endpoint service together, as the chain uses them, on one etcd; and how long a change takes to a node."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import pytest

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.cni import result
from muslin.cni.result import IPConfig, Result
from tests.integration.policy.clients import Client, Node, namespace, network_policy
from tests.support.etcd import EtcdServer
from tests.support.service import Service

CONFIG = json.dumps({"name": "calico-k8s-network", "type": "calico", "policy": {"type": "k8s"}}).encode()
POLICY = network_policy("x", "web", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
    {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "http"}]}]})


class Cluster:
    """Both services, and the steps of a chain between the address manager and the node."""

    def __init__(self, policy: str, endpoint: str) -> None:
        self.client = Client(policy)
        self._channel = rpc.channel(endpoint)
        self.endpoints = endpoint_pb2_grpc.EndpointsStub(self._channel)
        self.plugin = endpoint_pb2_grpc.PluginStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()
        await self.client.__aexit__()

    async def apply_pod(self, space: str, name: str, **labels: str) -> None:
        port = endpoint_pb2.NamedPort(name="http", protocol="TCP", port=8080)
        pod = endpoint_pb2.Pod(namespace=space, name=name, labels=labels, service_account="default", ports=[port])
        with rpc.translated("apply pods"):
            await self.endpoints.ApplyPods(endpoint_pb2.ApplyPodsRequest(pods=[pod]), timeout=10)

    async def add(self, space: str, name: str, address: str, node: str) -> None:
        """ADD of a pod, from the address manager's result to the stored endpoint."""
        call = self._call(space, name)
        call.result = result.render(Result(ips=(IPConfig(address),)), "0.3.1")
        call.config = json.dumps({**json.loads(CONFIG), "cniVersion": "0.3.1"}).encode()
        for add in (self.client.plugin.Add, self.plugin.Add):
            with rpc.translated("add"):
                answer = await add(cni_pb2.AddRequest(call=call), timeout=10, metadata=(("muslin-node", node),))
            call.result, call.context = answer.result, answer.context

    async def delete(self, space: str, name: str) -> None:
        """DEL of it."""
        for delete in (self.plugin.Del, self.client.plugin.Del):
            with rpc.translated("del"):
                await delete(cni_pb2.DelRequest(call=self._call(space, name)), timeout=10)

    @staticmethod
    def _call(space: str, name: str) -> cni_pb2.Call:
        return cni_pb2.Call(container_id=f"c-{space}-{name}", netns="/proc/1/ns/net", ifname="eth0", config=CONFIG,
                            args=f"IgnoreUnknown=1;K8S_POD_NAMESPACE={space};K8S_POD_NAME={name}")


@pytest.fixture
async def cluster(etcd: EtcdServer) -> AsyncIterator[Cluster]:
    endpoint = Service("endpoint", "--etcd", etcd.endpoint)
    policy = Service("policy", "--etcd", etcd.endpoint, "--endpoint", endpoint.target)
    with endpoint, policy:
        async with Cluster(policy.target, endpoint.target) as made:
            yield made


async def test_from_add_to_the_nodes_program(cluster: Cluster) -> None:
    client = cluster.client
    await cluster.apply_pod("x", "web", app="web")
    await cluster.apply_pod("x", "client", app="client")
    await client.apply(namespace("x"), POLICY)
    async with Node(client, "n1") as node:
        assert (await node.receive()).snapshot
        await cluster.add("x", "web", "10.0.0.1/32", "n1")
        await node.until(lambda n: "x/web" in n.endpoints)
        endpoint = node.endpoints["x/web"]
        assert list(endpoint.addresses) == ["10.0.0.1"]
        assert [list(tier.policies) for tier in endpoint.ingress] == [["default/knp.default.x.web"]]
        assert list(endpoint.profiles) == ["profile/k8s_ns.x"]
        assert endpoint.interface.startswith("cali")
        assert sorted(node.groups.values(), key=len) == [set(), {"10.0.0.1,6,8080"}]

        await cluster.add("x", "client", "10.0.0.2/32", "n2")
        await node.until(lambda n: {"10.0.0.2"} in n.groups.values())
        assert await client.allowed("x/client", "x/web", 8080)
        await cluster.apply_pod("x", "client", app="other")
        await node.until(lambda n: {"10.0.0.2"} not in n.groups.values())
        assert not await client.allowed("x/client", "x/web", 8080)

        await cluster.delete("x", "web")
        await node.until(lambda n: not n.endpoints)
        assert (node.groups, node.policies) == ({}, {})


async def test_how_long_a_change_takes_to_a_node(cluster: Cluster) -> None:
    """Printed with -s. The bound is wide, since other things may run; what it catches is a pause on the way."""
    client = cluster.client
    await client.apply(namespace("x"), POLICY)
    for i in range(24):
        await cluster.apply_pod("x", f"p{i}", app="web" if i % 2 else "client")
        await cluster.add("x", f"p{i}", f"10.0.0.{i + 1}/32", f"n{i % 2 + 1}")
    async with Node(client, "n2") as node:
        await node.until(lambda n: len(n.endpoints) == 12 and {f"10.0.0.{i + 1}" for i in range(0, 24, 2)}
                         in n.groups.values())
        for name, change in {"label of a pod": relabel, "policy": reapply}.items():
            times = [await measured(partial_change, node)
                     for partial_change in (bind(change, cluster, i) for i in range(60))]
            times.sort()
            print(f"{name}: call to message at the node, ms: min {times[0]:.2f}, "  # noqa: T201  a measurement
                  f"p50 {statistics.median(times):.2f}, p90 {times[53]:.2f}")
            assert statistics.median(times) < 100


async def measured(change: Callable[[], Awaitable[None]], node: Node) -> float:
    """Milliseconds from a change's beginning to the node's message."""
    began = time.perf_counter()
    done = asyncio.ensure_future(change())
    await node.receive()
    seconds = time.perf_counter() - began
    await done
    return seconds * 1000


def bind(change: Callable[[Cluster, int], Awaitable[None]], cluster: Cluster, i: int) -> Callable[[], Awaitable[None]]:
    return lambda: change(cluster, i)


async def relabel(cluster: Cluster, i: int) -> None:
    await cluster.apply_pod("x", "p0", app="other" if i % 2 == 0 else "client")


async def reapply(cluster: Cluster, i: int) -> None:
    await cluster.client.apply(network_policy("x", "another", {"podSelector": {}, "ingress": [
        {"ports": [{"port": i + 1}]}]}))
