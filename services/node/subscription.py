"""The stream of programs from the policy service: a snapshot, then deltas; each is acknowledged once enforced.

A new stream goes on from the last message that is in the kernel, where the policy service still knows what that was.
"""

from __future__ import annotations

import asyncio
import logging
import random

import grpc

from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.errors import MuslinError, from_status
from muslin.rpc import Part
from services.node import metrics
from services.node.enforce.program import OutOfSync, from_message
from services.node.enforcer import Enforcer

__all__ = ["subscribe"]

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts: doubled each time, with jitter."""

SESSION_SECONDS = 3600.0
"""Deadline of a stream. A new one costs a snapshot at most, of which only the differences reach the kernel."""


class _Place:
    """Where a new stream would go on."""

    resume = ""
    """Of the message that is in the kernel, as the policy service named it; empty if that is in doubt."""


async def subscribe(channel: grpc.aio.Channel, node: str, enforcer: Enforcer, part: Part) -> None:
    """Follow this node's program for ever. `part` tells whether it is being followed."""
    stub: policy_pb2_grpc.ProgramsAsyncStub = policy_pb2_grpc.ProgramsStub(channel)
    pause, place = FIRST_PAUSE, _Place()
    part.set(False, "no program yet")
    while True:
        try:
            await _session(stub, node, enforcer, part, place)
            problem = "the policy service ended the stream"
        except grpc.aio.AioRpcError as error:
            failure = from_status(error.code(), error.details() or "")
            problem = f"{type(failure).__name__}: {failure}"
            if part.ready and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                continue  # the session's own end
        except MuslinError as error:  # a program that does not fit or does not decode: a new stream begins anew
            place.resume = ""
            problem = f"{type(error).__name__}: {error}"
        metrics.STREAM_LOSSES.inc()
        if part.ready:
            pause = FIRST_PAUSE
        part.set(False, f"no stream from the policy service ({problem})")
        log.debug("stream of programs lost: %s; next attempt in about %.1f s", problem, pause)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter, not a secret
        pause = min(2 * pause, LONGEST_PAUSE)


async def _session(stub: policy_pb2_grpc.ProgramsAsyncStub, node: str, enforcer: Enforcer, part: Part,
                   place: _Place) -> None:
    call = stub.Subscribe(timeout=SESSION_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311  as above
    try:
        await call.write(policy_pb2.SubscribeRequest(node=node, resume=place.resume))
        fresh = True
        async for message in call:
            if fresh and not message.snapshot and not place.resume:
                raise OutOfSync(f"the stream begins with the delta of revision {message.revision}, not a snapshot")
            fresh = False
            place.resume = ""  # until the kernel has it nobody knows what it has
            # The kernel has it when this returns; meanwhile further messages wait in the stream.
            await enforcer.submit(from_message(message))
            place.resume = message.resume
            await call.write(policy_pb2.SubscribeRequest(enforced_revision=message.revision))
            part.set(True)
    finally:
        call.cancel()
