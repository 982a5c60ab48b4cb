"""Network namespaces of played pods."""

from __future__ import annotations

import fcntl
import hashlib
import socket
import struct
from pathlib import Path

from muslin import netns

__all__ = ["name_of", "create"]

LONGEST_NAME = 200
"""Bytes; a file name has at most 255."""

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1  # netdevice(7)


def name_of(namespace: str, pod: str) -> str:
    """The name of a pod's network namespace: unique, because a namespace's name has no dot; cut if it is too long."""
    name = f"muslin-{namespace}.{pod}"
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[:LONGEST_NAME - 17]}-{digest}"


def create(name: str) -> Path:
    """Make a named namespace with its loopback up, as a runtime does before it calls a plugin. Raises AlreadyExists."""
    path = netns.create(name)
    try:
        netns.run(path, _loopback_up)
    except BaseException:
        netns.delete(name)
        raise
    return path


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
