"""A node of the stack, as the tests command it: the agent in its container, over pipes."""

from __future__ import annotations

import asyncio
import itertools
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ["Failed", "Machine", "machine"]

AGENT = Path(__file__).with_name("agent.py")
_LOAD = "import sys; exec(sys.stdin.read(int(sys.stdin.readline())))"
_LINE = 16 << 20  # bytes: a report of many flows is one line


class Failed(Exception):
    """What was asked for could not be done; the message is the agent's."""


class Machine:
    """Requests to one agent, any number at once."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def ask(self, do: str, **arguments: Any) -> Any:
        """What the agent answers. Raises Failed."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        await self._process.stdin.drain()
        answer = await waiting
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer["result"]

    async def listen(self) -> None:
        """Take answers until the agent ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            self._waiting.pop(answer["id"]).set_result(answer)
        for waiting in self._waiting.values():
            waiting.set_result({"error": "the agent has ended"})


@asynccontextmanager
async def machine(name: str, container: str) -> AsyncIterator[Machine]:
    """The agent of a node, running for the time of the block."""
    source = AGENT.read_text()
    process = await asyncio.create_subprocess_exec(
        "docker", "exec", "--interactive", container, "python", "-u", "-c", _LOAD, stdin=PIPE, stdout=PIPE,
        limit=_LINE)
    assert process.stdin is not None
    process.stdin.write(f"{len(source)}\n{source}".encode())
    running = Machine(name, process)
    listening = asyncio.create_task(running.listen())
    try:
        yield running
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 30)
        await listening
