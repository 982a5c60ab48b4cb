"""Letting the user of a pod know why it gets no address: told to the endpoint service, which has a way to do it.

Nobody waits for it, and what can not be told is dropped: the runtime comes again, and is refused again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

import grpc

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.cni import refusals
from muslin.cni.invocation import Invocation
from muslin.errors import MuslinError

__all__ = ["Reporter"]

log = logging.getLogger(__name__)

_MOST = 256
"""Reports that wait, at most."""
_CALL = 5.0
"""Seconds for one call."""
_LONGEST = 1000
"""Characters of a message."""


class _Report(NamedTuple):
    namespace: str
    pod: str
    uid: str
    reason: str
    message: str


class Reporter:
    """Reports to the endpoint service at `target`; `run()` does it, in a task of the owner's."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._waiting: asyncio.Queue[_Report] = asyncio.Queue(_MOST)

    def refused(self, call: Invocation, problem: MuslinError) -> None:
        """An ADD was refused; one that nobody can mend by the pod is not reported."""
        if not call.kubernetes or not (reason := refusals.reason(problem)):
            return
        report = _Report(call.namespace, call.pod, call.args.get("K8S_POD_UID", ""), reason, problem.message[:_LONGEST])
        try:
            self._waiting.put_nowait(report)
        except asyncio.QueueFull:
            log.debug("a refusal is not reported, too many wait: pod=%s/%s", call.namespace, call.pod)

    async def run(self) -> None:
        """Report until cancelled."""
        async with rpc.channel(self._target) as channel:
            stub: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(channel)
            while True:
                report = await self._waiting.get()
                request = endpoint_pb2.ReportPodRequest(namespace=report.namespace, name=report.pod, uid=report.uid,
                                                        reason=report.reason, message=report.message)
                try:
                    await stub.ReportPod(request, timeout=_CALL)
                except grpc.aio.AioRpcError as error:
                    log.debug("a refusal is not reported: pod=%s/%s problem=%s: %s", report.namespace, report.pod,
                              error.code().name, error.details())
