"""Processes of ours that outlive the command that started them: which they are, and how they are ended."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import msgspec

__all__ = ["Process", "of_pid", "this_process"]


class Process(msgspec.Struct, frozen=True):
    """A process by its id and start time (clock ticks since boot), which together are never used again."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return _started(self.pid) == self.started

    def end(self, patience: float) -> bool:
        """Terminate it, kill it after `patience` seconds, and wait until it is gone.

        True if it was alive. A child of the caller's stays a zombie for the caller to collect.
        """
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive:  # checked after the handle is open: from here on it can be no other process
                return False
            for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
                try:
                    signal.pidfd_send_signal(handle, number)
                except ProcessLookupError:
                    return True
                waiting = select.poll()
                waiting.register(handle, select.POLLIN)
                if waiting.poll(seconds * 1000):
                    return True
        finally:
            os.close(handle)
        return True


def of_pid(pid: int) -> Process | None:
    """The process that has the id now."""
    started = _started(pid)
    return None if started is None else Process(pid, started)


def this_process() -> Process:
    """The caller."""
    found = of_pid(os.getpid())
    assert found is not None
    return found


def _started(pid: int) -> int | None:
    """Field 22 of proc(5)'s stat, which follows the command's name in brackets; None for what is gone or a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])
