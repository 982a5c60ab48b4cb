"""The client of the store: records, transactions, leases and watches on an etcd cluster.

Records and transactions go through etcd's generated stubs on grpc.aio, leases and maintenance through python-etcd3 in
a few threads (muslin.etcd.admin); docs/adr/0003-etcd-client.md has the figures behind that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc

from muslin import log as logs
from muslin.errors import Cancelled, FailedPrecondition, MuslinError, TimedOut, Unavailable
from muslin.etcd import admin, wire
from muslin.etcd.admin import Admin, Lease
from muslin.etcd.backoff import Backoff
from muslin.etcd.cluster import REQUIRE_LEADER, Cluster, Connection
from muslin.etcd.compat import etcd3
from muslin.etcd.failures import UNKNOWN, full, refused, translate
from muslin.etcd.full import carried_out, written
from muslin.etcd.members import Members
from muslin.etcd.stubs import rpc_pb2 as pb
from muslin.etcd.values import Alarm, Compare, Delete, Get, KeyValue, Member, Op, Put, Snapshot, Status, TxnResult
from muslin.etcd.watch import Watch
from muslin.tls import Certificates

__all__ = ["Etcd"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 5  # at most, for what may be repeated


class Etcd:
    """A client for one event loop. Connects on first use; `aclose()` ends it, as does leaving `async with`.

    `members` are "host:port", any number of members of one cluster; a name may stand for several addresses. For TLS it
    is Members.
    `timeout` in seconds bounds every call, and each call can be given its own.

    All methods raise Unavailable if no member answers, TimedOut if one did not answer in time, and what else etcd says
    as the error of that meaning. Reads are repeated on other members within their timeout. Writes are sent once: after
    Unavailable or TimedOut a write may or may not have been done, and the caller finds out by reading.
    """

    def __init__(self, members: Sequence[str] | Members, *, timeout: float = 5.0) -> None:
        """Raises InvalidArgument for endpoints that are none, FailedPrecondition for TLS files that are unusable."""
        if not isinstance(members, Members):
            certificates, endpoints = None, members
        else:
            certificates, endpoints = Certificates(members.tls) if members.tls else None, members.endpoints
        self._cluster = Cluster(endpoints, certificates)
        self._timeout = timeout
        self._admin = Admin(timeout, certificates)
        self.written = 0
        """Revision of the latest transaction of this client's that was answered."""
        self._wrote: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Etcd:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all connections, calls and watches."""
        await self._cluster.aclose()
        self._admin.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed: from then on every call raises Unavailable."""
        return self._cluster.closed

    async def get(self, key: str, *, timeout: float | None = None) -> KeyValue | None:
        """The record of a key, None if there is none. Linearizable: it sees every write that was answered before."""
        response = await self._range(wire.range_request(wire.encode(key)), f"get {key}", timeout)
        return wire.key_value(response.kvs[0]) if response.kvs else None

    async def range(self, prefix: str, *, page: int = 10_000, revision: int = 0,
                    timeout: float | None = None) -> Snapshot:
        """All records under a prefix at one revision: the given one, or with 0 the latest.

        They are fetched `page` records at a time; the timeout is for each page. With each page etcd goes through all
        that is left, to count it: 100,000 records take 4 s in pages of 500, and 0.7 s in pages of 10,000. Raises
        Compacted if that revision is not kept any longer, or not reached yet.
        """
        first, end = wire.prefix_range(prefix)
        items: list[KeyValue] = []
        while True:
            request = wire.range_request(first, end, limit=page, revision=revision)
            response = await self._range(request, f"range {prefix}", timeout)
            revision = revision or response.header.revision
            items.extend(map(wire.key_value, response.kvs))
            if not response.more:
                return Snapshot(tuple(items), revision)
            first = response.kvs[-1].key + b"\0"

    async def put(self, key: str, value: bytes, lease: int = 0, *, timeout: float | None = None) -> int:
        """Write a value whatever is there; the revision at which that was. Raises NotFound if the lease is gone."""
        request = wire.put_request(Put(key, value, lease))
        response = await self._call(
            lambda connection, limit: connection.kv.Put(request, timeout=limit, metadata=REQUIRE_LEADER),
            f"put {key}", timeout, idempotent=False)
        return response.header.revision

    async def delete(self, key: str, *, timeout: float | None = None) -> int:
        """Remove a key; the revision at which that was, 0 if there was no such key."""
        request = pb.DeleteRangeRequest(key=wire.encode(key))
        response = await self._call(
            lambda connection, limit: connection.kv.DeleteRange(request, timeout=limit, metadata=REQUIRE_LEADER),
            f"delete {key}", timeout, idempotent=False)
        return response.header.revision if response.deleted else 0

    async def txn(self, compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = (), *,
                  timeout: float | None = None) -> TxnResult:
        """Do `success` if all comparisons hold, else `failure`, atomically.

        etcd takes at most 128 comparisons and 128 operations, and no key twice among the Puts and Deletes of one list
        (InvalidArgument). A store without space raises FailedPrecondition if nothing was done; if that can not be told,
        the message says so.
        """
        request = wire.txn_request(compare, success, failure)
        named = next((item.key for item in (*compare, *success, *failure)), "")
        idempotent = not any(isinstance(op, Put | Delete) for op in (*success, *failure))
        try:
            response = await self._call(
                lambda connection, limit: connection.kv.Txn(request, timeout=limit, metadata=REQUIRE_LEADER),
                f"txn {named}", timeout, idempotent=idempotent)
        except FailedPrecondition as problem:
            if idempotent or problem.__cause__ is None or not full(problem.__cause__):
                raise
            return await self._when_full(compare, success, problem, timeout)
        if not idempotent:
            self.written = max(self.written, response.header.revision)
            self.hurry()
        return wire.txn_result(response)

    def hurry(self) -> None:
        """Let nobody wait in `next_write` any longer."""
        if self._wrote and not self._wrote.done():
            self._wrote.set_result(None)

    async def next_write(self, timeout: float) -> None:
        """Wait until the next transaction of this client's is answered, for `timeout` seconds at most."""
        loop = asyncio.get_running_loop()
        if self._wrote is None or self._wrote.done():
            self._wrote = loop.create_future()
        timer = loop.call_later(timeout, self.hurry)
        try:
            await asyncio.shield(self._wrote)
        finally:
            timer.cancel()

    async def _when_full(self, compare: Sequence[Compare], success: Sequence[Op], problem: FailedPrecondition,
                         timeout: float | None) -> TxnResult:
        """A full store may have carried a transaction out and answered that it has no space: read what became of it."""
        wanted = written(success)
        read = await self.txn((), [Get(key) for key in wanted], timeout=timeout)
        revision = carried_out(compare, success, dict(zip(wanted, read.responses, strict=True)))
        if revision == 0:
            raise FailedPrecondition(problem.message.removesuffix(UNKNOWN)) from problem
        if revision is None or any(isinstance(op, Get) for op in success):
            raise problem
        return TxnResult(True, revision, (None,) * len(success))

    def watch(self, prefix: str, revision: int = 0) -> Watch:
        """The changes under a prefix from `revision` on, that one included; 0 means from now.

        After a snapshot, that is `watch(prefix, snapshot.revision + 1)`. See Watch.
        """
        return Watch(self._cluster, prefix, revision, timeout=self._timeout)

    async def lease(self, ttl: int) -> Lease:
        """A new lease that ends `ttl` seconds after it was last refreshed, and takes its keys with it."""
        granted = await self._admin_call(lambda client: client.lease(ttl), f"lease of {ttl} s")
        return Lease(granted.id, granted.ttl, self._admin_call)

    async def refresh(self, lease: int) -> int:
        """Begin the time to live of anybody's lease anew; the seconds left. Raises NotFound if it has ended."""
        return await Lease(lease, 0, self._admin_call).refresh()

    async def status(self) -> Status:
        """The state of the member that is being used; raises Unavailable if there is none."""
        return await self._admin_call(admin.status, "status", idempotent=True)

    async def members(self) -> tuple[Member, ...]:
        """The members of the cluster."""
        return await self._admin_call(admin.members, "members", idempotent=True)

    async def alarms(self) -> tuple[Alarm, ...]:
        """The alarms that are raised: none in a healthy cluster."""
        return await self._admin_call(admin.alarms, "alarms", idempotent=True)

    async def compact(self, revision: int) -> None:
        """Forget what was before `revision`. Raises Compacted if that was done already, or is in the future."""
        await self._admin_call(lambda client: client.compact(revision, physical=True), f"compact {revision}")

    async def _range(self, request: pb.RangeRequest, what: str, timeout: float | None) -> pb.RangeResponse:
        return await self._call(
            lambda connection, limit: connection.kv.Range(request, timeout=limit, metadata=REQUIRE_LEADER),
            what, timeout, idempotent=True)

    async def _admin_call(self, function: Callable[[etcd3.Etcd3Client], T], what: str, *,
                          idempotent: bool = False) -> T:
        return await self._call(lambda connection, limit: self._admin.run(connection.address, function, limit),
                                what, None, idempotent=idempotent)

    async def _call(self, operation: Callable[[Connection, float], Awaitable[T]], what: str, timeout: float | None, *,
                    idempotent: bool) -> T:
        """Run an operation on a connected member; on another one after that if this can do no harm."""
        timeout = self._timeout if timeout is None else timeout
        began, deadline = time.perf_counter(), time.monotonic() + timeout
        backoff = Backoff()
        for attempt in range(1, _ATTEMPTS + 1):
            connection = await self._cluster.connection(deadline - time.monotonic())
            limit = deadline - time.monotonic()
            if idempotent and len(self._cluster) > 1:
                limit = min(limit, timeout / 3)  # a frozen member must leave time to ask another one
            try:
                answer = await operation(connection, limit)
            except (grpc.RpcError, etcd3.Etcd3Exception, MuslinError) as error:
                failure = error if isinstance(error, MuslinError) else translate(
                    error, what, str(connection.address), timeout=limit, idempotent=idempotent)
                if not isinstance(failure, Unavailable | TimedOut):
                    raise failure from error
                self._cluster.avoid(connection)
                delay = backoff.next()
                if attempt == _ATTEMPTS or time.monotonic() + delay >= deadline or not (idempotent or refused(error)):
                    raise failure from error
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                raise Cancelled(f"{what}: the client of etcd at {self._cluster.names} was closed") from None
            else:
                logs.took(log, began, f"etcd {what}")
                return answer
            await asyncio.sleep(delay)
        raise AssertionError("unreachable: the last attempt returns or raises")
