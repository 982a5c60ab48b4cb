"""The four services of the chain as real gRPC servers that record what they are asked and answer as they are told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2_grpc
from muslin.api.node.v1 import node_pb2_grpc
from muslin.api.policy.v1 import policy_pb2_grpc
from muslin.api.rpc.v1 import tunnel_pb2_grpc
from muslin.rpc.tunnel import Handlers, TunnelServicer

SERVICES = ("ipam", "policy", "endpoint", "node")
VERBS = ("Add", "Del", "Check", "GC", "Status")

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]

_PLUGINS: Mapping[str, tuple[type, Callable[[Any, grpc.aio.Server], None]]] = {
    "ipam": (ipam_pb2_grpc.PluginServicer, ipam_pb2_grpc.add_PluginServicer_to_server),
    "policy": (policy_pb2_grpc.PluginServicer, policy_pb2_grpc.add_PluginServicer_to_server),
    "endpoint": (endpoint_pb2_grpc.PluginServicer, endpoint_pb2_grpc.add_PluginServicer_to_server),
    "node": (node_pb2_grpc.PluginServicer, node_pb2_grpc.add_PluginServicer_to_server),
}


@dataclass(frozen=True)
class Asked:
    """One call that a service got."""

    service: str
    verb: str
    call: cni_pb2.Call
    metadata: Mapping[str, str]
    remaining: float
    """Seconds until the caller's deadline."""

    @property
    def step(self) -> str:
        return f"{self.service}.{self.verb}"


@dataclass
class Chain:
    """What the services were asked, in order, and how they answer.

    Without a behaviour of its own Add appends its service's name to the result's `steps` and to the context, and the
    other verbs succeed.
    """

    asked: list[Asked] = field(default_factory=list)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    """By step, such as `ipam.Add`."""
    records: set[tuple[str, str, str]] = field(default_factory=set)
    """Network, container id and interface of the attachments that the endpoint service has."""
    pod_cidrs: tuple[str, ...] | None = None
    """Of the node, None if the endpoint service does not know it."""

    @property
    def steps(self) -> list[str]:
        return [asked.step for asked in self.asked]

    def fails(self, step: str, status: grpc.StatusCode, message: str) -> None:
        """Let a step answer with an error."""
        async def behaviour(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            await context.abort(status, message)
        self.behaviours[step] = behaviour

    def hangs(self, step: str) -> asyncio.Event:
        """Let a step never answer; the event is set when its caller gave it up."""
        given_up = asyncio.Event()

        async def behaviour(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                given_up.set()
        self.behaviours[step] = behaviour
        return given_up

    def servicer(self, service: str) -> Any:
        """A servicer of a Plugin service."""
        base, _ = _PLUGINS[service]
        return type(base.__name__, (base,), {verb: self._method(service, verb) for verb in VERBS})()

    def endpoints(self) -> Any:
        """The endpoint service's own API, as far as the shim asks for it."""
        async def get(_: Any, request: Any, context: Any) -> Any:
            a = request.attachment
            if (a.network, a.container_id, a.ifname) not in self.records:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no record")
            return endpoint_pb2.GetResponse(endpoint=endpoint_pb2.WorkloadEndpoint(attachment=a))

        async def get_node(_: Any, request: Any, context: Any) -> Any:
            if self.pod_cidrs is None or request.name:
                await context.abort(grpc.StatusCode.NOT_FOUND, "node \"n1\" is not known")
            return endpoint_pb2.GetNodeResponse(
                node=endpoint_pb2.Node(name="n1", labels={"a": "b"}, pod_cidrs=self.pod_cidrs))

        return type("Endpoints", (endpoint_pb2_grpc.EndpointsServicer,), {"Get": get, "GetNode": get_node})()

    def _method(self, service: str, verb: str) -> Callable[..., Awaitable[Any]]:
        async def method(_: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            asked = Asked(service, verb, request.call,
                          {str(key): str(value) for key, value in context.invocation_metadata() or ()},
                          context.time_remaining() or 0.0)
            self.asked.append(asked)
            if behaviour := self.behaviours.get(asked.step):
                return await behaviour(request, context)
            if verb == "Add":
                return extended(service, request.call)
            return getattr(cni_pb2, f"{verb}Response")()
        return method


def extended(service: str, call: cni_pb2.Call) -> cni_pb2.AddResponse:
    """What a service hands on when all is well."""
    version = json.loads(call.config).get("cniVersion", "0.1.0")
    result = json.loads(call.result or b'{"cniVersion": "%s", "steps": []}' % version.encode())
    context = json.loads(call.context or b"{}")
    return cni_pb2.AddResponse(result=json.dumps({**result, "steps": [*result.get("steps", []), service]}).encode(),
                               context=json.dumps({**context, service: True}).encode())


@asynccontextmanager
async def serving(chain: Chain, socket: Path, services: tuple[str, ...] = SERVICES) -> AsyncIterator[None]:
    """Serve the chain on a unix socket."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    handlers = Handlers(server)
    for service in services:
        _, add = _PLUGINS[service]
        add(chain.servicer(service), cast("grpc.aio.Server", handlers))
    if "endpoint" in services:
        endpoint_pb2_grpc.add_EndpointsServicer_to_server(chain.endpoints(), cast("grpc.aio.Server", handlers))
    tunnel_pb2_grpc.add_TunnelServicer_to_server(TunnelServicer(handlers, lambda _, handler: handler), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(path: Path, talk: Talk) -> AsyncIterator[None]:
    """A unix socket; at the end all conversations on it are ended too."""
    talks: set[asyncio.Task[None]] = set()

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side left
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.create_task(conversation(reader, writer)))

    server = await asyncio.start_unix_server(connected, path)
    try:
        yield
    finally:
        server.close()
        for task in talks:
            task.cancel()
        ends = await asyncio.gather(*talks, return_exceptions=True)
    faults = [end for end in ends if isinstance(end, Exception)]
    assert faults == []


@dataclass
class Relay:
    """A socket that stands before another one and passes all through, in pieces of a given size."""

    connections: int = 0

    @asynccontextmanager
    async def between(self, listen: Path, target: Path, piece: int = 1 << 16) -> AsyncIterator[None]:
        """Listen, until the end of the context."""
        async def connected(near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            far_reader, far_writer = await asyncio.open_unix_connection(target)
            try:
                await asyncio.gather(_copy(near_reader, far_writer, piece), _copy(far_reader, near_writer, piece))
            finally:
                far_writer.close()

        async with listening(listen, connected):
            yield


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: int) -> None:
    try:
        while data := await reader.read(piece):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # one side is gone, so is the other
    writer.close()


@dataclass(frozen=True)
class Done:
    """How the plugin's process ended."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def error(self) -> dict[str, Any]:
        """The error on stdout: CNI JSON and nothing else, beside a non-zero exit."""
        assert self.status == 1
        error = json.loads(self.stdout)
        assert set(error) == {"cniVersion", "code", "msg", "details"}
        assert "Traceback" not in self.stderr
        return dict(error)


ATTACHMENT = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0", "CNI_ARGS": "A=b;C=d",
              "CNI_PATH": "/opt/cni/bin"}


def configuration(socket: Path, **more: Any) -> dict[str, Any]:
    """A network configuration whose services are all behind one socket, and that keeps its files beside it."""
    return {"cniVersion": "1.1.0", "name": "net", "type": "muslin", "log_file_path": str(socket.parent / "log"), **more,
            "muslin": {"socket": str(socket), "state_dir": str(socket.parent / "state"), **more.get("muslin", {})}}


async def invoke(plugin: Path, command: str, config: Mapping[str, Any] | bytes,
                 environment: Mapping[str, str] = ATTACHMENT, *, timeout: float = 30.0) -> Done:
    """Exec the plugin as a runtime does, with nothing else in its environment."""
    process = await asyncio.create_subprocess_exec(
        plugin, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"CNI_COMMAND": command, **environment}, cwd="/")
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate(raw)
    except TimeoutError:
        os.kill(process.pid, 9)
        raise
    assert process.returncode is not None
    return Done(process.returncode, stdout, stderr.decode())
