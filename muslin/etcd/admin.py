"""Leases and maintenance, through python-etcd3.

python-etcd3 blocks its thread, so it runs in a few threads of its own: a member that does not answer can hold these for
a timeout each, and never the event loop or anybody else's executor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from muslin.errors import NotFound, TimedOut, Unavailable
from muslin.etcd.cluster import CHANNEL_OPTIONS, Address
from muslin.etcd.compat import etcd3
from muslin.etcd.stubs import rpc_pb2 as pb
from muslin.etcd.values import Alarm, Member, Status
from muslin.tls import Certificates, Material

__all__ = ["Admin", "Lease", "status", "members", "alarms"]

T = TypeVar("T")

Client = Any  # etcd3.Etcd3Client: python-etcd3 ships no types

_THREADS = 4


class Admin:
    """python-etcd3 clients, one for each member, and the threads they run in. `timeout` (seconds) bounds each call."""

    def __init__(self, timeout: float, certificates: Certificates | None = None) -> None:
        self._timeout = timeout
        self._certificates = certificates
        self._clients: dict[Address, tuple[Material | None, Client]] = {}
        self._replaced: dict[Address, Client] = {}  # calls may still be on their way
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="etcd3")
        self._closed = False

    async def run(self, address: Address, function: Callable[[Client], T], timeout: float) -> T:
        """Call the function with a member's client, in a thread. Raises TimedOut and what python-etcd3 raises."""
        client = self._client(address)
        call = asyncio.get_running_loop().run_in_executor(self._threads, function, client)
        try:
            async with asyncio.timeout(timeout):  # not wait_for, which can swallow a cancellation (Python 3.11)
                return await call
        except TimeoutError:
            raise TimedOut(f"etcd at {address} did not answer within {timeout:.3g} s") from None
        except ValueError as problem:  # what grpc raises of a channel that was closed before the thread came to it
            if not self._closed:
                raise
            raise Unavailable(f"etcd at {address}: the client is closed") from problem

    def _client(self, address: Address) -> Client:
        material = self._certificates.load() if self._certificates else None
        known, client = self._clients.get(address, (None, None))
        if client is None or known is not material:
            if (older := self._replaced.pop(address, None)) is not None:
                older.close()
            if client is not None:
                self._replaced[address] = client
            host = f"[{address.host}]" if address.version == 6 else address.host
            files = self._certificates.files if self._certificates else None
            tls = {"ca_cert": str(files.authority), "cert_key": str(files.key),
                   "cert_cert": str(files.certificate)} if files else {}
            client = etcd3.client(host=host, port=address.port, timeout=self._timeout, grpc_options=CHANNEL_OPTIONS,
                                  **tls)
            self._clients[address] = material, client
        return client

    def close(self) -> None:
        """End the connections; calls in flight fail, and their threads with them."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in (*(client for _, client in self._clients.values()), *self._replaced.values()):
            client.close()


def status(client: Client) -> Status:
    """The member's state."""
    found = client.status()
    leader = found.leader.name if found.leader else ""
    return Status(client._url, found.version, found.db_size, leader, found.raft_term)


def members(client: Client) -> tuple[Member, ...]:
    """The cluster's members."""
    return tuple(Member(m.id, m.name, tuple(m.peer_urls), tuple(m.client_urls)) for m in client.members)


def alarms(client: Client) -> tuple[Alarm, ...]:
    """The alarms raised in the cluster."""
    return tuple(Alarm(pb.AlarmType.Name(a.alarm_type), a.member_id) for a in client.list_alarms())


class Runner(Protocol):
    """How a lease reaches a member: the client's own way, with its timeout, errors and choice of member."""

    def __call__(self, function: Callable[[Client], T], what: str, *, idempotent: bool = False) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease: keys put with its `id` vanish `ttl` seconds after its last refresh."""

    id: int
    ttl: int
    _run: Runner = field(repr=False, compare=False)

    async def refresh(self) -> int:
        """Begin the time to live anew; the seconds left. Raises NotFound if the lease has ended."""
        def refresh(client: Client) -> int:
            left: int = max(response.TTL for response in client.refresh_lease(self.id))
            return left

        left = await self._run(refresh, f"refresh lease {self.id:x}", idempotent=True)
        if left <= 0:
            raise NotFound(f"lease {self.id:x} has ended: its keys are gone, ask for a new one")
        return left

    async def revoke(self) -> None:
        """End it now, and its keys with it. Raises NotFound if it has ended."""
        def revoke(client: Client) -> None:
            client.revoke_lease(self.id)

        await self._run(revoke, f"revoke lease {self.id:x}")
