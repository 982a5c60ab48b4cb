"""Who uses which address: what the account of addresses is held against.

A source of claims is whoever knows of attachments that are alive. Today that is the endpoint service. Nothing is freed
that any source claims, and nothing at all while a source can not be asked: not knowing is not the same as not claimed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import grpc

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.errors import NotFound, Unavailable
from muslin.etcd.backoff import Backoff

log = logging.getLogger(__name__)


class Claim(NamedTuple):
    """That an attachment is alive and uses addresses."""

    identity: str
    """`network/container/interface`."""
    node: str
    addresses: tuple[str, ...]
    """Without prefix length."""
    namespace: str = ""
    pod: str = ""
    revision: int = 0
    """Of the last change of the source's record; the older of two claims has the smaller one."""


Claimed = Callable[[str], None]
"""Is told the identity of each attachment that a source learns of."""


class Source(Protocol):
    """Somebody who knows of attachments that are alive."""

    name: str

    @property
    def trouble(self) -> str:
        """Why `known` may be out of date; empty if nothing speaks for it."""

    @property
    def known(self) -> Mapping[str, Claim]:
        """A copy of the claims by identity, live, and a moment behind."""

    def subscribe(self, claimed: Claimed) -> None:
        """Tell somebody of claims as they are learned."""

    async def run(self) -> None:
        """Keep `known`, until cancelled."""

    async def snapshot(self, timeout: float) -> Sequence[Claim]:
        """All claims, with all that was written before this was called. Raises if they can not be read."""

    async def read(self, identity: str, timeout: float) -> Claim | None:
        """The claim of one attachment as it is now. Raises if it can not be read."""


def combined(claims: Iterable[Mapping[str, Claim]]) -> dict[str, Claim]:
    """The claims of several sources; where two claim for the same attachment, both count for its addresses."""
    found: dict[str, Claim] = {}
    for part in claims:
        for identity, claim in part.items():
            if (other := found.get(identity)) is None:
                found[identity] = claim
            else:
                merged = tuple(dict.fromkeys((*other.addresses, *claim.addresses)))
                found[identity] = other._replace(addresses=merged)
    return found


class EndpointClaims:
    """The endpoint service at `target` as a source; `run()` follows it, in a task of the owner's."""

    name = "endpoints"

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel: grpc.aio.Channel | None = None
        self._subscribers: list[Claimed] = []
        self._copy = Copy(self._claimed)
        self._trouble = "not asked yet"

    @property
    def trouble(self) -> str:
        """Why the copy may be out of date; empty if nothing speaks for it."""
        return f"{self.name} ({self._target}): {self._trouble}" if self._trouble else ""

    @property
    def known(self) -> Mapping[str, Claim]:
        """The copy."""
        return self._copy.claims

    def subscribe(self, claimed: Claimed) -> None:
        """Tell somebody of claims as they are learned."""
        self._subscribers.append(claimed)

    def _claimed(self, identity: str) -> None:
        for subscriber in self._subscribers:
            subscriber(identity)

    async def run(self) -> None:
        """Follow until cancelled. A watch that was lost goes on where it was; if it can not, a snapshot comes."""
        backoff, said = Backoff(most=1.0), ""
        try:
            while True:
                try:
                    await self._follow(backoff)
                    problem = "the stream has ended"
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                        self._copy.restart()
                    problem = f"{error.code().name}: {error.details()}"
                self._trouble = problem
                if problem != said:
                    log.info("claims interrupted source=%s target=%s problem=%s", self.name, self._target, problem)
                said = problem
                await asyncio.sleep(backoff.next())
        finally:
            if self._channel:
                await self._channel.close()

    async def _follow(self, backoff: Backoff) -> None:
        self._copy.begin()
        # A watch has no end, hence no deadline; the channel's pings notice a peer that is frozen or gone.
        async for response in self._stub().Watch(endpoint_pb2.WatchRequest(revision=self._copy.revision),
                                                 timeout=None):
            if self._copy.take(response):
                self._trouble = ""
            backoff.reset()

    def _stub(self) -> endpoint_pb2_grpc.EndpointsAsyncStub:
        if self._channel is None:
            self._channel = rpc.channel(self._target)
        return endpoint_pb2_grpc.EndpointsStub(self._channel)

    async def snapshot(self, timeout: float) -> Sequence[Claim]:
        """All claims: a watch of its own begins with them, after the service has caught up with its store."""
        copy = Copy()
        stream: Any = self._stub().Watch(endpoint_pb2.WatchRequest(), timeout=timeout)
        try:
            with rpc.translated("endpoint: read all records"):
                async for response in stream:
                    if copy.take(response):
                        return tuple(copy.claims.values())
        finally:
            stream.cancel()
        raise Unavailable("endpoint: read all records: the stream has ended before they were complete")

    async def read(self, identity: str, timeout: float) -> Claim | None:
        """The claim of one attachment, read from the store by the service now."""
        network, container_id, ifname = identity.split("/")
        attachment = cni_pb2.Attachment(network=network, container_id=container_id, ifname=ifname)
        try:
            with rpc.translated(f"endpoint: read {identity}"):
                answer = await self._stub().Get(endpoint_pb2.GetRequest(attachment=attachment), timeout=timeout)
        except NotFound:
            return None
        return claim_of(answer.endpoint)


def identity_of(attachment: cni_pb2.Attachment) -> str:
    """`network/container/interface`."""
    return f"{attachment.network}/{attachment.container_id}/{attachment.ifname}"


def claim_of(endpoint: endpoint_pb2.WorkloadEndpoint) -> Claim:
    """What a workload endpoint claims."""
    return Claim(identity_of(endpoint.attachment), sys.intern(endpoint.node), tuple(map(_written, endpoint.addresses)),
                 sys.intern(endpoint.namespace), endpoint.pod, endpoint.revision)


def _written(address: str) -> str:
    """An address as the address manager writes it: IPv6 has several ways."""
    try:
        return str(ipaddress.ip_address(address)) if ":" in address else address
    except ValueError:
        return address


class Copy:
    """What the messages of a watch add up to. No I/O."""

    def __init__(self, claimed: Claimed = lambda _: None) -> None:
        self.claims: dict[str, Claim] = {}
        self.revision = 0
        """The last state that is complete; a watch resumes behind it."""
        self._claimed = claimed
        self._seen: set[str] | None = set()
        """What the snapshot under way has named; None once there is a complete state."""

    def begin(self) -> None:
        """Expect the messages of a new stream: what has changed, or a snapshot if no revision is known."""
        self._seen = None if self.revision else set()

    def restart(self) -> None:
        """Expect a snapshot next, because the changes are no longer kept."""
        self.revision = 0

    def take(self, response: endpoint_pb2.WatchResponse) -> bool:
        """Apply a message; whether the copy is complete up to its revision now."""
        for change in response.changes:
            if change.kind == endpoint_pb2.Change.KIND_PUT:
                claim = claim_of(change.endpoint)
                self.claims[claim.identity] = claim
                if self._seen is not None:
                    self._seen.add(claim.identity)
                self._claimed(claim.identity)
            else:
                self.claims.pop(identity_of(change.endpoint.attachment), None)
        if response.snapshot_complete and self._seen is not None:
            for identity in self.claims.keys() - self._seen:
                del self.claims[identity]
            self._seen = None
        if self._seen is None:
            self.revision = max(self.revision, response.revision)
        return self._seen is None


async def everything(sources: Sequence[Source], timeout: float) -> dict[str, Claim]:
    """The claims of all sources, read now. Raises if a source can not be read, or if there is none."""
    parts = []
    for source in sources:
        parts.append({claim.identity: claim for claim in await source.snapshot(timeout)})
    return combined(parts)


def trouble(sources: Sequence[Source]) -> str:
    """Why the claims are not fully known; empty if nothing speaks for it."""
    if not sources:
        return "no source of claims is configured: start muslin-ipam with --endpoint"
    return "; ".join(filter(None, (source.trouble for source in sources)))

