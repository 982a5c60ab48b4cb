"""Settings below /proc/sys/net of the namespace that a connection belongs to, for what netlink can not set."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from muslin import netns
from services.node.errors import KernelError
from services.node.netlink.connection import Connection

__all__ = ["read", "writable", "write"]

_OWN, _HOST = Path("/proc/sys/net"), Path("/host/proc/sys/net")
_ROOT = _HOST if _HOST.is_dir() else _OWN
"""In a container /proc/sys is read-only; the same, mounted elsewhere from its host, is not. Wherever that is, it shows
the network namespace that the looking thread is in."""


def read(connection: Connection, path: str) -> str | None:
    """The value of a setting such as `ipv6/conf/eth0/accept_ra`; None if it can not be read, or is not there.

    Raises:
        NotFound: the namespace is gone.
    """
    with _inside(connection):
        return _value(path)


def write(connection: Connection, path: str, value: int) -> None:
    """Give a setting a value; nothing is written where it has it.

    Raises:
        NotFound: the namespace is gone.
        KernelError: ENOENT if there is no such setting, EROFS or EACCES where /proc/sys may only be read.
    """
    try:
        with _inside(connection):
            if _value(path) != str(value):
                (_ROOT / path).write_text(str(value))
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"set net.{path.replace('/', '.')}={value}") from error


def writable(connection: Connection, path: str) -> bool:
    """Whether a setting can be changed here.

    Raises:
        NotFound: the namespace is gone.
    """
    with _inside(connection):
        return os.access(_ROOT / path, os.W_OK)


def _value(path: str) -> str | None:
    try:
        return (_ROOT / path).read_text().strip()
    except OSError:
        return None


def _inside(connection: Connection) -> AbstractContextManager[None]:
    """What lies below /proc/sys/net is that of the namespace that the thread is in."""
    return nullcontext() if connection.namespace is None else netns.entered(connection.namespace)
