"""The other services' part of a deletion that this daemon carries out on its own account."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2_grpc
from muslin.api.policy.v1 import policy_pb2_grpc
from muslin.errors import (
    Cancelled,
    Compacted,
    Conflict,
    Exhausted,
    MuslinError,
    NotFound,
    TimedOut,
    Unavailable,
    from_status,
)
from muslin.rpc.identity import NODE_METADATA
from services.node.attachment import Attachment

__all__ = ["Chain", "Delete", "call_of", "passing"]

log = logging.getLogger(__name__)

DEL_SECONDS = 10.0
"""Deadline of one service's part."""

_ORDER = ("endpoint", "policy", "ipam")  # DEL is the reverse of ADD; this daemon's own part comes before them

Delete = Callable[[cni_pb2.Call], Awaitable[None]]
"""This daemon's own part of DEL; raises MuslinError."""


def passing(error: MuslinError) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, Unavailable | TimedOut | Exhausted | Conflict | Compacted | Cancelled)


def call_of(attachment: Attachment, netns: str, args: str = "") -> cni_pb2.Call:
    """A call to delete an attachment of which the runtime's own configuration is not known.

    It holds what a service needs to know which attachment is meant, and nothing else.
    """
    config = json.dumps({"cniVersion": "1.0.0", "name": attachment.network, "type": "muslin"}).encode()
    return cni_pb2.Call(container_id=attachment.container_id, ifname=attachment.ifname, netns=netns, args=args,
                        config=config)


class Chain:
    """DEL of all services, in its order."""

    def __init__(self, node: str, channels: Mapping[str, grpc.aio.Channel], own: Delete) -> None:
        """`channels` by service; `own` is this daemon's part."""
        self._metadata = ((NODE_METADATA, node),)
        self._own = own
        stubs = {"endpoint": endpoint_pb2_grpc.PluginStub, "policy": policy_pb2_grpc.PluginStub,
                 "ipam": ipam_pb2_grpc.PluginStub}
        self._steps = [(service, stubs[service](channels[service]).Del) for service in _ORDER]

    async def delete(self, call: cni_pb2.Call, go_on: Callable[[], bool] = lambda: True) -> list[MuslinError]:
        """Undo an attachment in every service, whatever the others say; gives what failed.

        But while the pod may still be wired, or its record be there, its address is in use: then ipam is not asked, as
        the shim does not.

        Between two services `go_on` is asked: if the answer is no, somebody else has done the rest.
        """
        failures: list[MuslinError] = []
        in_use = False
        try:
            await self._own(call)
        except NotFound:
            pass
        except MuslinError as failure:
            failures.append(type(failure)(f"node: {failure.message}"))
            in_use = True
        for service, ask in self._steps:
            if not go_on():
                break
            if service == "ipam" and in_use:
                break
            try:
                await ask(cni_pb2.DelRequest(call=call), timeout=DEL_SECONDS, metadata=self._metadata)
            except grpc.aio.AioRpcError as problem:
                answer = from_status(problem.code(), f"{service}: {problem.details() or problem.code().name}")
                if not isinstance(answer, NotFound):
                    failures.append(answer)
                    in_use |= service == "endpoint"
        return failures
