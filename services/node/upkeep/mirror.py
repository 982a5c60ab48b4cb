"""The endpoint service's records of this node, followed: what it knows of the attachments that are wired here."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

import grpc

from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.errors import Compacted, from_status
from muslin.rpc import translated
from muslin.rpc.identity import NODE_METADATA
from services.node.attachment import Attachment

__all__ = ["Mirror"]

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two attempts: doubled each time, with jitter."""

SESSION_SECONDS = 3600.0
"""Deadline of a stream; the next one goes on where it ended."""

CALL_SECONDS = 5.0
"""Deadline of a change."""


class Mirror:
    """A copy of the records.

    Attributes:
        records: by attachment.
        revision: the store's, up to which they are complete.
        current: whether they are being followed; else they may be old.
        listener: is told of each record that came or changed.
    """

    def __init__(self, node: str, channel: grpc.aio.Channel) -> None:
        self.node = node
        self._stub: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(channel)
        self._metadata = ((NODE_METADATA, node),)
        self.records: dict[Attachment, endpoint_pb2.WorkloadEndpoint] = {}
        self.revision = 0
        self.current = False
        self.listener: Callable[[endpoint_pb2.WorkloadEndpoint], None] = lambda _: None

    async def run(self) -> None:
        """Follow them for ever."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._session()
                problem = "the stream ended"
            except grpc.aio.AioRpcError as error:
                failure = from_status(error.code(), error.details() or "")
                problem = f"{type(failure).__name__}: {failure}"
                if isinstance(failure, Compacted):
                    self.revision = 0
            if self.current:
                pause = FIRST_PAUSE
            self.current = False
            log.debug("records of this node are not followed: %s; next attempt in about %.1f s", problem, pause)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter, not a secret
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _session(self) -> None:
        call = self._stub.Watch(endpoint_pb2.WatchRequest(revision=self.revision, node=self.node),
                                timeout=SESSION_SECONDS * random.uniform(0.8, 1.2),  # noqa: S311  as above
                                metadata=self._metadata)
        records = dict(self.records) if self.revision else {}
        snapshot = not self.revision
        try:
            async for message in call:
                for change in message.changes:
                    attachment = Attachment.from_message(change.endpoint.attachment)
                    if change.kind == endpoint_pb2.Change.KIND_DELETE:
                        records.pop(attachment, None)
                    else:
                        records[attachment] = change.endpoint
                        self.listener(change.endpoint)
                snapshot = snapshot and not message.snapshot_complete
                if not snapshot:
                    self.records = records
                    self.revision = message.revision or self.revision
                    self.current = True
        finally:
            call.cancel()

    async def restore(self, endpoints: list[endpoint_pb2.WorkloadEndpoint]) -> endpoint_pb2.RestoreResponse:
        """Give records back that are not there. Raises MuslinError."""
        request = endpoint_pb2.RestoreRequest(endpoints=endpoints, revision=self.revision)
        with translated("endpoint: restore records"):
            return await self._stub.Restore(request, timeout=CALL_SECONDS, metadata=self._metadata)

    async def delete(self, endpoint: endpoint_pb2.WorkloadEndpoint) -> bool:
        """Delete a record if it still is this one; whether it was there. Raises MuslinError."""
        request = endpoint_pb2.DeleteRequest(attachment=endpoint.attachment, revision=endpoint.revision)
        with translated("endpoint: delete a record"):
            return (await self._stub.Delete(request, timeout=CALL_SECONDS, metadata=self._metadata)).deleted
