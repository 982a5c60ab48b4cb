"""Pass-through between a real caller and a real service: nothing is added but the node's name, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2_grpc
from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.api.rpc.v1 import tunnel_pb2_grpc
from muslin.rpc.interceptor import Around
from muslin.rpc.tunnel import Handlers, TunnelServicer
from services.node.forward import PACKAGES, Forwarder

FULL = "pool „a“ is full: 100%\nadd one"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Seen:
    """What reached the service."""

    metadata: dict[str, Any] = field(default_factory=dict)
    remaining: float | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class Ipam(ipam_pb2_grpc.PluginServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def Add(self, request: cni_pb2.AddRequest, context: Any) -> cni_pb2.AddResponse:
        self.seen.metadata = dict(context.invocation_metadata())
        self.seen.remaining = context.time_remaining()
        self.seen.arrived.set()
        context.set_trailing_metadata((("kept", "yes"), ("raw-bin", b"\0\xff")))
        if request.call.ifname == "wait":
            try:
                await asyncio.sleep(60)
            finally:
                self.seen.cancelled.set()
        if request.call.ifname == "fail":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, FULL, (("why", "full"),))
        return cni_pb2.AddResponse(result=request.call.config)


class Endpoints(endpoint_pb2_grpc.EndpointsServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def Watch(self, request: endpoint_pb2.WatchRequest, context: Any,
                    ) -> AsyncIterator[endpoint_pb2.WatchResponse]:
        self.seen.metadata = dict(context.invocation_metadata())
        try:
            for revision in range(request.revision, request.revision + 3):
                yield endpoint_pb2.WatchResponse(revision=revision)
            if request.node == "gone":
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "compacted")
            await asyncio.sleep(60)
        finally:
            self.seen.cancelled.set()


class Programs(policy_pb2_grpc.ProgramsServicer):
    async def Subscribe(self, request_iterator: Any, context: Any) -> AsyncIterator[policy_pb2.SubscribeResponse]:
        async for request in request_iterator:
            yield policy_pb2.SubscribeResponse(revision=request.enforced_revision + 1)


@dataclass
class Setup:
    run: Path
    caller: grpc.aio.Channel
    seen: Seen

    @asynccontextmanager
    async def service(self) -> AsyncIterator[None]:
        """The three services on one socket."""
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
        handlers = Handlers(server)
        ipam_pb2_grpc.add_PluginServicer_to_server(
            Ipam(self.seen), cast("grpc.aio.Server", handlers))  # type: ignore[abstract]  # only Add
        tunnel = TunnelServicer(handlers, lambda _, handler: handler)
        tunnel_pb2_grpc.add_TunnelServicer_to_server(tunnel, server)
        endpoint_pb2_grpc.add_EndpointsServicer_to_server(Endpoints(self.seen), server)  # type: ignore[abstract]  # only Watch
        policy_pb2_grpc.add_ProgramsServicer_to_server(Programs(), server)
        server.add_insecure_port(f"unix:{self.run}/service.sock")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    async def add(self, ifname: str = "eth0", config: bytes = b"{}", **more: Any) -> cni_pb2.AddResponse:
        stub: ipam_pb2_grpc.PluginAsyncStub = ipam_pb2_grpc.PluginStub(self.caller)
        return await stub.Add(cni_pb2.AddRequest(call=cni_pb2.Call(ifname=ifname, config=config)),
                              **{"timeout": 5, "wait_for_ready": True} | more)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    channel = rpc.channel(f"unix:{tmp_path}/service.sock")
    node = grpc.aio.server(interceptors=[Around()], options=[("grpc.max_receive_message_length", 64 << 20)])
    forwarder = Forwarder("n1", dict.fromkeys(PACKAGES.values(), channel))
    node.add_generic_rpc_handlers((forwarder,))
    node.add_insecure_port(f"unix:{tmp_path}/node.sock")
    await node.start()
    caller = grpc.aio.insecure_channel(f"unix:{tmp_path}/node.sock",
                                       options=[("grpc.max_receive_message_length", 64 << 20)])
    made = Setup(tmp_path, caller, Seen())
    yield made
    await caller.close()
    await node.stop(None)
    await forwarder.aclose()
    await channel.close()


async def test_a_call_goes_through_with_the_nodes_name(setup: Setup) -> None:
    """Which the caller can not forge; its trace, its own metadata and its deadline are kept."""
    async with setup.service():
        answer = await setup.add(config=b"\xff\0bytes", timeout=3, metadata=(
            ("muslin-node", "forged"), ("traceparent", TRACE), ("mine", "kept"), ("mine-bin", b"\0\xff")))
    assert answer.result == b"\xff\0bytes"
    seen = setup.seen.metadata
    assert {key: seen.get(key) for key in ("muslin-node", "traceparent", "mine", "mine-bin")} == {
        "muslin-node": "n1", "traceparent": TRACE, "mine": "kept", "mine-bin": b"\0\xff"}
    assert setup.seen.remaining is not None
    assert 2 < setup.seen.remaining < 3.1  # gRPC rounds a deadline up for the wire, hop by hop


async def test_a_call_without_deadline_gets_one(setup: Setup) -> None:
    async with setup.service():
        await setup.add(timeout=None)
    assert setup.seen.remaining is not None


async def test_status_message_and_trailing_metadata_come_back(setup: Setup) -> None:
    async with setup.service():
        stub: Any = ipam_pb2_grpc.PluginStub(setup.caller)
        call = stub.Add(cni_pb2.AddRequest(), timeout=5, wait_for_ready=True)
        await call
        assert dict(await call.trailing_metadata()) == {"kept": "yes", "raw-bin": b"\0\xff"}
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await setup.add("fail")
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.value.details() == FULL
    assert dict(failed.value.trailing_metadata() or ())["why"] == "full"


async def test_a_caller_that_goes_away_is_noticed_there(setup: Setup) -> None:
    async with setup.service():
        asking = asyncio.ensure_future(setup.add("wait", timeout=30))
        async with asyncio.timeout(5):
            await setup.seen.arrived.wait()
            asking.cancel()
            await setup.seen.cancelled.wait()


async def test_a_deadline_passes_at_both_ends(setup: Setup) -> None:
    async with setup.service():
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await setup.add("wait", timeout=0.5)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(setup.seen.cancelled.wait(), 5)


async def test_streams_go_through_and_end_as_they_end(setup: Setup) -> None:
    async with setup.service():
        stub: Any = endpoint_pb2_grpc.EndpointsStub(setup.caller)
        stream = stub.Watch(endpoint_pb2.WatchRequest(revision=5), timeout=30, wait_for_ready=True,
                            metadata=(("muslin-node", "forged"),))
        assert [(await stream.read()).revision for _ in range(3)] == [5, 6, 7]
        assert setup.seen.metadata["muslin-node"] == "n1"
        stream.cancel()
        await asyncio.wait_for(setup.seen.cancelled.wait(), 5)
        stream = stub.Watch(endpoint_pb2.WatchRequest(node="gone"), timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            async for _ in stream:
                pass
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "compacted")


async def test_streams_both_ways(setup: Setup) -> None:
    async with setup.service():
        stub: Any = policy_pb2_grpc.ProgramsStub(setup.caller)
        call = stub.Subscribe(timeout=30, wait_for_ready=True)
        for number in (1, 5):
            await call.write(policy_pb2.SubscribeRequest(enforced_revision=number))
            assert (await call.read()).revision == number + 1
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_large_messages_go_through(setup: Setup) -> None:
    async with setup.service():
        assert len((await setup.add(config=bytes(10 << 20))).result) == 10 << 20


async def test_what_is_not_passed_on(setup: Setup) -> None:
    """A method that the service does not have is the service's to refuse; another package is this node's."""
    async with setup.service():
        await setup.add()
        asked: Any = setup.caller.unary_unary
        for path in ("/muslin.ipam.v2.Plugin/Add", "/muslin.ipam.v1.Plugin/New", "/other.v1.Thing/Do"):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await asked(path)(b"", timeout=5)
            assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def status(setup: Setup) -> grpc.StatusCode:
    try:
        await setup.add()
    except grpc.aio.AioRpcError as problem:
        return problem.code()
    return grpc.StatusCode.OK


async def test_a_service_that_is_away_is_unavailable_and_back_when_it_is_back(setup: Setup) -> None:
    assert await status(setup) is grpc.StatusCode.UNAVAILABLE
    async with setup.service(), asyncio.timeout(5):
        while await status(setup) is grpc.StatusCode.UNAVAILABLE:  # noqa: ASYNC110  the channel's own backoff
            await asyncio.sleep(0.05)
        assert await status(setup) is grpc.StatusCode.OK
