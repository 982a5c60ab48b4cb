"""How large the packets of pods may be, where the configuration does not say: the node's uplink decides."""

from __future__ import annotations

import ipaddress
import time

from services.node.netlink import links, network
from services.node.netlink.connection import Connection

__all__ = ["OUTSIDE", "Uplink"]

SECONDS = 5.0
"""How long what was found counts: an uplink seldom changes, and many pods come at once."""

OUTSIDE = (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1"))
"""Addresses for documentation, which are nobody's: their route is the default one. Nothing is sent to them."""


class Uplink:
    """The device that the node's default route leaves by, or a named one."""

    def __init__(self, device: str = "", overhead: int | None = None) -> None:
        """`overhead` is how many bytes of each packet the way between nodes needs for itself; None: as reserved."""
        self._device = device
        self._overhead = overhead
        self._reserved = 0
        self._beside = 0
        self._found = 0
        self._since = -SECONDS

    def reserve(self, overhead: int) -> None:
        """So many bytes of each packet the way between nodes needs for itself, unless it was said otherwise."""
        self._reserved = overhead

    def beside(self, index: int) -> None:
        """Packets of pods leave by this link, too: the smaller of both sizes counts. 0 for none."""
        if index != self._beside:
            self._beside, self._since = index, -SECONDS

    def mtu(self, host: Connection) -> int:
        """Largest packet of a pod in bytes; 0, which leaves it to the kernel, where there is no uplink.

        Raises:
            KernelError: the kernel can not be asked.
        """
        whole = self.whole(host)
        overhead = self._reserved if self._overhead is None else self._overhead
        return max(whole - overhead, 0) if whole else 0

    def whole(self, host: Connection) -> int:
        """Largest packet of the uplink in bytes; 0 where there is none. Raises KernelError."""
        now = time.monotonic()
        if now - self._since >= SECONDS:
            link = links.get(host, self._device) if self._device else _default(host)
            other = links.get(host, self._beside) if self._beside and not self._device else None
            self._found, self._since = min((each.mtu for each in (link, other) if each), default=0), now
        return self._found


def _default(host: Connection) -> links.Link | None:
    for address in OUTSIDE:
        if (index := network.device_towards(host, address)) and (link := links.get(host, index)) is not None:
            return link
    return None
