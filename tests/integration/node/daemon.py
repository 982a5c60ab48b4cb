"""The daemon as a process in a namespace that stands for its host, and a policy service to feed it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.node.v1 import node_pb2, node_pb2_grpc
from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.cni import context as contexts
from muslin.cni import result as results
from muslin.cni.context import Context
from muslin.cni.result import IPConfig, Result
from muslin.errors import TimedOut

CONFIG = b'{"cniVersion": "1.1.0", "name": "net", "type": "muslin"}'


class Programs(policy_pb2_grpc.ProgramsServicer):
    """Streams what the test says, to every subscriber: all so far as one snapshot, then each message."""

    def __init__(self) -> None:
        self.snapshot = policy_pb2.SubscribeResponse(revision=1, snapshot=True)
        self.acknowledged: asyncio.Queue[int] = asyncio.Queue()
        self.nodes: list[str] = []
        self.hold: asyncio.Event | None = None
        """While it is there and not set, no snapshot is sent."""
        self._queues: list[asyncio.Queue[policy_pb2.SubscribeResponse]] = []

    async def Subscribe(self, request_iterator: Any, context: Any) -> AsyncIterator[policy_pb2.SubscribeResponse]:
        async def read() -> None:
            async for request in request_iterator:
                if request.node:
                    self.nodes.append(request.node)
                else:
                    self.acknowledged.put_nowait(request.enforced_revision)

        reader = asyncio.ensure_future(read())
        queue: asyncio.Queue[policy_pb2.SubscribeResponse] = asyncio.Queue()
        self._queues.append(queue)
        try:
            if self.hold is not None:
                await self.hold.wait()
            yield self.snapshot
            while True:
                yield await queue.get()
        finally:
            self._queues.remove(queue)
            reader.cancel()

    def send(self, message: policy_pb2.SubscribeResponse) -> None:
        """Send a delta to all subscribers."""
        for queue in self._queues:
            queue.put_nowait(message)

    async def until(self, revision: int) -> None:
        """Wait until a revision is acknowledged."""
        async with asyncio.timeout(SECONDS):
            while await self.acknowledged.get() != revision:
                pass


def call(container: str, netns: Path | str, address: str, interface: str, *, mtu: int = 0, ipv6: str = "",
         ) -> cni_pb2.Call:
    """A call as it reaches the node: the addresses and the context are there already."""
    config = CONFIG[:-1] + b', "mtu": %d}' % mtu
    ips = (IPConfig(f"{address}/32"), *((IPConfig(f"{ipv6}/128"),) if ipv6 else ()))
    return cni_pb2.Call(container_id=container, netns=str(netns), ifname="eth0", config=config,
                        result=results.render(Result(ips=ips), "1.1.0"),
                        context=contexts.render(Context(host_interface=interface, mac="02:00:00:00:00:07")))


def check(of: cni_pb2.Call, answered: Result) -> cni_pb2.Call:
    """The CHECK of an attachment that was answered so."""
    config = json.loads(of.config) | {"prevResult": json.loads(results.render(answered, "1.1.0"))}
    return cni_pb2.Call(container_id=of.container_id, netns=of.netns, ifname=of.ifname,
                        config=json.dumps(config).encode())


def endpoint(container: str, address: str, interface: str, *, ipv6: str = "") -> policy_pb2.Endpoint:
    """The endpoint of such a call in a program, with the profile that allows all."""
    return policy_pb2.Endpoint(
        attachment=cni_pb2.Attachment(network="net", container_id=container, ifname="eth0"),
        interface=interface, addresses=[address, *([ipv6] if ipv6 else [])], profiles=["profile/all"],
        workload=f"test/{container}")


def allow_all() -> policy_pb2.Policy:
    """The profile that allows all."""
    rule = policy_pb2.Rule(action=policy_pb2.ACTION_ALLOW)
    return policy_pb2.Policy(id="profile/all", name="all", ingress=[rule], egress=[rule])


SECONDS = 60.0
"""Longest wait for what must happen; it takes a fraction of one, on a machine that has nothing else to do."""


class Daemon:
    """A running daemon."""

    def __init__(self, process: asyncio.subprocess.Process, target: str) -> None:
        self.process, self.target = process, target
        self.channel = rpc.channel(target)
        self.plugin: node_pb2_grpc.PluginAsyncStub = node_pb2_grpc.PluginStub(self.channel)
        self.node: node_pb2_grpc.NodeAsyncStub = node_pb2_grpc.NodeStub(self.channel)

    async def add(self, request: cni_pb2.Call, timeout: float = SECONDS) -> Result:
        with rpc.translated("node: add"):
            answer = await self.plugin.Add(cni_pb2.AddRequest(call=request), timeout=timeout, wait_for_ready=True)
        return results.parse(answer.result)

    async def too_late(self, request: cni_pb2.Call, timeout: float) -> str:
        """Why ADD ran out of time, in the daemon's words; asked again where it was too slow to say so in time."""
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    await self.add(request, timeout=timeout)
                except TimedOut as problem:
                    if "was not in the kernel" in problem.message or "no program has come" in problem.message:
                        return problem.message

    async def check(self, request: cni_pb2.Call, timeout: float = SECONDS) -> None:
        with rpc.translated("node: check"):
            await self.plugin.Check(cni_pb2.CheckRequest(call=request), timeout=timeout, wait_for_ready=True)

    async def delete(self, request: cni_pb2.Call, timeout: float = SECONDS) -> None:
        with rpc.translated("node: del"):
            await self.plugin.Del(cni_pb2.DelRequest(call=request), timeout=timeout, wait_for_ready=True)

    async def status(self) -> node_pb2.GetStatusResponse:
        with rpc.translated("node: status"):
            return await self.node.GetStatus(node_pb2.GetStatusRequest(), timeout=SECONDS, wait_for_ready=True)

    async def ready(self) -> None:
        """Wait until every part is ready."""
        async with asyncio.timeout(SECONDS):
            while not all(part.ready for part in (await self.status()).parts):  # noqa: ASYNC110  another process' state
                await asyncio.sleep(0.02)

    async def stop(self, number: int = signal.SIGTERM) -> str:
        await self.channel.close()
        if self.process.returncode is None:
            self.process.send_signal(number)
        _, err = await asyncio.wait_for(self.process.communicate(), SECONDS)
        return err.decode()


async def spawn(host: Path, run: Path, *more: str, targets: Iterable[str] = ("ipam", "endpoint", "policy"),
                ) -> Daemon:
    """Start the daemon inside a namespace."""
    target = f"unix:{run}/muslin.sock"
    services = [part for name in targets for part in (f"--{name}", f"unix:{run}/{name}.sock")]
    process = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={host}", sys.executable, "-m", "services.node", "--node", "n1", "--listen", target,
        "--state", str(run / "state"), *services, *more, env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    return Daemon(process, target)


@asynccontextmanager
async def policy_service(run: Path) -> AsyncIterator[Programs]:
    """A policy service that serves programs, and nothing else."""
    server, programs = grpc.aio.server(), Programs()
    policy_pb2_grpc.add_ProgramsServicer_to_server(programs, server)
    server.add_insecure_port(f"unix:{run}/policy.sock")
    await server.start()
    try:
        yield programs
    finally:
        await server.stop(None)
