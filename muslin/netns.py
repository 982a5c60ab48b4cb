"""Network namespaces: run a function in one, open a socket in one, make and delete named ones.

A thread moves, never the process: setns(2) and unshare(2) act on the calling thread alone. Work of any length is given
to a thread that is made for it and ends with it; to open a socket the calling thread goes there and back. A socket
belongs for ever to the namespace it was opened in, whichever thread uses it afterwards; whoever needs more than one
request therefore opens a socket there and comes back.

Named namespaces are files under /run/netns with the namespace mounted on them, as ip-netns(8) has them, so that
`ip netns exec NAME ...` works on ours and we on its.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from muslin.errors import AlreadyExists, InvalidArgument, IOFailure, NotFound

__all__ = ["DIRECTORY", "create", "delete", "entered", "names", "open_socket", "path_of", "run"]

DIRECTORY = Path("/run/netns")
"""Where named namespaces are kept: iproute2's NETNS_RUN_DIR."""

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2

# Python has os.setns and os.unshare from 3.12 on, and never mount(2).
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), b"none", ctypes.c_ulong(flags), None), target)


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as failure:  # noqa: BLE001 - handed to the caller's thread, which raises it
            failures.append(failure)

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def run(namespace: str | os.PathLike[str], function: Callable[[], T]) -> T:
    """Run `function` inside the network namespace at the path, and return what it returns.

    Only a short-lived thread moves; sockets and namespaces of the caller stay as they are. What the function raises
    is raised here. Costs about 0.2 ms.

    Raises NotFound if nothing is at the path, InvalidArgument if it is not a network namespace, IOFailure otherwise.
    """
    with _opened(namespace) as (path, handle):
        def moved() -> T:
            _move(handle, path)
            return function()

        return _in_thread(moved)


@contextmanager
def entered(namespace: str | os.PathLike[str]) -> Iterator[None]:
    """Move the calling thread into the network namespace at the path for the time of a few system calls.

    Costs about 0.03 ms. What is opened meanwhile, sockets and files below /proc/sys/net, is that namespace's for ever.
    Threads and processes that are started meanwhile are so, too: start none. Raises as `run` does.
    """
    with _opened(namespace) as (path, handle):
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _move(handle, path)
            try:
                yield
            finally:
                if _libc.setns(home, _CLONE_NEWNET):
                    os.abort()  # never seen: whatever this thread did next, it would do it to a container's network
        finally:
            os.close(home)


@contextmanager
def _opened(namespace: str | os.PathLike[str]) -> Iterator[tuple[str, int]]:
    path = os.fspath(namespace)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"network namespace {path} does not exist") from error
    except OSError as error:
        raise IOFailure(f"network namespace {path}: {error.strerror}") from error
    try:
        yield path, handle
    finally:
        os.close(handle)


def _move(handle: int, path: str) -> None:
    try:
        _check(_libc.setns(handle, _CLONE_NEWNET), path)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise InvalidArgument(f"{path} is not a network namespace") from error
        raise IOFailure(f"can not enter network namespace {path}: {error.strerror}") from error


def open_socket(namespace: str | os.PathLike[str], family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that lives in the network namespace at the path, usable from any thread. Raises as `run` does."""
    with entered(namespace):
        return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)


def path_of(name: str) -> Path:
    """Path of the named namespace. Raises InvalidArgument for what can not be a file name."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name or len(name) > 255:
        raise InvalidArgument(f"name of a network namespace must be a file name, not {name!r}")
    return DIRECTORY / name


def names() -> list[str]:
    """Names of the namespaces that exist, sorted."""
    try:
        return sorted(entry.name for entry in DIRECTORY.iterdir())
    except FileNotFoundError:
        return []


def create(name: str) -> Path:
    """Make a named network namespace with its loopback down, and return its path.

    The directory is made a shared mount first, as ip-netns(8) does: what is mounted in it is then seen, and let go of
    again on deletion, in mount namespaces that were copied from this one (containers, services with private /tmp).

    Raises AlreadyExists, InvalidArgument for the name, IOFailure.
    """
    path = path_of(name)
    try:
        with _locked_directory():
            _share_directory()
            handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        os.close(handle)
    except FileExistsError as error:
        raise AlreadyExists(f"network namespace {name} exists") from error
    except OSError as error:
        raise IOFailure(f"can not prepare {path}: {error.strerror}") from error

    def unshared() -> None:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        _mount("/proc/thread-self/ns/net", str(path), _MS_BIND)

    try:
        _in_thread(unshared)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise IOFailure(f"can not make network namespace {name}: {error.strerror} ({error.filename})") from error
    return path


def delete(name: str) -> None:
    """Delete a named namespace; one that is not there is a success.

    The kernel frees it, with all links in it, once no process and no open file holds it. Raises InvalidArgument for
    the name, IOFailure.
    """
    path = path_of(name)
    try:
        _check(_libc.umount2(str(path).encode(), _MNT_DETACH), str(path))
    except OSError as error:
        # EINVAL: a file on which nothing is mounted, left by a crash between the two steps of create.
        if error.errno not in {errno.EINVAL, errno.ENOENT}:
            raise IOFailure(f"can not unmount {path}: {error.strerror}") from error
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise IOFailure(f"can not delete {path}: {error.strerror}") from error


@contextmanager
def _locked_directory() -> Iterator[None]:
    # The same lock as iproute2 takes: two that find the directory unshared must not mount it twice over.
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _share_directory() -> None:
    target = str(DIRECTORY)
    try:
        _mount("", target, _MS_SHARED | _MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Not a mount point yet: only those have a propagation of their own.
        _mount(target, target, _MS_BIND | _MS_REC)
        _mount("", target, _MS_SHARED | _MS_REC)
