"""A node of the benchmark's own: a network namespace that this process lives in, pods' namespaces, a running Muslin."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from muslin import netns

__all__ = ["CanNotRun", "Muslin", "move", "muslin", "pods"]

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_STOP_SECONDS = 40


class CanNotRun(Exception):
    """The benchmark can not run here; the message says why."""


def move() -> None:
    """Move this process into a network namespace of its own, which ends with it and what it started.

    Raises:
        CanNotRun: not root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise CanNotRun(f"a network namespace of its own needs root: {os.strerror(ctypes.get_errno())}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


@contextmanager
def pods(count: int) -> Iterator[list[Path]]:
    """Network namespaces for pods, deleted at the end."""
    with ExitStack() as stack:
        paths = []
        for number in range(count):
            name = f"muslin-bench-{os.getpid()}-{number}"
            stack.callback(netns.delete, name)
            paths.append(netns.create(name))
        yield paths


class Muslin:
    """A running `muslin up`."""

    def __init__(self, process: subprocess.Popen[str], socket_path: Path) -> None:
        self.pid = process.pid
        self.socket = socket_path


@contextmanager
def muslin(directory: Path, level: str = "warning") -> Iterator[Muslin]:
    """Run etcd and all services with their state in a directory; stop them at the end.

    Raises:
        CanNotRun: they did not come up; with their own words.
    """
    run = directory / "run"
    log = directory / "up.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "muslin.cli.main", "up", "--state", str(directory), "--run-dir", str(run),
             "--node", "bench", "--log-level", level],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
    try:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if "muslin is up" in line:
                break
        else:
            raise CanNotRun("`muslin up` ended: " + ("".join(said) + log.read_text()).strip())
        yield Muslin(process, run / "muslin.sock")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
