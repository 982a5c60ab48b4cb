"""Where nodes can be reached: what their own daemons announce, and whether they have done so lately.

Two records for each: where it is, which stays until the node is forgotten, and that it is present, which a lease ends.
So whoever starts while a node's daemon is away knows where the node is, and that nothing was heard of it.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Corrupt, InvalidArgument, NotFound
from muslin.etcd import Etcd, keys
from muslin.etcd.mirror import Change, Mirror
from muslin.latest import Latest
from services.endpoint.convert import names

__all__ = ["Host", "Hosts", "of_message"]

log = logging.getLogger(__name__)

SHORTEST_TTL, LONGEST_TTL = 2, 3600
"""Seconds; a lease of etcd's can not be shorter than about its time to elect a leader."""
MESSAGE = 500
"""Hosts in one message, at most."""
_LONGEST = 500
"""Characters of a node's trouble."""


class Host(msgspec.Struct, frozen=True):
    """As stored: where a node can be reached."""

    node: str
    addresses: tuple[str, ...] = ()
    version: str = ""
    """Of its daemon."""


class Hosts:
    """The hosts of one store."""

    def __init__(self, etcd: Etcd, mirror: Mirror) -> None:
        self._etcd, self._mirror = etcd, mirror
        self._latest: Latest[str, endpoint_pb2.Host] = Latest()
        mirror.subscribe(self._take)

    async def announce(self, host: Host, ttl: int, lease: int, timeout: float, trouble: str = "") -> int:
        """Store where a node is and that it is present for `ttl` seconds; the lease to go on with.

        `trouble` is why it can not serve now, if it can not. With the lease of an earlier answer nothing is written, as
        long as nothing has changed. Raises Unavailable, TimedOut: not known to be done; announce again.
        """
        key, presence, value = keys.host(host.node), keys.presence(host.node), msgspec.json.encode(host)
        said = trouble[:_LONGEST].encode()
        known, present = self._mirror.items.get(key), self._mirror.items.get(presence)
        if known is None or known.value != value:
            await self._etcd.put(key, value, timeout=timeout)
            log.info("announced node=%s addresses=%s", host.node, ",".join(host.addresses))
        if lease and present is not None and present.lease == lease:
            try:
                await self._etcd.refresh(lease)
            except NotFound:
                log.info("the presence of node %s had ended", host.node)
            else:
                if present.value != said:
                    await self._etcd.put(presence, said, lease, timeout=timeout)
                return lease
        granted = await self._etcd.lease(ttl)
        await self._etcd.put(presence, said, granted.id, timeout=timeout)
        return granted.id

    @property
    def known(self) -> Mapping[str, endpoint_pb2.Host]:
        """The hosts as they are now; live."""
        return self._latest.values

    async def forget(self, nodes: Sequence[str]) -> None:
        """Forget where nodes could be reached. Raises Unavailable, TimedOut."""
        for node in nodes:
            for key in (keys.presence(node), keys.host(node)):
                if key in self._mirror.items:
                    await self._etcd.delete(key)

    async def watch(self) -> AsyncGenerator[endpoint_pb2.WatchHostsResponse, None]:
        """All hosts, and then what changes."""
        with self._latest.reader() as reader:
            snapshot = True
            while True:
                changed = reader.take(MESSAGE)
                # A snapshot in several messages is complete with the last of them.
                complete = snapshot and len(changed) < MESSAGE
                yield endpoint_pb2.WatchHostsResponse(
                    hosts=[host for host in changed.values() if host is not None],
                    forgotten=[node for node, host in changed.items() if host is None], snapshot_complete=complete)
                snapshot = snapshot and not complete
                if not snapshot:
                    await reader.moved()

    def _take(self, changes: Sequence[Change], revision: int) -> None:
        for change in changes:
            try:
                if change.key.startswith(keys.HOSTS):
                    self._look(keys.parse_host(change.key))
                elif change.key.startswith(keys.PRESENCES):
                    self._look(keys.parse_presence(change.key))
            except Corrupt as problem:
                log.error("%s", problem.message)  # noqa: TRY400  what is wrong is the record; the traceback is of no use

    def _look(self, node: str) -> None:
        item = self._mirror.items.get(keys.host(node))
        if item is None:
            self._latest.put(node, None)
            return
        try:
            host = msgspec.json.decode(item.value, type=Host)
        except msgspec.MsgspecError as problem:
            raise Corrupt(f"record {item.key} does not decode: {problem}; its node will write it anew") from None
        present = self._mirror.items.get(keys.presence(node))
        self._latest.put(node, endpoint_pb2.Host(
            node=node, addresses=host.addresses, present=present is not None, version=host.version,
            trouble=present.value.decode(errors="replace") if present else ""))


def of_message(message: endpoint_pb2.Host, ttl: int) -> Host:
    """A host as it is stored.

    Raises:
        InvalidArgument: naming the field.
    """
    (node,) = names([message.node])
    if not SHORTEST_TTL <= ttl <= LONGEST_TTL:
        raise InvalidArgument(f"ttl_seconds {ttl} must be {SHORTEST_TTL} to {LONGEST_TTL}")
    families = set()
    for number, text in enumerate(message.addresses):
        try:
            address = ipaddress.ip_address(text)
        except ValueError as problem:
            raise InvalidArgument(f"host.addresses[{number}]: {problem}") from None
        if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
            raise InvalidArgument(f"host.addresses[{number}] {text} is no address that other nodes can reach")
        if address.version in families:
            raise InvalidArgument(f"host.addresses[{number}] {text} is the second of its family: name one of each")
        families.add(address.version)
    return Host(node, tuple(str(ipaddress.ip_address(text)) for text in message.addresses), message.version[:_LONGEST])
