"""What is soaked: an etcd cluster, two address managers and two endpoint services on it, and how each is disturbed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.etcd import Etcd
from tests.support.etcd import EtcdCluster, EtcdServer
from tests.support.etcd_faults import Line
from tests.support.service import Service

__all__ = ["COOL_DOWN", "POOL", "Ipam", "Endpoint", "World", "world"]

POOL, COOL_DOWN = "10.66.0.0/25", 2
"""Small enough to be used up at times."""
_REPLICAS = 2


class Ipam:
    """One process' API."""

    def __init__(self, target: str) -> None:
        self.channel = rpc.channel(target)
        self.plugin: ipam_pb2_grpc.PluginAsyncStub = ipam_pb2_grpc.PluginStub(self.channel)
        self.api: ipam_pb2_grpc.IpamAsyncStub = ipam_pb2_grpc.IpamStub(self.channel)


class Endpoint:
    """One process' API."""

    def __init__(self, target: str) -> None:
        self.channel = rpc.channel(target)
        self.plugin: endpoint_pb2_grpc.PluginAsyncStub = endpoint_pb2_grpc.PluginStub(self.channel)
        self.api: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(self.channel)


class World:
    """The processes, clients of them, and a client of etcd that nothing disturbs but etcd's own trouble."""

    def __init__(self, cluster: EtcdCluster, services: list[Service], lines: list[Line], etcd: Etcd) -> None:
        self.cluster, self.services, self.lines, self.etcd = cluster, services, lines, etcd
        self.ipams = [Ipam(service.target) for service in services if service.name == "ipam"]
        self.endpoints = [Endpoint(service.target) for service in services if service.name == "endpoint"]
        self.faults: Counter[str] = Counter()

    async def disturb(self, rng: random.Random) -> None:
        """One fault, and its end."""
        choices: list[tuple[int, Callable[[random.Random], Awaitable[None]]]] = [
            (6, self.kill_service), (3, self.freeze_service), (3, self.kill_member), (3, self.freeze_member),
            (1, self.kill_store), (4, self.cut_lines), (1, self.compact)]
        fault, = rng.choices([each for _, each in choices], [weight for weight, _ in choices])
        self.faults[getattr(fault, "__name__", "").replace("_", " ")] += 1
        await fault(rng)

    async def kill_service(self, rng: random.Random) -> None:
        """SIGKILL one, start it again a while later."""
        service = rng.choice(self.services)
        service.kill()
        await asyncio.sleep(rng.uniform(0, 0.5))
        await asyncio.to_thread(service.start)

    async def freeze_service(self, rng: random.Random) -> None:
        """SIGSTOP one."""
        service = rng.choice(self.services)
        service.freeze()
        await asyncio.sleep(rng.uniform(0.2, 3))
        service.thaw()

    async def kill_member(self, rng: random.Random) -> None:
        """SIGKILL a member of etcd: one in three times the leader."""
        member = rng.choice(self.cluster.members)
        member.kill()
        await asyncio.sleep(rng.uniform(0, 2))
        await asyncio.to_thread(member.start)

    async def freeze_member(self, rng: random.Random) -> None:
        """SIGSTOP a member of etcd for longer than an election takes."""
        member = rng.choice(self.cluster.members)
        member.freeze()
        await asyncio.sleep(rng.uniform(0.2, 3))
        member.thaw()

    async def kill_store(self, rng: random.Random) -> None:
        """SIGKILL all members of etcd at once."""
        for member in self.cluster.members:
            member.kill()
        await asyncio.sleep(rng.uniform(0, 1))
        await asyncio.to_thread(self.cluster.heal)

    async def cut_lines(self, rng: random.Random) -> None:
        """Cut all connections of the address managers to etcd: answers that were on the way are lost."""
        for _ in range(rng.randrange(1, 8)):
            for line in self.lines:
                line.cut()
            await asyncio.sleep(rng.uniform(0, 0.1))

    async def compact(self, rng: random.Random) -> None:
        """Have etcd forget its history."""
        await asyncio.to_thread(rng.choice(self.cluster.members).compact)

    async def heal(self) -> None:
        """Wait until everything serves."""
        await asyncio.to_thread(self.cluster.heal)
        for service in self.services:
            await asyncio.to_thread(service.wait, 60)


@asynccontextmanager
async def world(members: int) -> AsyncIterator[World]:
    """Start everything; kill it at the end."""
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(EtcdCluster(members))
        etcd = await stack.enter_async_context(Etcd(cluster.endpoints))
        lines: list[Line] = []
        services = []
        for _ in range(_REPLICAS):
            endpoint = Service("endpoint", *_etcd(cluster.members), "--log-level", "warning")
            stack.callback(endpoint.stop)
            near = [await stack.enter_async_context(Line(each)) for each in cluster.endpoints]
            lines += near
            ipam = Service("ipam", *(flag for line in near for flag in ("--etcd", line.endpoint)), "--pool", POOL,
                           "--log-level", "warning", environment={"MUSLIN_ENDPOINT": endpoint.target})
            stack.callback(ipam.stop)
            services += [endpoint, ipam]
        for service in services:
            await asyncio.to_thread(service.start)
        made = World(cluster, services, lines, etcd)
        for channel in [*(each.channel for each in made.ipams), *(each.channel for each in made.endpoints)]:
            stack.push_async_callback(channel.close)
        await made.ipams[0].api.UpdatePool(ipam_pb2.UpdatePoolRequest(name="default", cool_down_seconds=COOL_DOWN),
                                           timeout=20)
        yield made


def _etcd(members: list[EtcdServer]) -> list[str]:
    return [flag for member in members for flag in ("--etcd", member.endpoint)]
