"""Calls through a tunnel: to caller and handler they are what unary calls are."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.ipam.v1 import ipam_pb2_grpc
from muslin.api.rpc.v1 import tunnel_pb2, tunnel_pb2_grpc
from muslin.errors import Exhausted
from muslin.rpc.interceptor import Around
from muslin.rpc.tunnel import Handlers, Tunnel, TunnelServicer
from tests.integration.rpc.served import Service, service, start

__all__ = ["service"]

ADD = "/muslin.ipam.v1.Plugin/Add"
LIST = "/muslin.endpoint.v1.Endpoints/List"
PATIENCE = 20.0


@dataclass
class Ipam(ipam_pb2_grpc.PluginServicer):
    """Does what the interface name says, and remembers what it saw."""

    metadata: dict[str, Any] = field(default_factory=dict)
    remaining: float | None = None
    begun: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    cancelled: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def Add(self, request: cni_pb2.AddRequest, context: Any) -> cni_pb2.AddResponse:
        ifname = request.call.ifname
        self.metadata, self.remaining = dict(context.invocation_metadata()), context.time_remaining()
        self.begun.put_nowait(ifname)
        if ifname == "wait":
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled.put_nowait(ifname)
                raise
        if ifname == "full":
            raise Exhausted("no address left in pool „a“")
        if ifname == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone", (("why", "gone"), ("raw-bin", b"\0\xff")))
        if ifname == "bug":
            raise ValueError("boom")
        context.set_trailing_metadata((("kept", "yes"),))
        return cni_pb2.AddResponse(result=ifname.encode())


@dataclass
class Setup:
    """A server in this process, and a tunnel to it."""

    target: str
    ipam: Ipam
    servicer: TunnelServicer
    server: grpc.aio.Server
    tunnel: Tunnel

    async def add(self, ifname: str, timeout: float = PATIENCE, **more: Any) -> tunnel_pb2.Answer:
        request = cni_pb2.AddRequest(call=cni_pb2.Call(ifname=ifname))
        return await self.tunnel.call(ADD, request.SerializeToString(), timeout=timeout, **more)


def stand_still(pid: int) -> None:
    """Keep this thread's loop from running until a process is dead, and grpcio's thread has seen its socket close."""
    with suppress(ChildProcessError):  # waited for already
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    time.sleep(0.1)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    target, around = f"unix:{tmp_path}/test.sock", Around()
    ipam = Ipam()  # type: ignore[abstract]  # one method is enough here
    server = grpc.aio.server(interceptors=[around])
    handlers = Handlers(server)
    servicer = TunnelServicer(handlers, around.wrap)
    ipam_pb2_grpc.add_PluginServicer_to_server(ipam, cast("grpc.aio.Server", handlers))
    tunnel_pb2_grpc.add_TunnelServicer_to_server(servicer, server)
    server.add_insecure_port(target)
    await server.start()
    async with rpc.channel(target) as channel:
        tunnel = Tunnel(channel)
        yield Setup(target, ipam, servicer, server, tunnel)
        await tunnel.aclose()
    await server.stop(None)


async def test_a_handler_sees_what_it_would_see_of_a_call_by_itself(setup: Setup) -> None:
    """Metadata of both kinds, the deadline; the caller gets response and trailing metadata."""
    answer = await setup.add("eth0", timeout=7, metadata=(("mine", "x"), ("mine-bin", b"\0\xff")))
    assert cni_pb2.AddResponse.FromString(answer.response).result == b"eth0"
    assert [(item.key, item.value) for item in answer.trailing] == [("kept", b"yes")]
    assert setup.ipam.metadata == {"mine": "x", "mine-bin": b"\0\xff"}
    assert setup.ipam.remaining is not None
    assert 0 < setup.ipam.remaining <= 7


@pytest.mark.parametrize(("ifname", "code", "details"), [
    ("full", grpc.StatusCode.RESOURCE_EXHAUSTED, "no address left in pool „a“"),
    ("abort", grpc.StatusCode.NOT_FOUND, "gone"),
    ("bug", grpc.StatusCode.INTERNAL, "ValueError: boom"),
])
async def test_a_failure_has_its_status_and_is_its_neighbours_business_only(
        setup: Setup, ifname: str, code: grpc.StatusCode, details: str) -> None:
    before, failed, after = await asyncio.gather(
        setup.add("eth0"), setup.add(ifname), setup.add("eth1"), return_exceptions=True)
    assert isinstance(before, tunnel_pb2.Answer)
    assert isinstance(after, tunnel_pb2.Answer)
    assert isinstance(failed, grpc.aio.AioRpcError)
    assert (failed.code(), failed.details()) == (code, details)
    if ifname == "abort":
        assert dict(failed.trailing_metadata() or ()) == {"why": "gone", "raw-bin": b"\0\xff"}


async def test_a_method_that_nobody_serves_is_unimplemented(setup: Setup) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await setup.tunnel.call("/no.Such/Method", b"", timeout=PATIENCE)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_that_does_not_decode_is_an_error_of_its_own(setup: Setup) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await setup.tunnel.call(ADD, b"\xff", timeout=PATIENCE)
    assert failed.value.code() is grpc.StatusCode.DATA_LOSS
    assert (await setup.add("eth0")).status == 0


async def test_a_slow_call_holds_nobody_up(setup: Setup) -> None:
    """Answers come as they are ready."""
    slow = asyncio.ensure_future(setup.add("wait"))
    assert await asyncio.wait_for(setup.ipam.begun.get(), PATIENCE) == "wait"
    await setup.add("eth0")
    assert not slow.done()
    setup.ipam.go.set()
    assert cni_pb2.AddResponse.FromString((await slow).response).result == b"wait"


async def test_many_at_once_each_get_their_own_answer(setup: Setup) -> None:
    """More than go into one message."""
    names = [f"e{number}" for number in range(1000)]
    answers = await asyncio.gather(*map(setup.add, names))
    assert [cni_pb2.AddResponse.FromString(a.response).result.decode() for a in answers] == names


async def test_a_deadline_ends_the_call_on_both_sides(setup: Setup) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await setup.add("wait", timeout=0.2)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await asyncio.wait_for(setup.ipam.cancelled.get(), PATIENCE) == "wait"


async def test_a_cancelled_call_is_cancelled_at_the_server(setup: Setup) -> None:
    task = asyncio.ensure_future(setup.add("wait"))
    assert await asyncio.wait_for(setup.ipam.begun.get(), PATIENCE) == "wait"
    task.cancel()
    assert await asyncio.wait_for(setup.ipam.cancelled.get(), PATIENCE) == "wait"
    assert (await setup.add("eth0")).status == 0


async def test_a_client_that_goes_away_leaves_nothing_running(setup: Setup) -> None:
    task = asyncio.ensure_future(setup.add("wait"))
    assert await asyncio.wait_for(setup.ipam.begun.get(), PATIENCE) == "wait"
    await setup.tunnel.aclose()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await task
    assert failed.value.code() is grpc.StatusCode.CANCELLED
    assert await asyncio.wait_for(setup.ipam.cancelled.get(), PATIENCE) == "wait"


async def test_draining_answers_what_is_under_way_and_takes_nothing_more(setup: Setup) -> None:
    slow = asyncio.ensure_future(setup.add("wait"))
    assert await asyncio.wait_for(setup.ipam.begun.get(), PATIENCE) == "wait"
    setup.servicer.drain()
    late = asyncio.ensure_future(setup.add("eth0"))
    setup.ipam.go.set()
    assert cni_pb2.AddResponse.FromString((await slow).response).result == b"wait"
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await late
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_sigterm_lets_calls_finish(service: Service) -> None:
    """In a real process, whose answer is complete before it ends."""
    tunnel = Tunnel(service.channel)
    await service.list()
    slow = asyncio.ensure_future(tunnel.call(
        LIST, endpoint_pb2.ListRequest(node="slow").SerializeToString(), timeout=PATIENCE))
    assert service.process.stdout
    assert await service.process.stdout.readline() == b"begun\n"
    service.process.send_signal(signal.SIGTERM)
    assert endpoint_pb2.ListResponse.FromString((await slow).response).revision == 7
    code, _, _ = await service.finish()
    assert code == 0
    await tunnel.aclose()


async def test_a_killed_server_is_unavailable_and_a_new_one_is_found(service: Service, tmp_path: Path) -> None:
    """Calls that were on their way are told; the tunnel opens again by itself."""
    tunnel, request = Tunnel(service.channel), endpoint_pb2.ListRequest()
    await service.list()
    slow = asyncio.ensure_future(tunnel.call(
        LIST, endpoint_pb2.ListRequest(node="frozen").SerializeToString(), timeout=PATIENCE))
    await tunnel.call(LIST, request.SerializeToString(), timeout=PATIENCE)
    service.process.kill()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await slow
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    again = await start(tmp_path)
    try:
        await again.list()
        answer = await tunnel.call(LIST, request.SerializeToString(), timeout=PATIENCE)
        assert endpoint_pb2.ListResponse.FromString(answer.response).revision == 7
    finally:
        again.process.kill()
        await again.process.wait()
        await again.channel.close()
        await tunnel.aclose()


async def test_a_stream_that_was_lost_unnoticed_is_unavailable_like_any(service: Service) -> None:
    """Grpcio calls it INTERNAL when it is written to before its end is known (grpc/grpc#36066)."""
    tunnel, request = Tunnel(service.channel), endpoint_pb2.ListRequest().SerializeToString()
    await service.list()
    await tunnel.call(LIST, request, timeout=PATIENCE)
    service.process.kill()
    stand_still(service.process.pid)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await tunnel.call(LIST, request, timeout=PATIENCE)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    await tunnel.aclose()


async def test_where_no_server_is_a_call_says_so(tmp_path: Path) -> None:
    async with rpc.channel(f"unix:{tmp_path}/none.sock") as channel:
        tunnel = Tunnel(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await tunnel.call(LIST, b"", timeout=PATIENCE)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        await tunnel.aclose()


async def test_a_server_that_is_about_to_be_there_is_waited_for(tmp_path: Path) -> None:
    """Though the channel has failed to connect, and is in no hurry to try again."""
    (tmp_path / "run").mkdir(mode=0o700)
    async with rpc.channel(f"unix:{tmp_path}/run/test.sock") as channel:
        channel.get_state(try_to_connect=True)
        while channel.get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            await channel.wait_for_state_change(channel.get_state())
        running = await start(tmp_path)
        await running.list()
        tunnel = Tunnel(channel)
        answer = await tunnel.call(LIST, b"", timeout=PATIENCE)
        assert endpoint_pb2.ListResponse.FromString(answer.response).revision == 7
        await tunnel.aclose()
        running.process.kill()
        await running.process.wait()
        await running.channel.close()
