"""What the tests of muslin-endpoint ask it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from types import MappingProxyType
from typing import Any, TypeVar

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.cni import context
from muslin.cni.context import Context
from muslin.errors import Conflict, TimedOut, Unavailable

T = TypeVar("T")

PUT, DELETE = endpoint_pb2.Change.KIND_PUT, endpoint_pb2.Change.KIND_DELETE

CONF = {"name": "net", "type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}}


def call(number: int = 0, pod: str = "web", config: Any = None, **fields: Any) -> cni_pb2.Call:
    """A runtime's call for container `cNUMBER` of a pod of namespace `prod`, after ipam and policy."""
    base: dict[str, Any] = {
        "container_id": f"c{number}", "ifname": "eth0", "netns": "/run/netns/x",
        "args": f"K8S_POD_NAMESPACE=prod;K8S_POD_NAME={pod}", "config": json.dumps(config or CONF).encode(),
        "result": json.dumps({"cniVersion": "0.1.0", "ip4": {"ip": f"10.0.{number >> 8}.{number & 255}/32"}}).encode(),
        "context": b'{"profiles":["k8s_ns.prod"]}'}
    return cni_pb2.Call(**(base | fields))


def pod(name: str = "web", **fields: Any) -> endpoint_pb2.Pod:
    return endpoint_pb2.Pod(**({"namespace": "prod", "name": name} | fields))


def attachment(number: int) -> cni_pb2.Attachment:
    return cni_pb2.Attachment(network="net", container_id=f"c{number}", ifname="eth0")


class Client:
    """One process' API; errors come as `muslin.errors`."""

    def __init__(self, target: str) -> None:
        self._channel = rpc.channel(target)
        self.endpoints = endpoint_pb2_grpc.EndpointsStub(self._channel)
        self.plugin = endpoint_pb2_grpc.PluginStub(self._channel)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def add(self, made: cni_pb2.Call, node: str = "worker", timeout: float = 10) -> Context:
        with rpc.translated("ADD"):
            answer = await self.plugin.Add(cni_pb2.AddRequest(call=made), timeout=timeout,
                                           metadata=(("muslin-node", node),))
        return context.parse(answer.context)

    async def delete(self, made: cni_pb2.Call, timeout: float = 10) -> None:
        with rpc.translated("DEL"):
            await self.plugin.Del(cni_pb2.DelRequest(call=made), timeout=timeout)

    async def get(self, number: int) -> endpoint_pb2.WorkloadEndpoint:
        with rpc.translated("get"):
            answer = await self.endpoints.Get(endpoint_pb2.GetRequest(attachment=attachment(number)), timeout=10)
        return answer.endpoint

    async def list(self, **filters: Any) -> endpoint_pb2.ListResponse:
        with rpc.translated("list"):
            return await self.endpoints.List(endpoint_pb2.ListRequest(**filters), timeout=10)

    async def create(self, record: endpoint_pb2.WorkloadEndpoint) -> endpoint_pb2.WorkloadEndpoint:
        with rpc.translated("create"):
            answer = await self.endpoints.Create(endpoint_pb2.CreateRequest(endpoint=record), timeout=10)
        return answer.endpoint

    async def remove(self, number: int, revision: int = 0) -> bool:
        request = endpoint_pb2.DeleteRequest(attachment=attachment(number), revision=revision)
        with rpc.translated("delete"):
            return (await self.endpoints.Delete(request, timeout=10)).deleted

    async def relabel(self, named: cni_pb2.Attachment, put: Mapping[str, str] = MappingProxyType({}),
                      remove: Iterable[str] = (), revision: int = 0) -> endpoint_pb2.WorkloadEndpoint:
        request = endpoint_pb2.UpdateLabelsRequest(attachment=named, set=put, remove=remove, revision=revision)
        with rpc.translated("labels"):
            return (await self.endpoints.UpdateLabels(request, timeout=10)).endpoint

    async def restore(self, *records: endpoint_pb2.WorkloadEndpoint, revision: int, node: str = "worker",
                      ) -> endpoint_pb2.RestoreResponse:
        request = endpoint_pb2.RestoreRequest(endpoints=records, revision=revision)
        with rpc.translated("restore"):
            return await self.endpoints.Restore(request, timeout=10, metadata=(("muslin-node", node),))

    async def node(self, name: str = "", caller: str = "worker") -> endpoint_pb2.Node:
        with rpc.translated("node"):
            answer = await self.endpoints.GetNode(endpoint_pb2.GetNodeRequest(name=name), timeout=10,
                                                  metadata=(("muslin-node", caller),))
        return answer.node

    async def check(self, made: cni_pb2.Call, node: str = "worker") -> None:
        with rpc.translated("CHECK"):
            await self.plugin.Check(cni_pb2.CheckRequest(call=made), timeout=10, metadata=(("muslin-node", node),))

    async def collect(self, config: Any, node: str = "worker", timeout: float = 10) -> None:
        request = cni_pb2.GCRequest(call=cni_pb2.Call(config=json.dumps(config).encode()))
        with rpc.translated("GC"):
            await self.plugin.GC(request, timeout=timeout, metadata=(("muslin-node", node),))

    async def status(self, config: Any = CONF) -> None:
        request = cni_pb2.StatusRequest(call=cni_pb2.Call(config=json.dumps(config).encode()))
        with rpc.translated("STATUS"):
            await self.plugin.Status(request, timeout=10)

    async def apply(self, *pods: endpoint_pb2.Pod) -> None:
        with rpc.translated("apply pods"):
            await self.endpoints.ApplyPods(endpoint_pb2.ApplyPodsRequest(pods=pods), timeout=10)

    async def forget(self, *names: str) -> None:
        refs = [endpoint_pb2.PodRef(namespace="prod", name=name) for name in names]
        with rpc.translated("delete pods"):
            await self.endpoints.DeletePods(endpoint_pb2.DeletePodsRequest(pods=refs), timeout=10)

    async def pods(self) -> Iterable[endpoint_pb2.Pod]:
        return (await self.endpoints.ListPods(endpoint_pb2.ListPodsRequest(), timeout=10)).pods

    async def apply_namespace(self, name: str, **fields: Any) -> None:
        request = endpoint_pb2.ApplyNamespacesRequest(namespaces=[endpoint_pb2.Namespace(name=name, **fields)])
        with rpc.translated("apply namespaces"):
            await self.endpoints.ApplyNamespaces(request, timeout=10)

    async def apply_node(self, name: str, **fields: Any) -> None:
        request = endpoint_pb2.ApplyNodesRequest(nodes=[endpoint_pb2.Node(name=name, **fields)])
        with rpc.translated("apply nodes"):
            await self.endpoints.ApplyNodes(request, timeout=10)

    async def forget_node(self, *names: str) -> None:
        with rpc.translated("delete nodes"):
            await self.endpoints.DeleteNodes(endpoint_pb2.DeleteNodesRequest(names=names), timeout=10)

    async def node_names(self) -> AsyncGenerator[str, None]:
        """All nodes that are known now."""
        async with aclosing(self.inventory()) as stream:
            async for response in stream:
                for change in response.changes:
                    if change.WhichOneof("object") == "node":
                        yield change.node.name
                if response.snapshot_complete:
                    return

    async def inventory(self) -> AsyncGenerator[endpoint_pb2.WatchInventoryResponse, None]:
        """As `watch`, of pods, namespaces and nodes."""
        stream = self.endpoints.WatchInventory(endpoint_pb2.WatchInventoryRequest(), timeout=60)
        try:
            with rpc.translated("watch inventory"):
                async for response in stream:
                    yield response
        finally:
            stream.cancel()

    async def watch(self, revision: int = 0, node: str = "") -> AsyncGenerator[endpoint_pb2.WatchResponse, None]:
        """Leave it early only by way of `aclosing`: a call that nobody reads stays open."""
        request = endpoint_pb2.WatchRequest(revision=revision, node=node)
        stream = self.endpoints.Watch(request, timeout=60)
        try:
            with rpc.translated("watch"):
                async for response in stream:
                    yield response
        finally:
            stream.cancel()


async def persist(ask: Callable[[], Awaitable[T]], seconds: float = 30) -> T:
    """What a runtime does: ask again, until there is an answer that is not "try again later"."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(Unavailable, TimedOut, Conflict):
                return await ask()
            await asyncio.sleep(0.05)
