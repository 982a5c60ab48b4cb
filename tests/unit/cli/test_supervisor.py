"""Programs are started again with growing delays, stopped in order, and never outlive their supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.cli import process
from muslin.cli.supervisor import FIRST_DELAY, LONGEST_DELAY, Program, Supervisor, delay_before, tail

SLEEP = ("/bin/sleep", "1000")
SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from muslin.cli.supervisor import Program, Supervisor
async def main():
    supervisor = Supervisor(print)
    await supervisor.start(Program("one", ("/bin/sleep", "1000"), Path(sys.argv[1])))
    print(supervisor.pid("one"), flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_delays_grow_to_a_bound(restart: int, chance: float) -> None:
    assert FIRST_DELAY / 2 <= delay_before(restart, chance) <= LONGEST_DELAY
    assert delay_before(restart, chance) <= delay_before(restart + 1, chance)


async def until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


async def test_a_program_that_dies_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    await supervisor.start(Program("one", SLEEP, tmp_path / "logs/one.log"))
    first = supervisor.pid("one")
    assert first
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.pid("one") not in (None, first))
    assert said[0].startswith("one ended by SIGKILL; starts again in 0.")
    assert said[1] == f"one is started again, process {supervisor.pid('one')}"
    await supervisor.stop(["one"], 5.0)
    assert supervisor.pid("one") is None


async def test_a_program_that_never_stays_is_counted(tmp_path: Path) -> None:
    supervisor = Supervisor(lambda line: None)
    log = tmp_path / "one.log"
    await supervisor.start(Program("one", ("/bin/sh", "-c", "echo no; exit 3"), log))
    await until(lambda: supervisor.failures.get("one", 0) >= 3)
    await supervisor.stop(["one"], 5.0)
    assert "no" in tail(log)


async def test_all_are_in_one_group_that_is_not_ours(tmp_path: Path) -> None:
    """Ctrl-C goes to a terminal's whole foreground group: services must not get it, or they stop before their order."""
    supervisor = Supervisor(lambda line: None)
    for name in ("one", "two"):
        await supervisor.start(Program(name, SLEEP, tmp_path / f"{name}.log"))
    groups = {os.getpgid(supervisor.pid(name) or 0) for name in ("one", "two")}
    assert len(groups) == 1
    assert os.getpgrp() not in groups
    await supervisor.stop(["one", "two"], 5.0)


async def test_what_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    log = tmp_path / "one.log"
    await supervisor.start(Program("one", ("/bin/sh", "-c", "trap '' TERM; echo ready; sleep 1000 & wait; wait"), log))
    await until(lambda: "ready" in tail(log))
    began = time.monotonic()
    await supervisor.stop(["one"], 0.2)
    assert time.monotonic() - began < 5
    assert "did not stop within" in said[-1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_program_outlives_its_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path / "log")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = process.of_pid(int(parent.stdout.readline()))
        assert child is not None
        parent.send_signal(number)
        parent.wait()
    deadline = time.monotonic() + 10
    while child.alive:
        assert time.monotonic() < deadline, "the child outlived its supervisor"
        time.sleep(0.01)


def test_a_process_is_known_by_its_start_too() -> None:
    """A process id that was given to another process is not ended."""
    with subprocess.Popen(SLEEP) as child:
        mine = process.of_pid(child.pid)
        assert mine is not None
        other = process.Process(mine.pid, mine.started + 1)
        assert not other.alive
        assert other.end(1.0) is False
        assert mine.alive
        assert mine.end(5.0) is True
    assert not mine.alive
    assert mine.end(1.0) is False
