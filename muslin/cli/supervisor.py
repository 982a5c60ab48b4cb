"""Child processes that are kept running: started, watched, started again, stopped in order."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from muslin.cli import tether
from muslin.errors import IOFailure
from muslin.tasks import TaskSet

__all__ = ["Program", "Supervisor", "delay_before", "tail"]

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
"""Seconds between the end of a program and its next start: the first, and the most."""
SETTLED = 10.0
"""A program that ran this many seconds begins again with the first delay."""
LOG_LIMIT = 16 << 20
"""Bytes of a log file beyond which the next start of its program puts it aside."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `command[0]` is an absolute path; output goes to the log file."""

    name: str
    command: tuple[str, ...]
    log: Path


def delay_before(restart: int, chance: float) -> float:
    """Seconds to wait before the n-th restart in a row (from 1), doubling up to LONGEST_DELAY.

    `chance`, from 0 to 1, spreads it over the upper half, so that programs that died together do not return together.
    """
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(restart - 1, 16)) * (0.5 + chance / 2)


def tail(path: Path, lines: int = 5) -> str:
    """The last lines of a log, for an error message."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


class Supervisor:
    """Programs of one process group that die with this process and are started again when they die before it."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """`report` is told, in a line each, what happens."""
        self._report = report
        self._tasks = TaskSet()
        self._running: dict[str, Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._group = 0
        self.failures: dict[str, int] = {}
        """How often in a row each program ended by itself."""

    @property
    def failed(self) -> asyncio.Future[BaseException]:
        """Resolves when a program can not be kept running: it can no longer be executed."""
        return self._tasks.failed

    def pid(self, name: str) -> int | None:
        """The process id of a program that runs."""
        process = self._running.get(name)
        return process.pid if process and process.returncode is None else None

    async def start(self, program: Program) -> None:
        """Start a program and keep it running. Raises IOFailure if it can not be executed at all."""
        process = await self._spawn(program)
        self._keepers[program.name] = self._tasks.spawn(f"keep {program.name}", self._keep(program, process))

    async def stop(self, names: Sequence[str], patience: float) -> None:
        """Terminate programs, kill those that are there after `patience` seconds, and wait for all."""
        keepers = [self._keepers.pop(name) for name in names if name in self._keepers]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        processes = [self._running.pop(name) for name in names if name in self._running]
        for process in processes:
            _signal(process, signal.SIGTERM)
        waits = [asyncio.ensure_future(process.wait()) for process in processes]
        if waits:
            await asyncio.wait(waits, timeout=patience)
        for process in processes:
            if process.returncode is None:
                self._report(f"process {process.pid} did not stop within {patience:.0f} s and is killed")
                _signal(process, signal.SIGKILL)
        await asyncio.gather(*waits)

    async def _spawn(self, program: Program) -> Process:
        program.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if program.log.exists() and program.log.stat().st_size > LOG_LIMIT:
            program.log.replace(program.log.with_suffix(".log.1"))
        command = (sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *program.command)
        with program.log.open("ab") as log:
            try:
                process = await self._in_group(command, log.fileno())
            except OSError as error:
                raise IOFailure(f"can not start {program.name}: {error}") from error
        self._running[program.name] = process
        return process

    async def _in_group(self, command: tuple[str, ...], log: int) -> Process:
        """Start in the group of the others: a group of their own, so that Ctrl-C reaches this process only."""
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=log, stderr=log, cwd="/",
                                                           process_group=self._group)
        except PermissionError:  # the last member of the group is gone, and the group with it
            process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=log, stderr=log, cwd="/",
                                                           process_group=0)
            self._group = process.pid
        self._group = self._group or process.pid
        return process

    async def _keep(self, program: Program, process: Process) -> None:
        while True:
            began = time.monotonic()
            code = await process.wait()
            if time.monotonic() - began > SETTLED:
                self.failures[program.name] = 0
            count = self.failures[program.name] = self.failures.get(program.name, 0) + 1
            delay = delay_before(count, random.random())  # noqa: S311 - jitter, not a secret
            self._report(f"{program.name} ended {_how(code)}; starts again in {delay:.1f} s (log: {program.log})")
            await asyncio.sleep(delay)
            process = await self._spawn(program)
            self._report(f"{program.name} is started again, process {process.pid}")


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        pass  # it ended by itself


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
