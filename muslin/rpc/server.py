"""The one way to run a service."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from muslin import tracing
from muslin.api.rpc.v1 import tunnel_pb2_grpc
from muslin.errors import MuslinError
from muslin.rpc import tls
from muslin.rpc.app import App, Readiness
from muslin.rpc.handshakes import watched
from muslin.rpc.interceptor import LARGEST, Around
from muslin.rpc.listen import SocketLock, unix_path
from muslin.rpc.monitor import Monitor
from muslin.rpc.silent import Silent
from muslin.rpc.tunnel import Handlers, TunnelServicer

log = logging.getLogger(__name__)

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.max_send_message_length", LARGEST),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),  # clients on TCP ask every 2 s
    ("grpc.keepalive_permit_without_calls", 1),
)

_REMOTE = (
    ("grpc.server_handshake_timeout_ms", 10_000),  # who connects and says nothing is gone then
    ("grpc.max_connection_age_ms", 3_600_000),  # a certificate that was replaced or has ended is not used for longer
    ("grpc.max_connection_age_grace_ms", 600_000),  # twice the age of a tunnel
)
"""Of a server that others can reach."""

DRAIN_SECONDS = 5.0
"""How long requests in flight get to finish after SIGTERM."""


def serve(app: App, listen: Sequence[str], metrics: str | None = None) -> int:
    """Run a service until SIGTERM or SIGINT, then drain; the process' exit code is returned.

    0 after a signal; 1 when it could not start, or a background task died (its supervisor starts it anew).
    """
    try:
        return uvloop.run(_serve(app, listen, metrics))
    finally:
        tracing.stop()


async def _serve(app: App, listen: Sequence[str], metrics: str | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tracing.start(app.name)
    readiness, checker, around = Readiness(), health.aio.HealthServicer(), Around()
    monitor = Monitor(readiness)
    remote = any(not address.startswith("unix:") for address in listen)
    server = unregistered(grpc.aio.server(interceptors=[around], options=(*_OPTIONS, *(_REMOTE if remote else ()))))
    handlers = Handlers(server)
    tunnel = TunnelServicer(handlers, around.wrap)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    tunnel_pb2_grpc.add_TunnelServicer_to_server(tunnel, server)
    names = ("", *app.register(cast("grpc.aio.Server", handlers)))
    around.own = frozenset(names)
    with ExitStack() as sockets:
        try:
            if remote:
                sockets.enter_context(watched())
                _allow_many_files()
            for address in listen:
                if path := unix_path(address):
                    sockets.enter_context(SocketLock(path))
                    server.add_insecure_port(address)
                else:
                    credentials = tls.server_credentials(tls.own(f"--listen {address}"))
                    server.add_secure_port(address, credentials)
            if metrics:
                monitor.listen(metrics)
            await app.start(readiness)
            await server.start()
        except (MuslinError, OSError, RuntimeError) as problem:
            log.error("can not start: %s", problem)  # noqa: TRY400  the message says it; a traceback would bury it
            await app.stop()
            await app.tasks.aclose()
            await server.stop(None)
            return 1
        app.tasks.spawn("health", _report(readiness, checker, names))
        if remote:
            ports = [int(address.rpartition(":")[2]) for address in listen if not address.startswith("unix:")]
            app.tasks.spawn("silent connections", Silent(ports).run())
        monitor.phase = ""
        log.info("serving on %s", ", ".join(listen))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((stopped, app.tasks.failed), return_when=asyncio.FIRST_COMPLETED)
        failed = app.tasks.failed.done()
        stopped.cancel()
        log.info("stopping%s", ": a background task died" if failed else "")
        monitor.phase = "stopping"
        await checker.enter_graceful_shutdown()
        around.drain()
        tunnel.drain()
        await server.stop(DRAIN_SECONDS)
        await app.stop()
        await app.tasks.aclose()
        return 1 if failed else 0


def _allow_many_files() -> None:
    """As many connections as this process is allowed to have at all: each is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def unregistered(server: grpc.aio.Server) -> grpc.aio.Server:
    """The server, made to find every method by its name.

    Generated code registers each method a second time, with gRPC's core. grpcio's asyncio server (1.85) then waits for
    calls of each by itself, and goes through all of these waits for every call of any
    (https://github.com/grpc/grpc/pull/43461). A service of ours has up to 30 methods.
    """
    def ignore(service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        pass

    server.add_registered_method_handlers = ignore  # type: ignore[method-assign]
    return server


async def _report(readiness: Readiness, checker: health.aio.HealthServicer, names: Sequence[str]) -> None:
    """Keep the health service in step with readiness, and say in the log what changed."""
    changed = asyncio.Event()
    readiness.listeners.append(changed.set)
    said: dict[str, tuple[bool, str]] = {}
    while True:
        changed.clear()
        for part in readiness.parts.values():
            if said.get(part.name) != (part.ready, part.message):
                said[part.name] = (part.ready, part.message)
                log.info("%s: %s%s", part.name, "ready" if part.ready else "not ready",
                         f" ({part.message})" if part.message else "")
        status = (health_pb2.HealthCheckResponse.SERVING if readiness.ready
                  else health_pb2.HealthCheckResponse.NOT_SERVING)
        for name in names:
            await checker.set(name, status)
        await changed.wait()
