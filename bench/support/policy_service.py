"""What policy costs as it is deployed: etcd, the endpoint service, the policy service, and nodes that are subscribed.

    .venv/bin/python -m bench.support.policy_service '{"nodes": 10, "namespaces": 1000, ...}' TRIES [--kernel]

Prints a JSON object. Changes are written as the cluster writes them - records of pods by the endpoint service's codec
into etcd, policies by `Apply` - and a message has arrived when its bytes are here. With `--kernel` (root) the first
node has its program in nf_tables of a namespace of its own, by the node daemon's code.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any

import grpc
import msgspec
import uvloop

from bench.support import policy_shapes as shapes
from bench.support.figures import quantiles
from bench.support.policy_kernel import Kernel, kernel
from bench.support.policy_shapes import Shape
from bench.support.processes import peak, tree_cpu
from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.etcd import Delete, Etcd, Put
from services.endpoint import codec
from services.endpoint.records import NamedPort, WorkloadEndpoint
from services.node.enforce.program import from_message
from services.node.enforce.state import Claim
from services.policy import records
from services.policy.records import Object
from tests.support.etcd import EtcdServer
from tests.support.service import Service

__all__ = ["main"]

_OPERATIONS, _AT_ONCE = 112, 8
_PATIENCE = 300.0
_LOCAL = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20))
"""A connection of its own for each node, as nodes have it."""


def stored(record: endpoint_pb2.WorkloadEndpoint) -> WorkloadEndpoint:
    """A record as the endpoint service keeps it."""
    where = record.attachment
    return WorkloadEndpoint(
        network=where.network, container_id=where.container_id, ifname=where.ifname, node=record.node,
        orchestrator=record.orchestrator, workload=record.workload, namespace=record.namespace, pod=record.pod,
        service_account=record.service_account, labels=dict(record.labels), addresses=tuple(record.addresses),
        profiles=tuple(record.profiles), host_interface=record.host_interface,
        ports=tuple(NamedPort(port.name, port.protocol, port.port) for port in record.ports))


def endpoint_put(record: endpoint_pb2.WorkloadEndpoint) -> Put:
    """What stores a pod's record."""
    made = stored(record)
    return Put(codec.key_of(made), codec.encode(made))


def object_put(item: policy_pb2.Object) -> Put:
    """What stores an object."""
    made = Object(item.kind, item.namespace, item.name, item.origin, msgspec.Raw(item.manifest))
    return Put(made.key, records.encode(made))


class Node:
    """A subscription; the time of its latest message, and its bytes."""

    def __init__(self, target: str, name: str) -> None:
        self._name = name
        self._channel = grpc.aio.insecure_channel(target, options=_LOCAL)
        self._stream: Any = self._channel.stream_stream(
            "/muslin.policy.v1.Programs/Subscribe",
            request_serializer=policy_pb2.SubscribeRequest.SerializeToString)(wait_for_ready=True)
        self.raw = b""
        self.at = 0.0
        self.bytes = self.messages = 0
        self.news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Subscribe."""
        await self._stream.write(policy_pb2.SubscribeRequest(node=self._name))
        self._reader = asyncio.create_task(self._read(), name=self._name)

    async def _read(self) -> None:
        while (raw := await self._stream.read()) is not grpc.aio.EOF:
            self.at, self.raw = time.perf_counter(), raw
            self.messages, self.bytes = self.messages + 1, self.bytes + len(raw)
            self.news.set()

    async def next(self) -> float:
        """Wait for a message; when it came."""
        async with asyncio.timeout(_PATIENCE):
            await self.news.wait()
        self.news.clear()
        return self.at

    async def close(self) -> None:
        """End it."""
        self._stream.cancel()
        if self._reader:
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()


class Cluster:
    """A policy service with everything in it, and the first node's subscription."""

    def __init__(self, shape: Shape, etcd: Etcd, service: Service, stack: AsyncExitStack) -> None:
        self.shape, self.etcd, self.service, self._stack = shape, etcd, service, stack
        self.policies: policy_pb2_grpc.PoliciesAsyncStub
        self.first: Node

    async def load(self) -> float:
        """Seconds from the service's start until the first node has its program."""
        began = time.perf_counter()
        self.service.launch()
        self.first = await self.node(0)
        arrived = await self.first.next()
        channel = rpc.channel(self.service.target)
        self._stack.push_async_callback(channel.close)
        self.policies = policy_pb2_grpc.PoliciesStub(channel)
        return arrived - began

    async def node(self, number: int) -> Node:
        """Subscribe a node."""
        made = Node(self.service.target, f"node-{number}")
        self._stack.push_async_callback(made.close)
        await made.start()
        return made

    async def apply(self, *objects: policy_pb2.Object) -> None:
        """As `muslin apply`."""
        await self.policies.Apply(policy_pb2.ApplyRequest(objects=objects), timeout=_PATIENCE)

    async def delete(self, item: policy_pb2.Object) -> None:
        """As `muslin delete`."""
        ref = policy_pb2.ObjectRef(kind=item.kind, namespace=item.namespace, name=item.name)
        await self.policies.Delete(policy_pb2.DeleteRequest(objects=[ref]), timeout=_PATIENCE)

    async def put(self, record: endpoint_pb2.WorkloadEndpoint) -> None:
        """As the endpoint service's Add."""
        await self.etcd.txn([], [endpoint_put(record)], timeout=_PATIENCE)

    async def remove(self, record: endpoint_pb2.WorkloadEndpoint) -> None:
        """As its Del."""
        await self.etcd.txn([], [Delete(codec.key_of(stored(record)))], timeout=_PATIENCE)


async def fill(etcd: Etcd, puts: Iterable[Put]) -> None:
    """Store records."""
    every, limit = list(puts), asyncio.Semaphore(_AT_ONCE)

    async def write(start: int) -> None:
        async with limit:
            await etcd.txn([], every[start:start + _OPERATIONS], timeout=_PATIENCE)

    await asyncio.gather(*(write(start) for start in range(0, len(every), _OPERATIONS)))


@asynccontextmanager
async def cluster(shape: Shape) -> AsyncIterator[Cluster]:
    """Etcd with a shape in it, the endpoint service, and a policy service that is not started."""
    with EtcdServer() as store:
        async with Etcd([store.endpoint]) as etcd, AsyncExitStack() as stack:
            await fill(etcd, map(endpoint_put, shape.endpoints()))
            await fill(etcd, map(object_put, shape.objects()))
            endpoints = Service("endpoint", "--etcd", store.endpoint, "--log-level", "warning")
            stack.callback(endpoints.stop)
            endpoints.launch()
            await asyncio.to_thread(endpoints.wait, _PATIENCE)
            service = Service("policy", "--etcd", store.endpoint, "--endpoint", endpoints.target,
                              "--log-level", "warning")
            stack.callback(service.stop)
            yield Cluster(shape, etcd, service, stack)


Step = Callable[[], Awaitable[None]]


def changes(made: Cluster) -> dict[str, Callable[[int], tuple[Step, Step]]]:
    """Kinds of changes of which the first node has to know; each with one that takes it back."""
    shape = made.shape

    def pod(number: int) -> tuple[Step, Step]:
        record = shapes.endpoint(shape, shape.pods + number)
        record.node = "node-0"
        return lambda: made.put(record), lambda: made.remove(record)

    def label(number: int) -> tuple[Step, Step]:
        app = 7 % shape.apps  # one that policies select
        before = shapes.endpoint(shape, app * shape.namespaces + number % shape.namespaces)
        before.node, after = "node-0", endpoint_pb2.WorkloadEndpoint()
        after.CopyFrom(before)
        after.labels["app"] = "app-none"
        return lambda: made.put(after), lambda: made.put(before)

    def policy(number: int) -> tuple[Step, Step]:
        item = shapes.network_policy("ns-0", f"more-{number}", {"podSelector": {}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "app-0"}}}], "ports": [{"port": 8080}]}]})
        return lambda: made.apply(item), lambda: made.delete(item)

    return {"pod": pod, "label": label, "policy": policy}


async def timed(made: Cluster, steps: Iterable[Step], then: Callable[[bytes], None],
                ) -> list[tuple[float, float, float]]:
    """Seconds from each step to the first node's message, to the end of `then` with it, and of CPU of `then`."""
    found = []
    for step in steps:
        made.first.news.clear()
        began = time.perf_counter()
        asked = asyncio.ensure_future(step())
        arrived = await made.first.next()
        cpu = time.process_time()
        then(made.first.raw)
        found.append((arrived - began, time.perf_counter() - began, time.process_time() - cpu))
        await asked
    return found


async def everywhere(made: Cluster, tries: int) -> dict[str, object]:
    """All nodes subscribed: what that takes, and a change that concerns all of them."""
    began = time.perf_counter()
    nodes = [made.first, *[await made.node(number) for number in range(1, made.shape.nodes)]]
    for node in nodes[1:]:
        await node.next()
    snapshots = time.perf_counter() - began
    sizes = sum(node.bytes for node in nodes)
    seconds = []
    for number in range(tries):
        record = shapes.dns(made.shape, 100 + number)
        for step in (made.put, made.remove):
            for node in nodes:
                node.news.clear()
            began = time.perf_counter()
            await step(record)
            seconds.append(max([await node.next() for node in nodes]) - began)
    return {"nodes": len(nodes), "snapshots_s": snapshots, "snapshots_mb": sizes / 1e6, **quantiles(seconds)}


class Enforced:
    """The first node's kernel, with its program."""

    def __init__(self, made: Kernel, snapshot: bytes) -> None:
        self._kernel = made
        update = from_message(policy_pb2.SubscribeResponse.FromString(snapshot))
        self.seconds = made.take(*(Claim(each.attachment, each.interface) for each in update.endpoints), update)

    def take(self, raw: bytes) -> None:
        """A message of a later revision; the kernel has it when this returns."""
        update = from_message(policy_pb2.SubscribeResponse.FromString(raw))
        known = self._kernel.state
        self._kernel.take(*(Claim(each.attachment, each.interface) for each in update.endpoints
                            if each.attachment not in known.claims), update)


async def measured(shape: Shape, tries: int, enforced: Kernel | None) -> dict[str, object]:
    """The figures of one shape."""
    async with cluster(shape) as made:
        result: dict[str, object] = {"load_s": await made.load(), "load_cpu_s": tree_cpu(made.service.pid),
                                     "loaded_mb": peak(made.service.pid)}
        first = Enforced(enforced, made.first.raw) if enforced else None
        if first:
            result["kernel_first_s"] = first.seconds
        for kind, make in changes(made).items():
            times = await timed(made, (step for number in range(tries) for step in make(number)),
                                first.take if first else lambda _: None)
            sent, done, cpu = zip(*times, strict=True)
            result[kind] = quantiles(sent)
            if first:
                result[f"{kind} in the kernel"] = {**quantiles(done), "cpu": quantiles(cpu)}
        if not first:
            result["everywhere"] = await everywhere(made, tries)
        result["memory_mb"] = peak(made.service.pid)
        return result


def main() -> None:
    """Measure one shape."""
    shape, tries = Shape(**json.loads(sys.argv[1])), int(sys.argv[2])
    if "--kernel" in sys.argv[3:]:
        with kernel() as enforced:
            found = uvloop.run(measured(shape, tries, enforced))
    else:
        found = uvloop.run(measured(shape, tries, None))
    print(json.dumps({"shape": asdict(shape), **found}))


if __name__ == "__main__":
    main()
