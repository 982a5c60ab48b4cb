"""Addresses to listen on: a unix socket nobody can steal, or TCP."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType

from muslin.errors import FailedPrecondition, InvalidArgument


class SocketLock:
    """Ownership of a unix socket's path.

    gRPC removes whatever stands at the path and binds its own, so two servers on one path would rob each other
    silently. A lock file beside the socket makes the second one fail; the directory's mode keeps others out, since
    the socket itself is made with mode 0755.
    """

    def __init__(self, path: Path) -> None:
        """Take the path.

        Raises:
            FailedPrecondition: another process has it, or its directory lets other users in.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.parent.stat().st_mode)
        if mode & 0o077:
            raise FailedPrecondition(f"{path.parent} has mode {mode:04o} and lets other users reach the socket: "
                                     f"chmod 0700 {path.parent}, or name another directory")
        self.path = path
        self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise FailedPrecondition(f"another process serves {path}: stop it, or listen elsewhere") from None

    def __enter__(self) -> SocketLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._file)  # the lock file stays: removing it would let two processes lock two files of one name


def unix_path(address: str) -> Path | None:
    """The path of `unix:/path`, None for TCP.

    Raises:
        InvalidArgument: it is neither.
    """
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        if not path.is_absolute():
            raise InvalidArgument(f"--listen {address}: the path must be absolute, as in unix:/run/muslin/ipam.sock")
        if len(os.fsencode(path)) > 107:
            raise InvalidArgument(f"--listen {address}: a unix socket's path has at most 107 bytes")
        return path
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidArgument(f"--listen {address}: use unix:/path or host:port")
    return None
