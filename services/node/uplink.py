"""How large the packets of pods may be, where the configuration does not say: the node's uplink decides."""

from __future__ import annotations

import ipaddress
import time

from services.node.netlink import links, network
from services.node.netlink.connection import Connection

__all__ = ["Uplink"]

SECONDS = 5.0
"""How long what was found counts: an uplink seldom changes, and many pods come at once."""

_OUTSIDE = (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1"))
"""Addresses for documentation, which are nobody's: their route is the default one. Nothing is sent to them."""


class Uplink:
    """The device that the node's default route leaves by, or a named one."""

    def __init__(self, device: str = "", encapsulation: int = 0) -> None:
        """`encapsulation` is how many bytes of each packet the way between nodes needs for itself."""
        self._device = device
        self._encapsulation = encapsulation
        self._found = 0
        self._since = -SECONDS

    def mtu(self, host: Connection) -> int:
        """Largest packet of a pod in bytes; 0, which leaves it to the kernel, where there is no uplink.

        Raises:
            KernelError: the kernel can not be asked.
        """
        now = time.monotonic()
        if now - self._since >= SECONDS:
            link = links.get(host, self._device) if self._device else _default(host)
            self._found, self._since = max(link.mtu - self._encapsulation, 0) if link else 0, now
        return self._found


def _default(host: Connection) -> links.Link | None:
    for address in _OUTSIDE:
        if (index := network.device_towards(host, address)) and (link := links.get(host, index)) is not None:
            return link
    return None
