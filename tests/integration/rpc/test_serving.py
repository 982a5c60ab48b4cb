"""Serving for real: a process with a service of its own over unix sockets."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from muslin import log, rpc
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Exhausted, IOFailure, TimedOut, Unavailable
from tests.integration.rpc.served import Service, service, start

__all__ = ["service"]


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
