"""How long pods take in the stack: one after the other, and thirty on each node at once. It prints what it finds."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
import uuid
from contextlib import AsyncExitStack

import grpc
import pytest

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from tests.compose.machine import Machine, machine
from tests.compose.stack import NODES, Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAMESPACE = "speed"
SINGLE, AT_ONCE = 60, 30
TIMEOUT = 60.0


async def test_thirty_pods_at_once_on_each_node_are_all_networked(stack: Stack,
                                                                  channels: dict[str, grpc.aio.Channel]) -> None:
    uids = {f"{node}-{number}": str(uuid.uuid4()) for node in NODES for number in range(AT_ONCE)}
    endpoints = endpoint_pb2_grpc.EndpointsStub(channels["endpoint"])
    with rpc.translated("endpoint: apply"):
        await endpoints.ApplyNamespaces(endpoint_pb2.ApplyNamespacesRequest(
            namespaces=[endpoint_pb2.Namespace(name=NAMESPACE)]), timeout=TIMEOUT)
        await endpoints.ApplyPods(endpoint_pb2.ApplyPodsRequest(
            pods=[endpoint_pb2.Pod(namespace=NAMESPACE, name=name, uid=uid) for name, uid in uids.items()]),
            timeout=TIMEOUT)

    async def add(on: Machine, pod: str) -> tuple[Machine, str, str, float]:
        container = secrets.token_hex(32)
        done = await on.ask("add", pod=pod, namespace=NAMESPACE, uid=uids[pod], container=container, timeout=TIMEOUT)
        return on, container, str(done["address"]), float(done["seconds"])

    async with AsyncExitStack() as stacked:
        machines = [await stacked.enter_async_context(machine(node, stack.container(node))) for node in NODES]
        took = []
        for _ in range(SINGLE):
            on, container, _, seconds = await add(machines[0], f"{NODES[0]}-0")
            took.append(seconds)
            await on.ask("delete", container=container, timeout=TIMEOUT)
        began = time.monotonic()
        made = await asyncio.gather(*(add(on, f"{on.name}-{number}") for on in machines for number in range(AT_ONCE)))
        together = time.monotonic() - began
        assert len({address for _, _, address, _ in made}) == len(NODES) * AT_ONCE
        await asyncio.gather(*(on.ask("delete", container=container, timeout=TIMEOUT)
                               for on, container, _, _ in made))
    said = (f"ADD, one after the other: p50 {statistics.median(took) * 1000:.1f} ms, min {min(took) * 1000:.1f} ms; "
            f"{AT_ONCE} on each of {len(NODES)} nodes at once: {together:.1f} s")
    print(f"\n{said}")  # noqa: T201 - this is what is asked for
