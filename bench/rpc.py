"""What one unary call over a unix socket costs the server, by itself and through a tunnel.

Servers with threads, with asyncio, with uvloop and with grpcio's ways of doing I/O; and with muslin.rpc.tunnel.

    .venv/bin/python bench/rpc.py [--quick]

Each server is a process of its own; its CPU is read from the kernel's accounting when it ends. The client, an asyncio
one, is the same for all. The figure that chooses is CPU a call: it bounds what a core can serve.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent import futures
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import grpc
import uvloop

from muslin import rpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.api.rpc.v1 import tunnel_pb2_grpc
from muslin.rpc.tunnel import Handlers, Tunnel, TunnelServicer

TUNNEL = "uvloop, no engine, tunnel"
KINDS = {"threads": "engine", "asyncio": "engine", "uvloop": "engine", "uvloop, no engine": "none", TUNNEL: "none"}
"""Servers, and whether grpcio's event engine does their I/O."""
EXPERIMENTS = {"engine": "event_engine_client,event_engine_listener",
               "none": "-event_engine_client,-event_engine_listener"}
WORKERS = 32


class Threads(ipam_pb2_grpc.IpamServicer):
    """Answers from a thread pool."""

    def ListBlocks(self, request: ipam_pb2.ListBlocksRequest, context: object) -> ipam_pb2.ListBlocksResponse:
        """Answer with nothing."""
        return ipam_pb2.ListBlocksResponse()


class Coroutines(ipam_pb2_grpc.IpamServicer):
    """Answers from the event loop."""

    async def ListBlocks(self, request: ipam_pb2.ListBlocksRequest, context: object) -> ipam_pb2.ListBlocksResponse:
        """Answer with nothing."""
        return ipam_pb2.ListBlocksResponse()


def serve(kind: str, target: str, control: Connection) -> None:
    """Serve until told to stop; then report the seconds of CPU since serving began."""
    if kind == "threads":
        server = grpc.server(futures.ThreadPoolExecutor(8))
        ipam_pb2_grpc.add_IpamServicer_to_server(Threads(), server)  # type: ignore[abstract]  # one method is enough here
        server.add_insecure_port(target)
        server.start()
        began = cpu()
        control.send("ready")
        control.recv()
        control.send(cpu() - began)
        server.stop(None)
        return

    async def main() -> None:
        server = grpc.aio.server()
        handlers = Handlers(server)
        ipam_pb2_grpc.add_IpamServicer_to_server(
            Coroutines(), cast("grpc.aio.Server", handlers))  # type: ignore[abstract]  # as above
        tunnel_pb2_grpc.add_TunnelServicer_to_server(TunnelServicer(handlers, lambda _, handler: handler), server)
        server.add_insecure_port(target)
        await server.start()
        began = cpu()
        control.send("ready")
        await asyncio.to_thread(control.recv)
        control.send(cpu() - began)
        await server.stop(None)

    (asyncio.run if kind == "asyncio" else uvloop.run)(main())


def cpu() -> float:
    """Seconds of CPU this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def load(kind: str, target: str, calls: int) -> tuple[float, float]:
    """Seconds a call takes alone, and calls a second with many at once."""
    channel = rpc.channel(target)
    stub: ipam_pb2_grpc.IpamAsyncStub = ipam_pb2_grpc.IpamStub(channel)
    request, tunnel = ipam_pb2.ListBlocksRequest(), Tunnel(channel)

    async def call(times: int) -> None:
        for _ in range(times):
            if kind == TUNNEL:
                answer = await tunnel.call("/muslin.ipam.v1.Ipam/ListBlocks", request.SerializeToString(), timeout=5)
                ipam_pb2.ListBlocksResponse.FromString(answer.response)
            else:
                await stub.ListBlocks(request, timeout=5)

    await call(100)
    began = time.perf_counter()
    await call(calls)
    alone = (time.perf_counter() - began) / calls
    began = time.perf_counter()
    await asyncio.gather(*(call(calls // WORKERS) for _ in range(WORKERS)))
    together = calls // WORKERS * WORKERS / (time.perf_counter() - began)
    await tunnel.aclose()
    await channel.close()
    return alone, together


def measure(kind: str, calls: int, directory: str) -> dict[str, float]:
    """All figures of one kind of server."""
    target = f"unix:{directory}/{kind.replace(', ', '-').replace(' ', '-')}.sock"
    os.environ["GRPC_EXPERIMENTS"] = EXPERIMENTS[KINDS[kind]]  # the server inherits it
    mine, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(kind, target, theirs))
    process.start()
    mine.recv()
    alone, together = asyncio.run(load(kind, target, calls))
    mine.send("stop")
    served = 100 + calls + calls // WORKERS * WORKERS
    figures = {"alone_us": alone * 1e6, "calls_per_s": together, "cpu_us": mine.recv() / served * 1e6}
    process.join()
    return figures


def main() -> None:
    """Run, print the table, then one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    calls = 2_000 if parser.parse_args().quick else 20_000
    with tempfile.TemporaryDirectory() as directory:
        figures = {kind: measure(kind, calls, str(Path(directory))) for kind in KINDS}
    print(f"{'server':28}{'alone us':>10}{'calls/s':>10}{'CPU us a call':>15}")
    for kind, row in figures.items():
        print(f"{kind:28}{row['alone_us']:10.0f}{row['calls_per_s']:10.0f}{row['cpu_us']:15.0f}")
    chosen = figures["uvloop, no engine"]
    ratios = {f"cpu_vs_{kind}": chosen["cpu_us"] / row["cpu_us"] for kind, row in figures.items()}
    ratios |= {f"alone_vs_{kind}": chosen["alone_us"] / row["alone_us"] for kind, row in figures.items()}
    print(json.dumps({"bench": "rpc", "figures": figures, "ratios": ratios}))


if __name__ == "__main__":
    main()
