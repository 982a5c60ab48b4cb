"""Whether a host answers: ICMP echo (RFC 792, RFC 4443), which its kernel answers whatever its daemons do."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from services.node.netlink.network import IPAddress

__all__ = ["answers"]

_ECHO = struct.Struct(">BBHHH")
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}


async def answers(address: IPAddress, seconds: float) -> bool:
    """Whether an echo request is answered in time.

    True where it can not be found out, without the right to send one.
    """
    version = address.version
    family, protocol = ((socket.AF_INET, socket.IPPROTO_ICMP) if version == 4
                        else (socket.AF_INET6, socket.IPPROTO_ICMPV6))
    loop = asyncio.get_running_loop()
    try:
        own = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    except PermissionError:
        return True
    token = os.urandom(16)
    with own:
        try:
            own.connect((str(address), 0))
            own.send(_request(version, token))
            async with asyncio.timeout(seconds):
                while True:
                    packet = await loop.sock_recv(own, 2048)
                    start = (packet[0] & 0xF) * 4 if version == 4 and packet else 0  # IPv4 comes with its header
                    if packet[start:start + 1] == bytes([_REPLY[version]]) and packet[start + _ECHO.size:] == token:
                        return True
        except (TimeoutError, OSError):  # OSError: there is no way to it
            return False


def _request(version: int, token: bytes) -> bytes:
    header = _ECHO.pack(_REQUEST[version], 0, 0, 0x6D75, 1)
    # The kernel fills in ICMPv6's checksum, not ICMP's.
    return _ECHO.pack(_REQUEST[version], 0, _checksum(header + token), 0x6D75, 1) + token if version == 4 \
        else header + token


def _checksum(data: bytes) -> int:
    """RFC 1071; an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
