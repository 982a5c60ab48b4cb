"""A process that serves with muslin.rpc, over a unix socket."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc

SERVICE = textwrap.dedent("""
    import asyncio, sys
    import grpc
    from muslin import log, rpc
    from muslin.api.endpoint.v1 import endpoint_pb2 as pb, endpoint_pb2_grpc as stubs
    from muslin.errors import Exhausted

    class Endpoints(stubs.EndpointsServicer):
        async def List(self, request, context):
            if request.node == "slow":
                print("begun", flush=True)
                await asyncio.sleep(1)
            if request.node == "frozen":
                await asyncio.sleep(60)
            if request.node == "exhausted":
                raise Exhausted("no address left in pool a")
            if request.node == "bug":
                raise ValueError("boom")
            if request.node == "die":
                app.tasks.spawn("mortal", die())
            return pb.ListResponse(revision=7)

        async def Watch(self, request, context):
            yield pb.WatchResponse(revision=1)
            await asyncio.sleep(60)

    async def die():
        raise RuntimeError("out of luck")

    class App(rpc.App):
        name = "muslin-test"
        async def start(self, readiness):
            self.part = readiness.part("store")
            self.part.set(len(sys.argv) < 3)
        def register(self, server):
            stubs.add_EndpointsServicer_to_server(Endpoints(), server)
            return ("muslin.endpoint.v1.Endpoints",)
        async def stop(self):
            print("stopped", flush=True)

    app = App()
    log.setup("muslin-test")
    sys.exit(rpc.serve(app, [sys.argv[1]]))
""")


class Service:
    def __init__(self, process: asyncio.subprocess.Process, target: str) -> None:
        self.process, self.target = process, target
        self.channel = rpc.channel(target)
        self.stub: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(self.channel)

    async def list(self, node: str = "", timeout: float = 5) -> endpoint_pb2.ListResponse:
        with rpc.translated("endpoint: list"):
            return await self.stub.List(endpoint_pb2.ListRequest(node=node), timeout=timeout, wait_for_ready=True)

    async def finish(self) -> tuple[int, str, str]:
        out, err = await asyncio.wait_for(self.process.communicate(), 15)
        return self.process.returncode or 0, out.decode(), err.decode()


async def start(tmp_path: Path, *more: str) -> Service:
    target = f"unix:{tmp_path}/run/test.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, target, *more, env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    return Service(process, target)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    running = await start(tmp_path)
    yield running
    await running.channel.close()
    if running.process.returncode is None:
        running.process.kill()
        await running.process.wait()
