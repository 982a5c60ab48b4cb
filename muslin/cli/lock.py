"""One `muslin up` for a run directory and a state directory: a lock, and what the holder says about itself."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path

import msgspec

from muslin.cli.places import Places
from muslin.cli.process import Process, this_process
from muslin.errors import FailedPrecondition, IOFailure, Unavailable

__all__ = ["Running", "UpLock", "running", "last_run"]

DESCRIBED_SECONDS = 2.0
"""Time between taking the lock and saying who did, at the most."""


class Running(msgspec.Struct, frozen=True):
    """What `muslin up` says about itself."""

    process: Process
    state: str
    node: str
    etcd: str
    """`host:port` of the embedded etcd."""
    temporary: bool = False
    """The state directory is to be removed with everything else, as a demo's is."""


class UpLock:
    """Both locks. They are released by `close`, or by the end of the process however it ends."""

    def __init__(self, places: Places) -> None:
        """Take the locks, making both directories with mode 0700.

        Raises FailedPrecondition if another `muslin up` holds one, or the run directory lets other users in.
        """
        self._files: list[int] = []
        for directory in (places.run, places.state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(places.run.stat().st_mode)
        if mode & 0o077:
            raise FailedPrecondition(f"{places.run} has mode {mode:04o} and lets other users reach the sockets: "
                                     f"chmod 0700 {places.run}, or name another with --run-dir")
        try:
            for path in (places.run_lock, places.state_lock):
                self._take(path)
            os.ftruncate(self._files[0], 0)  # what it says is of the last one
        except BaseException:
            self.close()
            raise
        self._places = places

    def _take(self, path: Path) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._files.append(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _describe(path)
            whose = f" (process {holder.process.pid}, state in {holder.state})" if holder else ""
            raise FailedPrecondition(f"muslin is up already on {path.parent}{whose}; "
                                     "stop it with: muslin down") from None

    def describe(self, node: str, etcd: str, *, temporary: bool = False) -> None:
        """Say who holds the locks, in the run directory's."""
        data = msgspec.json.encode(Running(this_process(), str(self._places.state), node, etcd, temporary))
        os.pwrite(self._files[0], data, 0)  # in place: after a rename the lock would be on a file without a name

    def close(self) -> None:
        """Release the locks. The files stay: removing one would let two processes lock two files of one name."""
        for handle in self._files:
            os.close(handle)
        self._files.clear()


def running(run: Path) -> Running | None:
    """The `muslin up` that runs on a run directory, None if none does.

    Raises IOFailure if the lock can not be looked at, Unavailable if its holder does not say who it is.
    """
    path = Places(run, run).run_lock
    deadline = time.monotonic() + DESCRIBED_SECONDS
    while _is_locked(path):
        if found := _describe(path):
            return found
        if time.monotonic() > deadline:
            raise Unavailable(f"a process holds {path} and does not say who it is; see `fuser {path}`")
        time.sleep(0.01)  # it has only just taken the lock
    return None


def _is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IOFailure(f"{path}: {error.strerror}; muslin needs root") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def last_run(run: Path) -> Running | None:
    """What the last `muslin up` on a run directory said about itself, whether it still runs or not."""
    return _describe(Places(run, run).run_lock)


def _describe(path: Path) -> Running | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Running)
    except (OSError, msgspec.DecodeError):
        return None  # it has only just begun, or it is the state directory's, which says nothing
