"""What `muslin node ...` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc

from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.cli.client import target_of
from muslin.cli.console import Console
from muslin.cli.ipam.output import plain, plains, structured
from muslin.cli.ipam.table import Look
from muslin.cli.node import views
from muslin.cli.node.views import Seen
from muslin.errors import MuslinError, NotFound, Unavailable
from muslin.rpc import channel, translated

__all__ = ["drain", "show_list", "show_one"]

TIMEOUT = 15.0
"""Seconds for one request."""
PAUSE = 1.0
"""Seconds between two looks at what is left."""
NOT_YET = 3
"""Exit code if something is left when the time is over."""


class _Services:
    """Those that there are. Asking another raises why there is none: where one of them runs others need not."""

    def __init__(self, channels: dict[str, grpc.aio.Channel | Unavailable]) -> None:
        self._channels = channels

    def _channel(self, name: str) -> grpc.aio.Channel:
        found = self._channels[name]
        if isinstance(found, Unavailable):
            raise Unavailable(f"{name}: {found.message}")
        return found

    @property
    def ipam(self) -> ipam_pb2_grpc.IpamAsyncStub:
        """The address manager."""
        return ipam_pb2_grpc.IpamStub(self._channel("ipam"))

    async def hosts(self) -> dict[str, endpoint_pb2.Host]:
        """Nodes that have announced themselves, by name."""
        found: dict[str, endpoint_pb2.Host] = {}
        with translated("endpoint: watch hosts"):
            endpoints: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(
                self._channel("endpoint"))
            stream = endpoints.WatchHosts(endpoint_pb2.WatchHostsRequest(), timeout=TIMEOUT)
            async for message in stream:
                found |= {host.node: host for host in message.hosts}
                if message.snapshot_complete:
                    break
            stream.cancel()
        return found

    async def uses(self, node: str = "") -> dict[str, ipam_pb2.NodeUse]:
        """What nodes have of the pools, by name."""
        with translated("ipam: list nodes"):
            answer = await self.ipam.ListNodes(ipam_pb2.ListNodesRequest(node=node), timeout=TIMEOUT)
        return {each.node: each for each in answer.nodes}

    async def policies(self) -> dict[str, policy_pb2.NodeStatus]:
        """How far nodes lag, by name."""
        with translated("policy: status"):
            policies: policy_pb2_grpc.PoliciesAsyncStub = policy_pb2_grpc.PoliciesStub(self._channel("policy"))
            answer = await policies.GetStatus(policy_pb2.GetStatusRequest(), timeout=TIMEOUT)
        return {each.node: each for each in answer.nodes}

    async def seen(self, console: Console) -> list[Seen]:
        """All nodes, with what could be learned; of what could not be the user is warned."""
        found = await asyncio.gather(self.hosts(), self.uses(), self.policies(), return_exceptions=True)
        for problem in found:
            if isinstance(problem, MuslinError):
                console.warn(problem.message)
            elif isinstance(problem, BaseException):
                raise problem
        hosts_, uses, policies = ({} if isinstance(each, BaseException) else each for each in found)
        return [Seen(name, hosts_.get(name), uses.get(name), policies.get(name))  # type: ignore[arg-type]  # of three
                for name in sorted({*hosts_, *uses, *policies})]


@asynccontextmanager
async def _connected(run: Path) -> AsyncIterator[_Services]:
    """The services. Raises Unavailable if there are none at all."""
    channels: dict[str, grpc.aio.Channel | Unavailable] = {}
    async with AsyncExitStack() as stack:
        for name in ("ipam", "endpoint", "policy"):
            try:
                channels[name] = await stack.enter_async_context(channel(target_of(name, run)))
            except Unavailable as problem:
                channels[name] = problem
        if all(isinstance(each, Unavailable) for each in channels.values()):
            raise next(each for each in channels.values() if isinstance(each, Unavailable))
        yield _Services(channels)


async def show_list(run: Path, form: str) -> None:
    """All nodes, a line for each."""
    console = Console()
    async with _connected(run) as services:
        seen = await services.seen(console)
    console.result(views.listed(seen, Look.of_stdout()) if form == "table"
                   else structured({"nodes": [each.plain() for each in seen]}, form))


async def show_one(run: Path, form: str, name: str) -> None:
    """One node, and its blocks. Raises NotFound if nobody knows of it."""
    console = Console()
    async with _connected(run) as services:
        seen = next((each for each in await services.seen(console) if each.name == name), None)
        if seen is None:
            raise NotFound(f"node {name} has not announced itself, has no address and no policy; muslin node list "
                           "shows those that have")
        with translated("ipam: list blocks"):
            answer = await services.ipam.ListBlocks(ipam_pb2.ListBlocksRequest(node=name), timeout=TIMEOUT)
    console.result(views.shown(seen, list(answer.blocks)) if form == "table"
                   else structured({**seen.plain(), "blocks": plains(answer.blocks)}, form))


async def drain(run: Path, form: str, name: str, *, wait: bool, timeout: float | None, undo: bool) -> int:
    """Have a node get nothing new, or have it get something again; the exit code."""
    console = Console(quiet=form != "table")
    released: list[str] = []

    async def ask(services: _Services) -> ipam_pb2.DrainNodeResponse:
        with translated("ipam: drain node"):
            answer = await services.ipam.DrainNode(ipam_pb2.DrainNodeRequest(node=name, undo=undo), timeout=TIMEOUT)
        released.extend(answer.released)
        return answer

    async with _connected(run) as services:
        answer = await ask(services)
        said = ""
        try:
            async with asyncio.timeout(timeout):
                while wait and (answer.left.blocks or answer.left.addresses):
                    if (now := views.left(answer.left)) != said:
                        console.say(f"{name}: {now}")
                        said = now
                    await asyncio.sleep(PAUSE)
                    answer = await ask(services)
        except TimeoutError:
            pass  # the result says what is left
    whole = ipam_pb2.DrainNodeResponse(left=answer.left, released=released)
    console.result(views.drained(whole) if form == "table" else structured(plain(whole), form))
    return NOT_YET if wait and (answer.left.blocks or answer.left.addresses) else 0
