"""Connections that never come to a call: gRPC ends them when their handshake takes too long, and tells nobody.

So the kernel's list of connections is looked at every few seconds. One that was there at two looks, of which no call
was heard, and that is gone, is counted as refused.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from muslin.rpc.refusals import refused

__all__ = ["Silent", "connections", "heard", "peer_of"]

log = logging.getLogger(__name__)

LOOK = 4.5
"""Seconds between looks: two fit into what gRPC gives a handshake. Each has the kernel go through all connections."""
_REMEMBERED = 65_536
_ESTABLISHED = "01"
_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))

_heard: OrderedDict[str, None] = OrderedDict()


def heard(peer: str) -> None:
    """Note that a call came from a peer, as gRPC names it; of the newest so many it is remembered."""
    _heard[peer] = None
    _heard.move_to_end(peer)
    if len(_heard) > _REMEMBERED:
        _heard.popitem(last=False)


def peer_of(host: str, port: int) -> str:
    """The name that gRPC has for the other end: `ipv4:10.0.0.1:7`, `ipv6:%5Bfd00::1%5D:7`."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.version == 4:
        return f"ipv4:{address}:{port}"
    return f"ipv6:{urllib.parse.quote(f'[{address}]', safe=':')}:{port}"


def connections(lines: Iterable[str], ports: Collection[int]) -> set[str]:
    """The peers of connections to our ports, from the lines of /proc/net/tcp or tcp6 (proc(5))."""
    found = set()
    for line in lines:
        fields = line.split()
        if len(fields) < 4 or fields[3] != _ESTABLISHED or int(fields[1].rpartition(":")[2], 16) not in ports:
            continue
        address, _, port = fields[2].rpartition(":")
        # Each word of four bytes is written as a number of the machine, whose bytes the reverse is.
        raw = b"".join(bytes.fromhex(address[at:at + 8])[::-1] for at in range(0, len(address), 8))
        found.add(peer_of(str(ipaddress.ip_address(raw)), int(port, 16)))
    return found


class Silent:
    """Those of one server."""

    def __init__(self, ports: Collection[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._ports, self._clock = frozenset(ports), clock
        self._since: dict[str, tuple[float, int]] = {}  # when it was seen first, and how often

    async def run(self) -> None:
        """Look every so often, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                self.look(await asyncio.to_thread(self._read))
            except OSError as problem:
                log.info("connections that say nothing are not counted: %s", problem)
                return

    def _read(self) -> set[str]:
        return {peer for table in _TABLES if table.exists()
                for peer in connections(table.read_text().splitlines()[1:], self._ports)}

    def look(self, present: Collection[str]) -> None:
        """Count those that are gone and were never heard of."""
        now = self._clock()
        for peer in [peer for peer in self._since if peer not in present]:
            since, looks = self._since.pop(peer)
            called = peer in _heard
            _heard.pop(peer, None)  # the next connection from there may be somebody else's
            if not called and looks > 1:
                refused("silent", peer, f"it made no call in the {now - since:.0f} s for which it was connected")
        for peer in present:
            since, looks = self._since.get(peer, (now, 0))
            self._since[peer] = since, looks + 1
