"""Workload endpoints, followed from the endpoint service."""

from __future__ import annotations

import asyncio
import logging

import grpc

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.errors import Corrupt
from muslin.etcd.backoff import Backoff
from muslin.rpc import Part
from services.policy import metrics, wire
from services.policy.events import EndpointGone, EndpointPut, Event
from services.policy.hub import Hub
from services.policy.model import Attachment

log = logging.getLogger(__name__)

SOURCE = "endpoints"
"""What the hub calls this source."""


class EndpointSource:
    """Keeps the hub in step with the endpoint service at `target`; `run()` does it, in a task of the owner's.

    While the connection is lost the last state stays. A resumed watch brings what has changed since; if that is no
    longer kept, a snapshot comes, and what it does not name is gone.
    """

    def __init__(self, target: str, hub: Hub, part: Part) -> None:
        self._target, self._hub, self._part = target, hub, part
        self.revision = 0
        """The last state that is complete; the watch resumes behind it."""
        self._known: set[Attachment] = set()
        self._refused: set[Attachment] = set()
        self._seen: set[Attachment] | None = None  # what the snapshot under way has named

    async def run(self) -> None:
        """Follow until cancelled."""
        backoff, said = Backoff(most=1.0), ""
        async with rpc.channel(self._target) as channel:
            stub = endpoint_pb2_grpc.EndpointsStub(channel)
            while True:
                try:
                    await self._follow(stub, backoff)
                    problem = "the stream has ended"
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                        self.restart()
                    problem = f"{error.code().name}: {error.details()}"
                if problem != said:
                    log.info("endpoint watch interrupted target=%s revision=%d problem=%s", self._target,
                             self.revision, problem)
                said = problem
                self._part.set(False, f"{self._target}: {problem}")
                await asyncio.sleep(backoff.next())

    async def _follow(self, stub: endpoint_pb2_grpc.EndpointsAsyncStub, backoff: Backoff) -> None:
        self.begin()
        # A watch has no end, hence no deadline; the channel's pings notice a peer that is frozen or gone.
        async for response in stub.Watch(endpoint_pb2.WatchRequest(revision=self.revision), timeout=None):
            self.take(response)
            backoff.reset()
            if self._seen is None:
                self._part.set(True)

    def begin(self) -> None:
        """Expect the messages of a new stream: what has changed, or a snapshot if no revision is known."""
        self._seen = None if self.revision else set()

    def restart(self) -> None:
        """Expect a snapshot, because the changes are no longer kept."""
        self.revision = 0
        self.begin()

    def take(self, response: endpoint_pb2.WatchResponse) -> None:
        """Hand the changes of a message to the hub."""
        events: list[Event] = []
        for change in response.changes:
            attachment = wire.attachment(change.endpoint.attachment)
            if change.kind == endpoint_pb2.Change.KIND_PUT:
                events.append(self._put(attachment, change.endpoint))
            else:
                events.append(self._gone(attachment))
        if response.snapshot_complete:
            if self._seen is not None:
                events += [self._gone(attachment) for attachment in self._known - self._seen]
            self._seen = None
        self._hub.put(events)
        metrics.REFUSED_ENDPOINTS.set(len(self._refused))
        if self._seen is None:
            self.revision = max(self.revision, response.revision)
            self._hub.complete(SOURCE)

    def _put(self, attachment: Attachment, record: endpoint_pb2.WorkloadEndpoint) -> Event:
        if self._seen is not None:
            self._seen.add(attachment)
        self._known.add(attachment)
        try:
            event = EndpointPut(wire.endpoint(record))
        except Corrupt as problem:
            # An endpoint without a program has no traffic: its node drops what it does not know.
            log.error("endpoint is not enforced problem=%s", problem.message)  # noqa: TRY400  the message says it all
            self._refused.add(attachment)
            return EndpointGone(attachment)
        self._refused.discard(attachment)
        return event

    def _gone(self, attachment: Attachment) -> Event:
        self._known.discard(attachment)
        self._refused.discard(attachment)
        return EndpointGone(attachment)
