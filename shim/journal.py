"""Deletions that could not be done when the runtime asked for them, as files; the node daemon does them later.

One file each in `<state>/deletions/`, `<unix nanoseconds, 20 digits>.<container id>.<interface>.call`, with the
serialized muslin.cni.v1.Call in it. A configuration may hold secrets: directory and files are root's alone, and a call
is never printed.
"""

from __future__ import annotations

from posix import (
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_RDONLY,
    O_WRONLY,
    close,
    fstat,
    fsync,
    getpid,
    listdir,
    mkdir,
    read,
    rename,
    unlink,
    write,
)
from posix import open as open_file
from time import time_ns

from shim import messages
from shim.messages import BadMessage

MOST = 10_000
"""Files in the directory; a node that has more to delete has been without its daemon for too long to go on."""

_LONGEST_NAME = 255  # bytes of a file name (Linux, NAME_MAX)
_DIGITS = 20
_SUFFIX = ".call"


class Full(Exception):
    """There are as many as may be."""


class Journal:
    """The deletions that wait."""

    def __init__(self, state: str) -> None:
        """`state` is the state directory; `deletions` in it need not exist."""
        self._state = state
        self.directory = f"{state}/deletions"

    def of(self, container_id: str, ifname: str) -> list[tuple[str, bytes]]:
        """Path and call of those of an attachment, oldest first.

        Raises:
            OSError: a file can not be read.
        """
        ending = _ending(container_id, ifname)
        found = []
        for name in sorted(name for name in _names(self.directory) if name.endswith(ending)):
            path = f"{self.directory}/{name}"
            try:
                call = _read(path)
                if messages.attachment(call) == (container_id, ifname):
                    found.append((path, call))
            except (FileNotFoundError, BadMessage):
                pass  # the daemon was quicker; or it is none, which the daemon sorts out
        return found

    def add(self, container_id: str, ifname: str, call: bytes) -> None:
        """Have a deletion done later. When this returns it survives a loss of power.

        Raises:
            Full: too many wait already.
            OSError: it can not be written.
        """
        _make(self._state, 0o755)
        _make(self.directory, 0o700)
        if any(waiting == call for _, waiting in self.of(container_id, ifname)):
            return  # the runtime repeats itself
        if len(_names(self.directory)) >= MOST:
            raise Full(f"{MOST} deletions wait in {self.directory} for the node daemon: is it running?")
        name = f"{time_ns():0{_DIGITS}}{_ending(container_id, ifname)}"
        temporary = f"{self.directory}/.{getpid()}.new"
        try:
            _write(temporary, call)
            rename(temporary, f"{self.directory}/{name}")
        except OSError:
            remove(temporary)
            raise
        folder = open_file(self.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        try:
            fsync(folder)
        finally:
            close(folder)


def remove(path: str) -> None:
    """A deletion is done.

    Raises:
        OSError: it can not be removed.
    """
    try:
        unlink(path)
    except FileNotFoundError:
        pass  # the daemon was quicker


def _ending(container_id: str, ifname: str) -> str:
    """The part of a name after the time. A container id too long for it is cut, and told apart by a checksum."""
    room = _LONGEST_NAME - _DIGITS - len(f"..{_SUFFIX}") - len(ifname.encode())
    if len(container_id) > room:
        container_id = f"{container_id[:room - 17]}~{_checksum(container_id):016x}"
    return f".{container_id}.{ifname}{_SUFFIX}"


def _checksum(text: str) -> int:
    """FNV-1a, 64 bits (draft-eastlake-fnv): a cryptographic one is not compiled in, nor needed: calls are compared."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def _names(directory: str) -> list[str]:
    try:
        return listdir(directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # whoever may not read it can not delete either
        return []


def _make(directory: str, mode: int) -> None:
    try:
        mkdir(directory, mode)
    except FileExistsError:
        pass


def _read(path: str) -> bytes:
    file = open_file(path, O_RDONLY | O_CLOEXEC)
    try:
        parts = []
        while part := read(file, max(1, fstat(file).st_size)):
            parts.append(part)
        return b"".join(parts)
    finally:
        close(file)


def _write(path: str, content: bytes) -> None:
    try:
        file = open_file(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    except FileExistsError:  # of a process with our number that was killed
        unlink(path)
        file = open_file(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    try:
        while content:
            content = content[write(file, content):]
        fsync(file)
    finally:
        close(file)
