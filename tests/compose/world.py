"""What lives in the stack while it is broken: standing pods with traffic between all nodes, and pods that come and go.

On each node stand a server, a client that policy lets reach every server, and an enemy that it does not: both send to
all servers, always. Beside them every node adds and deletes pods without a pause; each new one knocks at every server,
which policy forbids. All that arrives is counted where it arrives.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.errors import MuslinError
from muslin.kube.convert import namespace_message, policy_object
from muslin.kube.manifest import load
from muslin.kube.objects import Namespace, NetworkPolicy
from tests.compose.machine import Failed, Machine, machine
from tests.compose.stack import NODES, Stack

__all__ = ["Attempt", "Report", "World", "world"]

WORLD = Path(__file__).with_name("world.yaml")
NAMESPACE = "bed"
PORT = 8080
STANDING = ("server", "client", "enemy")
CALL = 60.0
"""Seconds that a plugin may take before it is killed: it gives up earlier by itself."""
COMERS = 40
"""Names for pods that come and go, on each node."""
ALIVE = 3
"""Of them at once."""
DELETIONS = 30
"""Attempts to delete one."""
PAUSE = 0.3
"""Seconds between one pod's coming and the next."""


@dataclass(frozen=True)
class Attempt:
    """One ADD: when it began and ended (monotonic seconds), and why it failed, "" if it did not."""

    node: str
    began: float
    ended: float
    error: str


@dataclass
class Report:
    """What the traffic came to since the last report."""

    flows: list[dict[str, Any]] = field(default_factory=list)
    """Of the clients: sent, replies, the longest silence, connections lost."""
    wrong: dict[str, int] = field(default_factory=dict)
    """Packets and connections that arrived at a server, or at anybody else, and should not have, by what happened."""

    @property
    def gap(self) -> float:
        """The longest silence of any flow that is allowed, in seconds."""
        return max(float(gap) for flow in self.flows for gap in flow["gap"].values())

    @property
    def lost(self) -> list[str]:
        """The flows that are allowed and lost their connection."""
        return [f"{flow['pod']} -> {flow['target']}: {flow['lost']} times" for flow in self.flows if flow["lost"]]

    @property
    def silent(self) -> list[str]:
        """The flows that are allowed and had no reply, by UDP or by TCP."""
        return [f"{flow['pod']} -> {flow['target']}: {flow['replies']}" for flow in self.flows
                if len(flow["replies"]) < 2]


class World:
    """The pods of the stack. Made by `world`."""

    def __init__(self, machines: Sequence[Machine], channels: dict[str, grpc.aio.Channel]) -> None:
        self.machines = list(machines)
        self.attempts: list[Attempt] = []
        self.doubled: list[str] = []
        self._live: dict[str, str] = {}  # container id to address, of all pods that there are
        self._uids: dict[str, str] = {}
        self.servers: dict[str, str] = {}
        self.clients: dict[str, str] = {}
        self._comers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._policies = policy_pb2_grpc.PoliciesStub(channels["policy"])
        self._endpoints = endpoint_pb2_grpc.EndpointsStub(channels["endpoint"])
        self._ipam = ipam_pb2_grpc.IpamStub(channels["ipam"])

    async def settle(self) -> None:
        """Store policies and pods, make those that stand, and let their traffic begin."""
        manifest = load([str(WORLD)])
        objects: list[Namespace | NetworkPolicy] = [*manifest.namespaces, *manifest.policies]
        with rpc.translated("policy: apply"):
            await self._policies.Apply(policy_pb2.ApplyRequest(objects=[policy_object(item) for item in objects]),
                                       timeout=30)
        with rpc.translated("endpoint: apply"):
            await self._endpoints.ApplyNamespaces(endpoint_pb2.ApplyNamespacesRequest(
                namespaces=[namespace_message(item) for item in manifest.namespaces]), timeout=30)
            await self._endpoints.ApplyPods(endpoint_pb2.ApplyPodsRequest(pods=[
                *(self._pod(f"{app}-{node}", app) for node in NODES for app in STANDING),
                *(self._pod(f"comer-{node}-{number}", "comer") for node in NODES for number in range(COMERS))]),
                timeout=30)
        for each in self.machines:
            for app in STANDING:
                container = f"{app}-{each.name}"
                address = await self._add(each, container, container)
                await each.ask("serve", pod=container, container=container, port=PORT)
                {"server": self.servers, "client": self.clients}.get(app, {})[container] = address
        for each in self.machines:
            for app in ("client", "enemy"):
                await self._send(each, f"{app}-{each.name}")

    def _pod(self, name: str, app: str) -> endpoint_pb2.Pod:
        uid = self._uids.setdefault(name, str(uuid.uuid4()))
        return endpoint_pb2.Pod(namespace=NAMESPACE, name=name, uid=uid, labels={"app": app})

    async def _add(self, on: Machine, pod: str, container: str) -> str:
        made = await on.ask("add", pod=pod, namespace=NAMESPACE, uid=self._uids[pod], container=container, timeout=CALL)
        address = str(made["address"])
        if address in self._live.values():
            self.doubled.append(f"{address} of {pod} on {on.name}")
        self._live[container] = address
        return address

    async def _send(self, on: Machine, container: str) -> None:
        await on.ask("send", pod=container, container=container, targets=list(self.servers.values()), port=PORT)

    def begin(self) -> None:
        """Let pods come and go, on every node."""
        self._stopping.clear()
        self._comers = [asyncio.create_task(self._come_and_go(each)) for each in self.machines]

    async def end(self) -> None:
        """Let no more come, and take away those that there are. Raises Failed if one can not be deleted."""
        self._stopping.set()
        await asyncio.gather(*self._comers)

    async def _come_and_go(self, on: Machine) -> None:
        alive: list[str] = []
        failed: list[str] = []
        number = 0
        while not self._stopping.is_set():
            number = (number + 1) % COMERS
            container = secrets.token_hex(32)
            began = time.monotonic()
            error = ""
            try:
                await self._add(on, f"comer-{on.name}-{number}", container)
                alive.append(container)
                await self._send(on, container)
            except Failed as problem:
                error = str(problem)
                failed.append(container)
            self.attempts.append(Attempt(on.name, began, time.monotonic(), error))
            if len(alive) > ALIVE:
                await self._delete(on, alive.pop(0))
            try:
                await asyncio.wait_for(self._stopping.wait(), PAUSE)
            except TimeoutError:
                continue
        for container in (*alive, *failed):  # a runtime deletes what it could not add, too
            await self._delete(on, container)

    async def _delete(self, on: Machine, container: str) -> None:
        """DEL, repeated until it succeeds, as runtimes do. Raises Failed if it never does."""
        self._live.pop(container, None)
        for left in reversed(range(DELETIONS)):
            try:
                await on.ask("delete", container=container, timeout=CALL)
            except Failed:
                if not left:
                    raise
                await asyncio.sleep(1)
            else:
                break

    def resumed(self, node: str, since: float) -> bool:
        """Whether an ADD that began after a moment is done."""
        return any(each.node == node and each.began >= since and not each.error for each in self.attempts)

    def longest_wait(self, node: str, since: float, until: float) -> float:
        """Seconds that a node was without a new pod at the longest, until its first ADD that began after a moment."""
        ends = [since]
        for each in sorted((each for each in self.attempts if each.node == node and not each.error),
                           key=lambda each: each.ended):
            if each.began >= since:
                ends.append(each.ended)
                if each.began >= until:
                    break
        return max(after - before for before, after in itertools.pairwise(ends))

    async def report(self, *, clear: bool = False) -> Report:
        """What arrived where, and how the flows that are allowed are doing."""
        report, wrong = Report(), Counter[str]()
        allowed = set(self.clients.values())
        for said in await asyncio.gather(*(each.ask("report", clear=clear) for each in self.machines)):
            report.flows += [flow for flow in said["flows"] if flow["pod"] in self.clients]
            for pod, sources in said["reached"].items():
                for source, count in sources.items():
                    if pod not in self.servers or source not in allowed:
                        wrong[f"{source} -> {pod}"] += count
            for flow in said["flows"]:
                if flow["pod"] not in self.clients and (flow["replies"] or flow["connected"]):
                    wrong[f"{flow['pod']} had answers from {flow['target']}"] += sum(flow["replies"].values()) or 1
        report.wrong = dict(wrong)
        return report

    async def leaks(self) -> list[str]:
        """What the address manager's own check finds: addresses without a pod, pods without an address, doubles."""
        try:
            with rpc.translated("ipam: check"):
                found = (await self._ipam.Check(ipam_pb2.CheckRequest(), timeout=30)).report
        except MuslinError as problem:
            return [f"not checked: {problem}"]
        return [f"{ipam_pb2.Problem.Kind.Name(problem.kind)}: {problem}" for problem in found.problems]


@asynccontextmanager
async def world(stack: Stack, channels: dict[str, grpc.aio.Channel]) -> AsyncIterator[World]:
    """The pods, standing and with traffic, for the time of the block."""
    async with AsyncExitStack() as stacked:
        machines = [await stacked.enter_async_context(machine(node, stack.container(node))) for node in NODES]
        made = World(machines, channels)
        await made.settle()
        yield made
