"""A watch that survives the loss of a member, and says so when it can not.

Each revision's changes are delivered once and in order: after every interruption the watch resumes behind the last
change that it delivered. (Not behind the revision in the response's header: while a watch catches up, etcd sends old
changes under the header of the present.)
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc
import grpc.aio

from muslin.errors import Cancelled, Compacted, Denied, IOFailure, MuslinError, TimedOut, Unavailable, Unknown
from muslin.etcd import wire
from muslin.etcd.backoff import Backoff
from muslin.etcd.cluster import REQUIRE_LEADER, Cluster, Connection
from muslin.etcd.failures import translate
from muslin.etcd.stubs import rpc_pb2 as pb
from muslin.etcd.values import WatchBatch

__all__ = ["Watch"]

Call = grpc.aio.StreamStreamCall[pb.WatchRequest, pb.WatchResponse]

log = logging.getLogger(__name__)

_PASSING = (Unavailable, TimedOut, Cancelled, IOFailure, Unknown)  # interruptions; anything else ends the watch
_SETTLED = 5.0  # seconds that a stream must have lived for the next interruption to be a new one
_SILENCE = 2.0  # seconds without a response after which the member is asked whether it is alive


class Watch:
    """An endless asynchronous iterator of WatchBatch: the changes under `prefix` from `revision` on.

    It reconnects by itself, to another member if there is one, for as long as it takes; the pauses between attempts
    grow to two seconds. It raises Compacted if the changes that come next are not to be had: they were compacted away,
    or the store was replaced by an older or an empty one. Then list again. It raises Denied if etcd does not allow the
    watch, and Cancelled or Unavailable once the client is closed.

    `trouble` is empty while the stream is up, else it says why not. `attempts` counts the streams asked for.
    Leave it with `aclose()` (or `async with`), or by cancelling the task that waits for it.
    """

    def __init__(self, cluster: Cluster, prefix: str, revision: int, *, timeout: float) -> None:
        self.trouble = "not connected yet"
        self.attempts = 0
        self._cluster = cluster
        self._prefix = prefix
        self._next = revision
        self._timeout = timeout
        self._cluster_id = 0
        self._lost: MuslinError | None = None  # why the guard has ended the present stream
        self._settled = math.inf  # when the present stream will be a success
        self._batches = self._follow()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> WatchBatch:
        return await anext(self._batches)

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the watch."""
        await self._batches.aclose()

    async def _follow(self) -> AsyncGenerator[WatchBatch, None]:
        backoff = Backoff()
        while True:
            self.attempts += 1
            try:
                connection = await self._cluster.connection(self._timeout)
                async with aclosing(self._stream(connection)) as stream:
                    async for batch in stream:
                        yield batch
            except _PASSING as error:
                if self._cluster.closed:
                    raise
                if not self.trouble or self.attempts == 1:
                    log.warning("etcd watch interrupted prefix=%s next=%d error=%s", self._prefix, self._next, error)
                self.trouble = error.message
                if time.monotonic() > self._settled:
                    backoff.reset()
                self._settled = math.inf
            await asyncio.sleep(backoff.next())

    async def _stream(self, connection: Connection) -> AsyncGenerator[WatchBatch, None]:
        """One stream on one member; ends by raising."""
        call = connection.watch.Watch(metadata=REQUIRE_LEADER)
        self._lost = None
        guard = asyncio.create_task(self._guard(connection, call), name=f"etcd-watch-guard-{connection.address}")
        try:
            await self._open(connection, call)
            while True:
                response = await self._read(connection, call)
                events = tuple(map(wire.event, response.events))
                # Only a response without changes speaks for the whole time up to its header's revision.
                revision = events[-1].mod_revision if events else response.header.revision
                self._next = revision + 1
                yield WatchBatch(revision, events)
        except grpc.aio.AioRpcError as error:
            self._cluster.avoid(connection)
            raise self._translated(error, connection) from error
        except _PASSING:
            self._cluster.avoid(connection)
            raise
        finally:
            guard.cancel()
            call.cancel()
            await asyncio.wait([guard])

    async def _guard(self, connection: Connection, call: Call) -> None:
        """End the call if the member has been silent for a while and does not answer either."""
        pause = _SILENCE
        while True:
            await asyncio.sleep(pause)
            try:
                await connection.probe(_SILENCE)
            except (TimedOut, Unavailable) as problem:
                self._lost = problem
                call.cancel()
                return
            pause = max(0.0, _SILENCE - connection.silence)

    async def _open(self, connection: Connection, call: Call) -> None:
        first, end = wire.prefix_range(self._prefix)
        request = pb.WatchCreateRequest(key=first, range_end=end, start_revision=self._next, progress_notify=True)
        try:
            async with asyncio.timeout(self._timeout):
                await call.write(pb.WatchRequest(create_request=request))
                created = await self._read(connection, call)
        except TimeoutError:
            raise TimedOut(f"etcd at {connection.address} did not begin the watch within {self._timeout:g} s") from None
        await self._check_history(connection, created.header)
        if not self._next:
            self._next = created.header.revision + 1
        if self.trouble and self.attempts > 1:
            log.info("etcd watch resumed prefix=%s next=%d endpoint=%s", self._prefix, self._next, connection.address)
        self.trouble = ""
        self._settled = time.monotonic() + _SETTLED

    async def _read(self, connection: Connection, call: Call) -> pb.WatchResponse:
        try:
            response = await call.read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self._lost:
                raise self._lost from None
            raise Cancelled(f"watch {self._prefix}: the client of etcd at {self._cluster.names} was closed") from None
        connection.heard()
        if not isinstance(response, pb.WatchResponse):
            raise Unavailable(f"etcd at {connection.address} ended the watch")
        if response.compact_revision:
            raise Compacted(f"etcd has compacted revision {self._next} of {self._prefix}: it keeps "
                            f"{response.compact_revision} and later")
        if response.canceled:
            kind = Denied if "permission denied" in response.cancel_reason else Unavailable
            raise kind(f"etcd refuses to watch {self._prefix}: {response.cancel_reason or 'no reason given'}")
        return response

    async def _check_history(self, connection: Connection, header: pb.ResponseHeader) -> None:
        """A watch that starts in the future waits for it in silence; find out whether that future is another store's.

        A member that lags behind looks just the same, so the cluster as a whole is asked.
        """
        behind = header.revision < self._next - 1
        if behind:
            first, _ = wire.prefix_range(self._prefix)
            answer = await connection.kv.Range(pb.RangeRequest(key=first, count_only=True), timeout=self._timeout,
                                               metadata=REQUIRE_LEADER)
            behind = answer.header.revision < self._next - 1
        if behind or self._cluster_id not in (0, header.cluster_id):
            raise Compacted(f"etcd at {connection.address} holds another store than before, or an older state of it: "
                            f"it is at revision {header.revision}, revision {self._next - 1} has been seen")
        self._cluster_id = header.cluster_id

    def _translated(self, error: grpc.aio.AioRpcError, connection: Connection) -> MuslinError:
        return translate(error, f"watch {self._prefix}", str(connection.address), timeout=self._timeout,
                         idempotent=True)
