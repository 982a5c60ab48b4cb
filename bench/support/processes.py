"""Running a short program as a container runtime does, and its cost by the kernel's accounting."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Cost", "Failed", "Program", "finish", "peak", "resident", "run", "start", "tree_cpu"]

_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A program did not end with status 0; the message has what it printed."""


@dataclass(frozen=True)
class Program:
    """What is executed: arguments with the path first, the whole environment, and standard input (at most 64 KB)."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    stdin: bytes


@dataclass(frozen=True)
class Cost:
    """Seconds from exec to exit, seconds of CPU of the process and the children it waited for, and what it printed."""

    wall: float
    cpu: float
    said: str = ""


@dataclass
class Started:
    """A running program."""

    program: Program
    pid: int
    output: int
    """Descriptor that its stdout and stderr are read from."""
    began: float = field(default_factory=time.perf_counter)


def start(program: Program) -> Started:
    """Execute a program, its standard input filled and closed. Output beyond what a pipe holds (64 KB) blocks it."""
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    os.write(write_in, program.stdin)
    os.close(write_in)
    try:
        began = time.perf_counter()
        pid = os.posix_spawn(
            program.arguments[0], list(program.arguments), dict(program.environment),
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs)
                          for ours, theirs in ((read_in, 0), (write_out, 1), (write_out, 2))])
    finally:
        os.close(read_in)
        os.close(write_out)
    return Started(program, pid, read_out, began)


def finish(started: Started) -> Cost:
    """Wait for a program.

    Raises:
        Failed: it did not succeed.
    """
    _, status, usage = os.wait4(started.pid, 0)
    wall = time.perf_counter() - started.began
    with os.fdopen(started.output, "rb") as pipe:
        said = pipe.read().decode(errors="replace").strip()
    if status:
        command = started.program.environment.get("CNI_COMMAND", "")
        raise Failed(f"{started.program.arguments[0]} {command}: exit {os.waitstatus_to_exitcode(status)}: {said}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, said)


def run(program: Program) -> Cost:
    """Execute a program and wait for it.

    Raises:
        Failed: it did not succeed.
    """
    return finish(start(program))


def peak(pid: int) -> float:
    """The most memory that a process has had at any time, in MB (VmHWM of proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def resident(root: int, named: str) -> float:
    """MB that the one process below a process has in memory whose command line holds a name."""
    for children in Path(f"/proc/{root}/task").glob("*/children"):
        for pid in children.read_text(encoding="utf-8").split():
            if named.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
                return int(status.partition("VmRSS:")[2].split()[0]) / 1024
    raise Failed(f"no process of {named} below {root}")


def tree_cpu(root: int) -> float:
    """Seconds of CPU that a process and all below it have used so far, in steps of a clock tick (10 ms)."""
    ticks, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime, fields 14 and 15 of proc(5)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, children.read_text(encoding="utf-8").split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return ticks * _TICK
