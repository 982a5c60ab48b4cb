"""Pass-through: calls for the other services arrive on this node's one socket and go on over warm channels.

Bytes go through undecoded, the unary calls to one service over one tunnel. Added is this node's name, which a caller
can not forge; kept are the deadline, the request id and everything a caller put into metadata; status, message and
trailing metadata come back as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError

from muslin import log as logs
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.rpc.access import repeatable
from muslin.rpc.identity import NODE_METADATA
from muslin.rpc.tunnel import Tunnel, Tunnels, received, tunnel_to
from muslin.tracing import INVOCATION_METADATA
from services.node.upkeep.gate import Gate, Key

__all__ = ["PACKAGES", "Forwarder"]

if TYPE_CHECKING:  # the class takes parameters in its stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
Context = grpc.aio.ServicerContext[Any, Any]

PACKAGES = {"ipam": "muslin.ipam.v1", "endpoint": "muslin.endpoint.v1", "policy": "muslin.policy.v1"}
"""Packages passed on, by the name of the service that has them."""

DEFAULT_SECONDS = 60.0
"""Deadline of a unary call that came without one."""

_OWN = ("user-agent", NODE_METADATA, INVOCATION_METADATA)


def _methods() -> dict[str, MethodDescriptor]:
    return {f"/{service.full_name}/{method.name}": method
            for file in (ipam_pb2.DESCRIPTOR, endpoint_pb2.DESCRIPTOR, policy_pb2.DESCRIPTOR)
            for service in file.services_by_name.values() for method in service.methods}


class Forwarder(grpc.GenericRpcHandler):
    """Serves every method of the packages by asking their service."""

    def __init__(self, node: str, channels: Mapping[str, grpc.aio.Channel], gate: Gate | None = None) -> None:
        """`channels` by package; steps of an ADD pass the gate.

        A method that is in no known file is taken as a stream both ways, which any is.
        """
        self._node = node
        self._channels = channels
        self._gate = gate
        self._tunnels = {package: tunnel_to(channel) for package, channel in channels.items()}
        self._handlers = {path: self._handler(path, method) for path, method in _methods().items()}

    async def aclose(self) -> None:
        """End what goes on. The channels stay the caller's."""
        for tunnel in self._tunnels.values():
            await tunnel.aclose()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method, None if its package is not passed on."""
        path = handler_call_details.method
        return self._handlers.get(path) or self._handler(path, None)

    def _handler(self, path: str, method: MethodDescriptor | None) -> Handler | None:
        package = path[1:].partition("/")[0].rpartition(".")[0]
        channel = self._channels.get(package)
        if channel is None:
            return None
        if method is None or method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(channel.stream_stream(path)))
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(channel.unary_stream(path)))
        return grpc.unary_unary_rpc_method_handler(self._unary(self._tunnels[package], path))

    def _metadata(self, context: Context) -> tuple[tuple[str, str | bytes], ...]:
        received = context.invocation_metadata() or ()
        header = logs.traceparent.get()  # the caller's, or where there are traces our own span's below it
        return (*((key, (header or value) if key == "traceparent" else value) for key, value in received
                  if key not in _OWN and not key.startswith("grpc-")),
                (NODE_METADATA, self._node))

    def _unary(self, tunnel: Tunnel | Tunnels, path: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        gate = self._gate if path.endswith(".Plugin/Add") else None
        again = repeatable(path)

        async def forward(request: bytes, context: Context) -> bytes:
            remaining = context.time_remaining()
            if gate is not None and (key := _key(request)):
                await gate.adding(key, remaining)
                remaining = context.time_remaining()  # it may have had to wait
            try:
                answer = await tunnel.call(path, request, metadata=self._metadata(context), again=again,
                                           timeout=DEFAULT_SECONDS if remaining is None else remaining)
            except grpc.aio.AioRpcError as problem:
                await _pass_on(problem, context)
            if answer.trailing:
                context.set_trailing_metadata(received(answer.trailing))
            return answer.response
        return forward

    def _stream(self, ask: Callable[..., Any]) -> Callable[[Any, Context], AsyncIterator[bytes]]:
        async def forward(requests: Any, context: Context) -> AsyncIterator[bytes]:
            call = ask(requests, timeout=context.time_remaining(), metadata=self._metadata(context))
            try:
                async for response in call:
                    yield response
            except grpc.aio.AioRpcError as problem:
                await _pass_on(problem, context)
            finally:
                call.cancel()  # where the caller went away; nothing happens to one that has ended
        return forward


def _key(request: bytes) -> Key | None:
    """Whose ADD it is; None if it does not decode, which its service says better."""
    try:
        call = cni_pb2.AddRequest.FromString(request).call
    except DecodeError:
        return None
    return call.container_id, call.ifname


async def _pass_on(problem: grpc.aio.AioRpcError, context: Context) -> None:
    await context.abort(problem.code(), problem.details() or "", tuple(problem.trailing_metadata() or ()))
