"""A play's hands on a node: makes pods there, listens for them and probes from them, as it is told over its stdin.

`muslin play --node` runs it by the command that reaches the node (`docker exec -i ...`, `ip netns exec ...`). It reads
requests, a line of JSON each, and answers them in any order, each with its number. When its stdin ends, for whatever
reason, it takes off all that it has put on.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from muslin import netns
from muslin.cli.play import cni, listeners, sandbox
from muslin.cli.play.cni import Network, Sandbox
from muslin.cli.play.flows import Flow, Observation, PlayedPort
from muslin.cli.play.probes import Route, probe
from muslin.errors import FailedPrecondition, IOFailure, MuslinError

__all__ = ["Answer", "Begin", "Listen", "Probe", "Put", "Request", "Take", "LINE_BYTES", "SOCKET"]

LINE_BYTES = 64 << 20
"""Longest request or answer."""

SOCKET = "MUSLIN_NODE_SOCKET"
"""Environment variable: where the node daemon's socket is, if the configuration does not say and it is elsewhere."""

LISTENERS_SECONDS = 30.0


class Begin(msgspec.Struct, tag="begin"):
    """First of all: the CNI configuration, where it is from, and where plugins are on this node."""

    conf: bytes
    origin: str
    bin_dirs: list[str]


class Put(msgspec.Struct, tag="put"):
    """Make a pod's namespace and attach it; the answer is what ADD printed."""

    sandbox: Sandbox
    name: str
    """Of the network namespace."""


class Take(msgspec.Struct, tag="take"):
    """Detach a pod and remove its namespace."""

    name: str


class Listen(msgspec.Struct, tag="listen"):
    """Listen for these pods: key, name of the namespace, protocols and ports."""

    pods: list[tuple[str, str, list[tuple[str, int]]]]


class Probe(msgspec.Struct, tag="probe"):
    """Send flows from pods that are here; the answer says what became of each, in this order."""

    routes: list[Route]
    timeout: float


Job = Begin | Put | Take | Listen | Probe


class Request(msgspec.Struct):
    """A line of stdin."""

    number: int
    job: Job


class Answer(msgspec.Struct):
    """A line of stdout. `kind` is the name of an error of muslin.errors; empty if there was none."""

    number: int
    output: bytes = b""
    seen: list[Observation] = []
    kind: str = ""
    message: str = ""


class Agent:
    """What this process has put on."""

    def __init__(self) -> None:
        self._network: Network | None = None
        self._bin_dirs: list[str] = []
        self._pods: dict[str, tuple[Sandbox, bytes]] = {}
        self._listeners: Process | None = None

    async def answer(self, request: Request) -> Answer:
        """Do what is asked."""
        try:
            match request.job:
                case Begin() as job:
                    self._begin(job)
                case Put() as job:
                    return Answer(request.number, output=await self._put(job))
                case Take(name):
                    await self._take(name)
                case Listen(pods):
                    await self._listen(pods)
                case Probe(routes, timeout):
                    seen: Mapping[Flow, Observation] = await asyncio.to_thread(probe, routes, timeout)
                    return Answer(request.number, seen=[seen[route.flow] for route in routes])
        except MuslinError as error:
            return Answer(request.number, kind=type(error).__name__, message=error.message)
        return Answer(request.number)

    def _begin(self, job: Begin) -> None:
        self._bin_dirs = job.bin_dirs
        self._network = cni.parse(job.conf, job.origin, os.environ.get(SOCKET, ""))
        for plugin in self._network.plugins:
            cni.find(plugin.type, self._bin_dirs)

    async def _put(self, job: Put) -> bytes:
        if self._network is None:
            raise FailedPrecondition("the agent was not told what to play")
        sandbox.create(job.name)
        box = msgspec.structs.replace(job.sandbox, netns=str(netns.path_of(job.name)))
        self._pods[job.name] = box, b""
        result = await cni.add(self._network, box, self._bin_dirs)
        self._pods[job.name] = box, result
        return result

    async def _take(self, name: str) -> None:
        box, result = self._pods.pop(name)
        try:
            if self._network is not None:
                await cni.delete(self._network, box, self._bin_dirs, result)
        finally:
            netns.delete(name)

    async def _listen(self, pods: list[tuple[str, str, list[tuple[str, int]]]]) -> None:
        process = self._listeners = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", listeners.__name__, stdin=PIPE, stdout=PIPE, cwd="/", process_group=0)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(listeners.request(
            (key, str(netns.path_of(name)), [PlayedPort(*port) for port in ports]) for key, name, ports in pods))
        try:
            async with asyncio.timeout(LISTENERS_SECONDS):
                answer = (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            answer = f"no answer in {LISTENERS_SECONDS:.0f} s"
        if answer != "ready":
            raise IOFailure(f"listeners of the pods: {answer or 'ended at once'}")

    async def clear(self) -> None:
        """Take off what is on still."""
        if self._listeners is not None and self._listeners.stdin is not None:
            self._listeners.stdin.close()
            await self._listeners.wait()
        for name in list(self._pods):
            try:
                await self._take(name)
            except MuslinError as error:
                print(f"{name}: {error.message}", file=sys.stderr)


async def serve() -> None:
    """Answer until stdin ends."""
    listeners.raise_file_limit()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    agent, decoder, encoder = Agent(), msgspec.json.Decoder(Request), msgspec.json.Encoder()
    jobs: set[asyncio.Task[None]] = set()

    async def one(handle: Callable[[Request], Awaitable[Answer]], request: Request) -> None:
        line = encoder.encode(await handle(request)) + b"\n"
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            return  # nobody reads: stdin ends, too

    try:
        while line := await reader.readline():
            task = asyncio.create_task(one(agent.answer, decoder.decode(line)), name="job")
            jobs.add(task)
            task.add_done_callback(jobs.discard)
    finally:
        if jobs:
            await asyncio.wait(jobs, timeout=cni.PATIENCE)
        await agent.clear()


if __name__ == "__main__":
    asyncio.run(serve())
