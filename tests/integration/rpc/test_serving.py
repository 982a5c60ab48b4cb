"""Serving for real: a process with a service of its own over unix sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from muslin import log, rpc
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.errors import Exhausted, IOFailure, TimedOut, Unavailable

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


async def test_errors_arrive_as_what_they_are(service: Service) -> None:
    with pytest.raises(Exhausted, match=r"endpoint: list: no address left in pool a"):
        await service.list("exhausted")
    with pytest.raises(IOFailure, match="boom"):
        await service.list("bug")
    with pytest.raises(TimedOut):
        await service.list("frozen", timeout=0.2)


async def test_the_request_id_is_in_the_log(service: Service) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    log.adopt(f"00-{trace}-00f067aa0ba902b7-01")
    await service.list()
    log.adopt("")
    await service.list()
    service.process.terminate()
    _, _, err = await service.finish()
    lines = [line for line in err.splitlines() if "/List OK" in line]
    assert [f"req={trace}" in line for line in lines] == [True, False]


async def test_sigterm_lets_requests_finish_and_ends_streams(service: Service) -> None:
    await service.list()
    stream = service.stub.Watch(endpoint_pb2.WatchRequest(), timeout=30)
    first = await stream.read()
    assert isinstance(first, endpoint_pb2.WatchResponse)
    assert first.revision == 1
    slow = asyncio.ensure_future(service.list("slow"))
    assert service.process.stdout
    assert await service.process.stdout.readline() == b"begun\n"
    service.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await asyncio.wait_for(stream.read(), 3)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await slow).revision == 7
    code, out, _ = await service.finish()
    assert (code, out) == (0, "stopped\n")


async def test_a_dead_background_task_stops_the_service_with_an_error(service: Service) -> None:
    await service.list("die")
    code, _, err = await service.finish()
    assert code == 1
    assert "background task mortal died" in err


@pytest.mark.parametrize(("more", "status"), [((), "SERVING"), (("unready",), "NOT_SERVING")])
async def test_health_tells_readiness(tmp_path: Path, more: tuple[str, ...], status: str) -> None:
    running = await start(tmp_path, *more)
    stub: Any = health_pb2_grpc.HealthStub(running.channel)  # the published stubs type it for grpc, not grpc.aio
    answer = await stub.Check(health_pb2.HealthCheckRequest(service="muslin.endpoint.v1.Endpoints"), timeout=5,
                              wait_for_ready=True)
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == status
    await running.channel.close()
    running.process.terminate()
    await running.finish()


async def test_a_second_server_on_the_path_is_refused(service: Service, tmp_path: Path) -> None:
    await service.list()
    second = await start(tmp_path)
    await second.channel.close()
    code, _, err = await second.finish()
    assert code == 1
    assert "another process serves" in err
    assert (await service.list()).revision == 7


async def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    (tmp_path / "run").chmod(0o755)
    running = await start(tmp_path)
    await running.channel.close()
    code, _, err = await running.finish()
    assert code == 1
    assert "chmod 0700" in err


async def test_a_service_that_is_gone_is_unavailable(service: Service) -> None:
    await service.list()
    service.process.kill()
    await service.process.wait()
    with pytest.raises((Unavailable, TimedOut)), rpc.translated("endpoint: list"):
        await service.stub.List(endpoint_pb2.ListRequest(), timeout=2)
