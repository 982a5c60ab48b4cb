"""Asking services how they are: grpc.health.v1."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from muslin.errors import MuslinError, from_status
from muslin.etcd import Etcd
from muslin.rpc import channel

__all__ = ["SERVING", "check", "check_etcd", "serving", "etcd_serving"]

SERVING = "SERVING"
PATIENCE = 2.0
"""Seconds for one question."""
PAUSE = 0.02
"""Seconds between looks at what has no event of its own."""
LONGEST_WATCH = 60.0

# Called by name, because the published types of HealthStub lack its methods.
_CHECK, _WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


async def check(target: str) -> str:
    """What a service says of itself (`SERVING`, `NOT_SERVING`), or why it does not answer."""
    async with channel(target) as connection:
        ask = connection.unary_unary(_CHECK, health_pb2.HealthCheckRequest.SerializeToString,
                                     health_pb2.HealthCheckResponse.FromString)
        try:
            answer = await ask(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def serving(socket: Path) -> None:
    """Return once the service behind a unix socket says that it is SERVING. Raises what else than absence it says."""
    # Dialling what is not there would begin the channel with a long back-off.
    while not os.access(socket, os.F_OK):  # noqa: ASYNC110 - a file's appearance is no event here
        await asyncio.sleep(PAUSE)
    async with channel(f"unix:{socket}") as connection:
        watch = connection.unary_stream(_WATCH, health_pb2.HealthCheckRequest.SerializeToString,
                                        health_pb2.HealthCheckResponse.FromString)
        while True:
            try:
                async for answer in watch(health_pb2.HealthCheckRequest(), timeout=LONGEST_WATCH):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise from_status(error.code(), f"health of {socket}: {error.details()}") from error
                await asyncio.sleep(PAUSE)  # a socket left by a killed predecessor, or not listening yet


async def check_etcd(endpoint: str) -> str:
    """`SERVING` if etcd answers, else why it does not."""
    client = Etcd([endpoint], timeout=PATIENCE)
    try:
        await client.status()
    except MuslinError as error:
        return error.message
    else:
        return SERVING
    finally:
        await client.aclose()


async def etcd_serving(endpoint: str) -> None:
    """Return once etcd answers."""
    while await check_etcd(endpoint) != SERVING:  # noqa: ASYNC110 - another process' start is no event here
        await asyncio.sleep(PAUSE)
