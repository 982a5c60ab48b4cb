"""The members of an etcd cluster as endpoints, and which one to talk to.

gRPC can spread one channel over several addresses, but only numeric ones, and it stays with a member for as long as
the connection lives: also with one that has lost the rest of the cluster, or that is frozen and has not yet missed a
keepalive. So each endpoint has a channel of its own, and the choice is made here: stay with the member that works,
leave it when a call on it fails, and take whichever of the others is connected first.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import grpc
import grpc.aio

from muslin.errors import InvalidArgument, TimedOut, Unavailable, Unsupported
from muslin.etcd.failures import translate
from muslin.etcd.stubs import rpc_pb2 as pb
from muslin.etcd.stubs import rpc_pb2_grpc as rpc
from muslin.tls import Certificates, Material

__all__ = ["Address", "Connection", "Cluster", "CHANNEL_OPTIONS", "REQUIRE_LEADER"]

log = logging.getLogger(__name__)

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A frozen peer acknowledges nothing: ask after 6 s without a sign of life (etcd hangs up on a client that asks more
    # often than every 5 s, or while it has no call open), and give up 3 s later. `keepalive_timeout_ms` alone does not
    # end the connection; `http2.ping_timeout_ms` does.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # How long one attempt to connect may take (despite its name), and the pause between attempts.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),  # a page's size is ours to choose, not gRPC's 4 MB
    ("grpc.enable_http_proxy", 0),  # never send the store's traffic through a proxy meant for the web
)

REQUIRE_LEADER = grpc.aio.Metadata(("hasleader", "true"))
"""Metadata: a member that has lost its leader must refuse at once, and end a watch, instead of going silent."""

_ENDPOINT = re.compile(r"(?:(?P<scheme>https?)://)?(?:\[(?P<bracketed>[0-9a-fA-F:.]+)\]|(?P<plain>[^\s/:\[\]()$]+)):(?P<port>[0-9]{1,5})/?")
_LOOK = 5.0  # seconds between looks at the certificates' files
_RENEW = 5.0  # seconds for the first connection with new certificates
_GRACE = 10.0  # seconds for calls on connections with old ones: twice as long as a call may take
_STAGGER = 0.05  # seconds between the first attempts to connect to one member and to the next


@dataclass(frozen=True, slots=True)
class Address:
    """Where a member listens for clients: a host name or an IP address (IPv6 without brackets), and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, tls: bool = False) -> Address:
        """Read "host:port", with or without a scheme before it, which must fit what is spoken.

        Raises:
            InvalidArgument: it is malformed, or names plaintext where TLS is spoken.
            Unsupported: it names TLS, and there is no certificate.
        """
        found = _ENDPOINT.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise InvalidArgument(f"etcd endpoint {text!r} is not of the form host:port, such as 127.0.0.1:2379 or "
                                  "[::1]:2379")
        if found["scheme"] == "https" and not tls:
            raise Unsupported(f"etcd endpoint {text!r}: TLS to etcd needs --etcd-cert, --etcd-key and --etcd-ca")
        if found["scheme"] == "http" and tls:
            raise InvalidArgument(f"etcd endpoint {text!r} means plaintext, and TLS is asked for: use https")
        return cls(found["bracketed"] or found["plain"], int(found["port"]))

    @property
    def version(self) -> int:
        """4 or 6 for an IP address, 0 for a name."""
        try:
            return ipaddress.ip_address(self.host).version
        except ValueError:
            return 0

    @property
    def target(self) -> str:
        """The address as gRPC takes it; names are resolved by gRPC, anew when a connection fails."""
        return f"{({4: 'ipv4:', 6: 'ipv6:', 0: 'dns:///'})[self.version]}{self}"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.version == 6 else f"{self.host}:{self.port}"


class Connection:
    """The channel to one member and the stubs on it; connects when first used."""

    def __init__(self, address: Address, material: Material | None = None) -> None:
        """Plaintext without certificates."""
        self.address = address
        self._material = material
        self._heard = -math.inf

    @cached_property
    def channel(self) -> grpc.aio.Channel:
        """The channel: made late, because it belongs to the event loop that runs when it is made."""
        if (material := self._material) is None:
            return grpc.aio.insecure_channel(self.address.target, options=CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(material.authority, material.key, material.certificate)
        return grpc.aio.secure_channel(self.address.target, credentials, options=CHANNEL_OPTIONS)

    @cached_property
    def kv(self) -> rpc.KVAsyncStub:
        """Keys and transactions."""
        return rpc.KVStub(self.channel)

    @cached_property
    def watch(self) -> rpc.WatchAsyncStub:
        """Watches."""
        return rpc.WatchStub(self.channel)

    @property
    def up(self) -> bool:
        """Whether it is connected, as far as is known."""
        return "channel" in vars(self) and self.channel.get_state() is grpc.ChannelConnectivity.READY

    async def trouble(self) -> str:
        """Why there is no connection, in gRPC's words; empty if it does not say."""
        if self.channel.get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            return ""
        try:
            # In this state a call fails at once, and its failure is the only place where the reason is told.
            await self.kv.Range(pb.RangeRequest(key=b"\0"), timeout=0.1)
        except grpc.aio.AioRpcError as error:
            return error.details() or ""
        return ""

    def heard(self) -> None:
        """Note that the member has just said something."""
        self._heard = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since it last said something."""
        return time.monotonic() - self._heard

    async def probe(self, timeout: float) -> None:
        """Find out whether the member is alive; it counts as alive for `timeout` seconds after it said something.

        A frozen process keeps its connections, and gRPC's keepalive needs up to nine seconds to tell: etcd allows no
        shorter one. So the member is asked for something that it can answer alone. Raises TimedOut or Unavailable.
        """
        if self.silence < timeout:
            return
        try:
            await self.kv.Range(pb.RangeRequest(key=b"\0", serializable=True, count_only=True), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            failure = translate(error, "a sign of life", str(self.address), timeout=timeout, idempotent=True)
            if isinstance(failure, TimedOut | Unavailable):
                raise failure from error
        self.heard()

    async def aclose(self, grace: float | None = None) -> None:
        """End the connection; and every call on it, after `grace` seconds at most."""
        if "channel" in vars(self):
            await self.channel.close(grace)


async def _first(order: Sequence[Connection]) -> Connection:
    """The first that is connected, with a small advantage for those at the front."""
    async def attempt(connection: Connection, delay: float) -> Connection:
        await asyncio.sleep(delay)
        await connection.channel.channel_ready()
        return connection

    attempts = [asyncio.create_task(attempt(connection, _STAGGER * place), name=f"etcd-to-{connection.address}")
                for place, connection in enumerate(order)]
    try:
        await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
        return next(task.result() for task in attempts if task.done())
    finally:
        for task in attempts:
            task.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)


class Cluster:
    """All endpoints of one etcd cluster, with TLS if there are certificates.

    When the files of these change, connections are made with the new ones, and take over once one is up.

    Raises:
        InvalidArgument: there is no endpoint, or one is malformed.
        Unsupported: one is "https://", and there are no certificates.
    """

    def __init__(self, endpoints: Sequence[str], certificates: Certificates | None = None) -> None:
        if not endpoints:
            raise InvalidArgument("no etcd endpoint is given: name at least one host:port")
        addresses = dict.fromkeys(Address.parse(each, tls=certificates is not None) for each in endpoints)
        self._certificates = certificates
        self._material = certificates.load() if certificates else None
        self._look = 0.0  # when to look at the files again
        self._tasks: set[asyncio.Task[None]] = set()  # taking over; each ends by itself
        self._leaving: set[Connection] = set()  # connections with earlier certificates
        self._order = [Connection(address, self._material) for address in addresses]  # the next to try first
        self.names = ", ".join(str(address) for address in addresses)
        self._current: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self.closed = False

    def __len__(self) -> int:
        return len(self._order)

    async def connection(self, timeout: float) -> Connection:
        """A connected member, waiting for one up to `timeout` seconds. Raises Unavailable."""
        if self._certificates is not None:
            self._renew(self._certificates)
        current = self._current
        if current is not None and current.up:
            return current
        if self.closed:
            raise self._closing()
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="etcd-connect")
        try:
            # Shielded: the search serves everybody, also those who come after this caller has given up.
            async with asyncio.timeout(timeout):  # as in muslin.etcd.admin
                return await asyncio.shield(self._connecting)
        except TimeoutError:
            reasons = [reason for connection in self._order if (reason := await connection.trouble())]
            raise Unavailable(f"no etcd member could be reached at {self.names} within {timeout:.3g} s"
                              f"{': ' if reasons else ''}{'; '.join(reasons)}") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            if self.closed:  # the search was cancelled, not the caller
                raise self._closing() from None
        return await self.connection(timeout)  # others have taken over, of which one was up a moment ago

    def _closing(self) -> Unavailable:
        return Unavailable(f"the client of etcd at {self.names} is closed")

    def avoid(self, connection: Connection) -> None:
        """A call on this member failed: prefer the others from now on."""
        if self._current is connection:
            self._current = None
        if connection in self._order:  # else one with certificates that were replaced meanwhile
            self._order.remove(connection)
            self._order.append(connection)

    async def _connect(self) -> Connection:
        order = self._order
        try:
            found = await _first(order)
            if self._order is order:  # else others have taken over; this one serves those that wait for it
                self._current = found
        finally:
            self._connecting = None
        log.debug("etcd connected endpoint=%s", found.address)
        return found

    def _renew(self, certificates: Certificates) -> None:
        """Look for new files, now and then, and have connections with them take over."""
        if (now := time.monotonic()) < self._look or self.closed:
            return
        self._look = now + _LOOK
        material = certificates.load()
        if material is not self._material:
            self._look = math.inf  # until this one has been tried
            task = asyncio.create_task(self._take_over(material), name="etcd-renew")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take_over(self, material: Material) -> None:
        fresh = [Connection(connection.address, material) for connection in self._order]
        before = fresh  # to be closed: these, unless they take over
        try:
            async with asyncio.timeout(_RENEW):
                current = await _first(fresh)
            before, self._order, self._current, self._material = self._order, fresh, current, material
            if (search := self._connecting) is not None:
                search.cancel()  # among connections that are about to be closed
            log.info("etcd: new certificate in use endpoint=%s", current.address)
        except TimeoutError:
            log.warning("etcd at %s takes no connection with the new certificate; that before stays in use, and the "
                        "new one is tried again", self.names)
        finally:
            self._look = time.monotonic() + _LOOK
            self._leaving.update(before)
            # Calls have ended by then; watches are told, and go on with the new ones.
            await asyncio.gather(*(connection.aclose(_GRACE) for connection in before))
            self._leaving.difference_update(before)

    async def aclose(self) -> None:
        """End all connections and the search for one."""
        self.closed = True
        if (search := self._connecting) is not None:
            search.cancel()
            await asyncio.wait([search])
        for task in (taking := tuple(self._tasks)):
            task.cancel()
        await asyncio.gather(*taking, return_exceptions=True)
        self._current = None
        for connection in (*self._order, *self._leaving):
            await connection.aclose()
