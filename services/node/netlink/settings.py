"""Settings below /proc/sys/net of the namespace that a connection belongs to, for what netlink can not set."""

from __future__ import annotations

import errno
import os

from services.node.errors import KernelError
from services.node.netlink.connection import Connection

__all__ = ["read", "write"]


def read(connection: Connection, path: str) -> str | None:
    """The value of a setting such as `ipv6/conf/eth0/accept_ra`; None if it can not be read, or is not there."""
    try:
        handle = _opened(connection, path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(handle, 256).decode(errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(handle)


def write(connection: Connection, path: str, value: int) -> None:
    """Give a setting a value; nothing is written where it has it.

    Raises:
        KernelError: ENOENT if there is no such setting, EROFS or EACCES where /proc/sys may only be read.
    """
    if read(connection, path) == str(value):
        return
    try:
        handle = _opened(connection, path, os.O_WRONLY)
        try:
            os.write(handle, str(value).encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"set net.{path.replace('/', '.')}={value}") from error


def _opened(connection: Connection, path: str, flags: int) -> int:
    if connection.settings < 0:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return os.open(path, flags | os.O_CLOEXEC, dir_fd=connection.settings)
