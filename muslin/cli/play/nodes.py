"""Nodes that pods are played on: an agent on each, reached by a command."""

from __future__ import annotations

import asyncio
import itertools
import shlex
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from muslin import errors
from muslin.cli.play.agent import LINE_BYTES, Answer, Begin, Job, Listen, Probe, Put, Request, Take
from muslin.cli.play.flows import Flow, Observation
from muslin.cli.play.probes import Route
from muslin.cli.play.record import PlayedPod
from muslin.errors import InvalidArgument, IOFailure, MuslinError, TimedOut
from muslin.kube.objects import Pod

__all__ = ["AGENT", "Nodes", "commands", "reached", "spread"]

AGENT = "python3 -m muslin.cli.play.agent"
"""What runs an agent on a node, if nobody says otherwise."""

PATIENCE = 150.0
"""Seconds for one request: more than a plugin gets."""

WORDS = 2000
"""Bytes of what an agent has said to its stderr that an error shows."""


def commands(given: Sequence[str]) -> dict[str, list[str]]:
    """Nodes and the commands that reach them, of `NAME=COMMAND` each. Raises InvalidArgument."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, command = text.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"--node {text!r}: write NAME=COMMAND, such as 'node1=docker exec -i node1'")
        if name in found:
            raise InvalidArgument(f"--node {name} is there twice")
        try:
            found[name] = shlex.split(command)
        except ValueError as problem:
            raise InvalidArgument(f"--node {text!r}: {problem}") from None
    return found


def spread(pods: Sequence[Pod], nodes: Sequence[str]) -> list[str]:
    """The node of each pod: what its spec.nodeName says, the others in turn; empty for all if there are no nodes.

    Raises:
        InvalidArgument: a pod names another node.
    """
    if not nodes:
        return [""] * len(pods)
    turns = itertools.cycle(nodes)
    found = []
    for pod in pods:
        if pod.node_name and pod.node_name not in nodes:
            raise InvalidArgument(f"{pod.origin.place}: spec.nodeName {pod.node_name!r} is none of the nodes "
                                  f"{', '.join(nodes)}; name it with --node, or leave it out")
        found.append(pod.node_name or next(turns))
    return found


class _Agent:
    """One agent."""

    def __init__(self, node: str, process: Process) -> None:
        self._node, self._process = node, process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._said = b""
        self._tasks = [asyncio.create_task(self._read(), name=f"agent of {node}"),
                       asyncio.create_task(self._hear(), name=f"words of {node}")]

    async def ask(self, job: Job) -> Answer:
        """Have something done. Raises what the agent raised, IOFailure if it is gone, TimedOut."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        try:
            if self._tasks[0].done():
                self._fail()
            else:
                self._process.stdin.write(msgspec.json.encode(Request(number, job)) + b"\n")
                await self._process.stdin.drain()
            async with asyncio.timeout(PATIENCE):
                answer = await waiting
        except (BrokenPipeError, ConnectionResetError) as error:
            raise IOFailure(f"node {self._node}: its agent is gone: {self._words()}") from error
        except TimeoutError:
            raise TimedOut(f"node {self._node}: no answer of its agent in {PATIENCE:.0f} s") from None
        finally:
            self._waiting.pop(number, None)
        if answer.kind:
            kind = getattr(errors, answer.kind, IOFailure)
            raise (kind if issubclass(kind, MuslinError) else IOFailure)(f"node {self._node}: {answer.message}")
        assert isinstance(answer, Answer)
        return answer

    async def _read(self) -> None:
        assert self._process.stdout is not None
        decoder = msgspec.json.Decoder(Answer)
        try:
            while line := await self._process.stdout.readline():
                answer = decoder.decode(line)
                if (waiting := self._waiting.get(answer.number)) is not None and not waiting.done():
                    waiting.set_result(answer)
        except (msgspec.DecodeError, ValueError) as error:
            self._said += f"what it says is no answer: {error}".encode()
        await asyncio.wait([self._tasks[1]], timeout=1.0)  # it may say why
        self._fail()

    def _fail(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(IOFailure(f"node {self._node}: its agent has ended: {self._words()}"))

    async def _hear(self) -> None:
        assert self._process.stderr is not None
        while words := await self._process.stderr.read(4096):
            self._said = (self._said + words)[-WORDS:]

    def _words(self) -> str:
        return self._said.decode(errors="replace").strip() or "it said nothing"

    async def close(self) -> None:
        """Let it take off what it has put on, and wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), PATIENCE)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Nodes:
    """The nodes of a play."""

    def __init__(self, agents: Mapping[str, _Agent]) -> None:
        self._agents = agents

    async def begin(self, conf: bytes, origin: str, bin_dirs: Sequence[str]) -> None:
        """Tell all what is played. Raises what it is that one can not."""
        await asyncio.gather(*(agent.ask(Begin(conf, origin, list(bin_dirs))) for agent in self._agents.values()))

    async def put(self, pod: PlayedPod) -> bytes:
        """Put a pod on its node; what ADD printed."""
        return (await self._agents[pod.node].ask(Put(pod.sandbox, pod.netns_name))).output

    async def take(self, pod: PlayedPod) -> None:
        """Take a pod off its node."""
        await self._agents[pod.node].ask(Take(pod.netns_name))

    async def listen(self, pods: Sequence[PlayedPod]) -> None:
        """Listen for pods, each on its node."""
        await asyncio.gather(*(agent.ask(Listen([(pod.key, pod.netns_name, pod.ports) for pod in pods
                                                 if pod.node == node])) for node, agent in self._agents.items()))

    async def probe(self, pods: Mapping[str, PlayedPod], flows: Sequence[Flow],
                    timeout: float) -> dict[Flow, Observation]:
        """Send flows, each from its sender's node; `pods` by their keys."""
        async def one(node: str, agent: _Agent) -> dict[Flow, Observation]:
            routes = [Route(flow, pods[flow.source].sandbox.netns, pods[flow.destination].address) for flow in flows
                      if pods[flow.source].node == node]
            if not routes:
                return {}
            seen = (await agent.ask(Probe(routes, timeout))).seen
            return dict(zip((route.flow for route in routes), seen, strict=True))

        found = await asyncio.gather(*(one(node, agent) for node, agent in self._agents.items()))
        return {flow: observation for part in found for flow, observation in part.items()}


@asynccontextmanager
async def reached(given: Mapping[str, Sequence[str]], agent: str = AGENT) -> AsyncIterator[Nodes]:
    """Agents on nodes, by the commands that reach those. Raises IOFailure if one can not be run."""
    agents: dict[str, _Agent] = {}
    try:
        for node, command in given.items():
            line = [*command, *shlex.split(agent)]
            try:
                # A group of its own: Ctrl-C is for us, and an agent ends when its stdin does.
                process = await asyncio.create_subprocess_exec(*line, stdin=PIPE, stdout=PIPE, stderr=subprocess.PIPE,
                                                               process_group=0, limit=LINE_BYTES)
            except OSError as error:
                raise IOFailure(f"node {node}: {line[0]}: {error.strerror}") from error
            agents[node] = _Agent(node, process)
        yield Nodes(agents)
    finally:
        await asyncio.gather(*(each.close() for each in agents.values()))
