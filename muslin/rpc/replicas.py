"""Several servers of one service behind what looks like one channel.

gRPC's own balancing spreads calls over all addresses. Ours keeps a caller with one replica, as long as that serves:
two ipam replicas that assign for one node at once would only get in each other's way. Callers differ in which replica
they prefer, so that they spread. A replica is left when its connection is lost, a ping is not answered, or it says of
itself that it does not serve; calls and streams that come after that go to another. Streams that are open on one that
does not serve are ended (UNAVAILABLE) if another serves: it may have lost the way to its store, and tells nothing new.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2

from muslin.rpc import tls
from muslin.rpc.moving import MovingCall
from muslin.tasks import TaskSet
from muslin.tls import Certificates, Material

__all__ = ["Replica", "Replicas"]

log = logging.getLogger(__name__)

Dial = Callable[[str, grpc.ChannelCredentials], grpc.aio.Channel]

_SERVING, _UNREADY, _LOST = range(3)
_STATES = ("serving", "not ready", "lost")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect: doubled each time, with jitter."""
_CONNECT = 3.0
"""Seconds for one attempt."""
_LOOK = 5.0
"""Seconds between looks at the certificate's files."""
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_STREAMS = ("unary_stream", "stream_stream")


class _Line:
    """A channel with one set of certificates. Closed when its last call has ended, once it has been replaced."""

    def __init__(self, channel: grpc.aio.Channel, material: Material) -> None:
        self.channel, self.material = channel, material
        self._methods: dict[tuple[Any, ...], Any] = {}
        self._calls: set[Any] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def method(self, kind: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Callable[..., Any]:
        """A method of the channel, whose calls are counted."""
        key = (kind, *arguments, *named.values())
        method = self._methods.get(key)
        if method is None:
            method = self._methods[key] = getattr(self.channel, kind)(*arguments, **named)

        def ask(*arguments: Any, **named: Any) -> Any:
            call = method(*arguments, **named)
            self._calls.add(call)
            self._idle.clear()
            call.add_done_callback(self._done)
            return call
        return ask

    def _done(self, call: Any) -> None:
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()

    async def retire(self) -> None:
        await self._idle.wait()
        await self.channel.close()


class _Counted:
    """A line as a channel."""

    def __init__(self, line: _Line) -> None:
        self._line = line

    def __getattr__(self, name: str) -> Any:
        if name in _KINDS:
            return lambda *arguments, **named: self._line.method(name, arguments, named)
        return getattr(self._line.channel, name)


class Replica:
    """One server: the line to it, and what it says of itself."""

    def __init__(self, target: str, place: int, certificates: Certificates, dial: Dial) -> None:
        """`place` is its rank among those that are as good."""
        self.target, self._place, self._certificates, self._dial = target, place, certificates, dial
        self.state = _LOST
        self.line = self._new(certificates.load())
        self._streams: set[MovingCall] = set()

    def _new(self, material: Material) -> _Line:
        return _Line(self._dial(self.target, tls.channel_credentials(material)), material)

    @property
    def channel(self) -> grpc.aio.Channel:
        """The present line as a channel, which lives until the calls on it have ended."""
        return cast(grpc.aio.Channel, _Counted(self.line))

    @property
    def rank(self) -> tuple[int, int]:
        """The best is the least."""
        return self.state, self._place

    def stream(self, call: Any) -> MovingCall:
        """A call that is a stream, so that it can be moved."""
        moving = MovingCall(call)
        self._streams.add(moving)
        call.add_done_callback(lambda _: self._streams.discard(moving))
        return moving

    def leave(self) -> None:
        """End the streams that are open here."""
        if self._streams:
            log.info("replica %s: %d streams go to another", self.target, len(self._streams))
        for moving in tuple(self._streams):
            moving.move()

    @property
    def unready(self) -> bool:
        """Whether it is there, and says that it does not serve."""
        return self.state == _UNREADY

    @property
    def serves(self) -> bool:
        """Whether it says so, over a connection that stands."""
        return self.state == _SERVING

    def set(self, state: int, why: str, changed: asyncio.Event) -> None:
        """Note how it is."""
        if state != self.state:
            log.log(logging.INFO if state != _SERVING else logging.DEBUG, "replica %s: %s%s", self.target,
                    _STATES[state], f" ({why})" if why else "")
            self.state = state
            changed.set()

    async def follow(self, changed: asyncio.Event) -> None:
        """Keep the connection up, and know how it is, until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            line = self.line
            try:
                async with asyncio.timeout(_CONNECT):
                    await line.channel.channel_ready()
                async for answer in _health(line.channel):
                    good = answer.status == health_pb2.HealthCheckResponse.SERVING
                    self.set(_SERVING if good else _UNREADY, "", changed)
                    pause = _FIRST_PAUSE
                why = "it is going"
            except TimeoutError:
                why = "no connection"
            except grpc.aio.AioRpcError as problem:
                why = f"{problem.code().name}: {problem.details()}"
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling() or line is self.line:
                    raise
                why = ""  # the line was replaced, and has been closed
            if line is self.line:
                self.set(_LOST, why, changed)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter, not a secret
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def renew(self, tasks: TaskSet, changed: asyncio.Event) -> None:
        """Take a new line when the certificate's files change, once it is up; the old one ends with its calls."""
        tried = self.line.material
        while True:
            await asyncio.sleep(_LOOK)
            material = self._certificates.load()
            if material is self.line.material or (material is tried and self.state != _LOST):
                continue
            tried, fresh = material, self._new(material)
            try:
                async with asyncio.timeout(_CONNECT):
                    await fresh.channel.channel_ready()
            except TimeoutError:
                log.warning("replica %s takes no connection with the new certificate; that before stays in use",
                            self.target)
                await fresh.channel.close()
            else:
                old, self.line = self.line, fresh
                log.info("replica %s: new certificate in use", self.target)
                tasks.spawn(f"retire {self.target}", old.retire())
                changed.set()


class Replicas:
    """As a channel: each call, or stream, goes to the replica that is best when it begins."""

    def __init__(self, targets: Sequence[str], certificates: Certificates, dial: Dial, name: str = "") -> None:
        """`name` decides the order of preference, that of nobody else's if it is empty."""
        name = name or uuid.uuid4().hex
        order = sorted(targets, key=lambda target: hashlib.sha256(f"{name} {target}".encode()).digest())
        self.replicas = [Replica(target, place, certificates, dial) for place, target in enumerate(order)]
        self.replicated = self
        """For who holds something that delegates to this, and wants to choose by itself."""
        self._tasks = TaskSet()
        self._changed = asyncio.Event()
        self._tasks.spawn("leave replicas", self._leave())
        for replica in self.replicas:
            self._tasks.spawn(f"replica {replica.target}", replica.follow(self._changed))
            self._tasks.spawn(f"certificate for {replica.target}", replica.renew(self._tasks, self._changed))

    def pick(self, without: Iterable[Replica] = ()) -> Replica | None:
        """The best replica, or the best of the others; None if there is none left."""
        return min((r for r in self.replicas if r not in without), key=lambda replica: replica.rank, default=None)

    @property
    def _best(self) -> Replica:
        return min(self.replicas, key=lambda replica: replica.rank)

    def __getattr__(self, kind: str) -> Any:
        """The four makers of methods."""
        if kind not in _KINDS:
            raise AttributeError(kind)

        def make(*arguments: Any, **named: Any) -> Callable[..., Any]:
            def ask(*a: Any, **n: Any) -> Any:
                best = self._best
                call = best.line.method(kind, arguments, named)(*a, **n)
                return best.stream(call) if kind in _STREAMS else call
            return ask
        return make

    async def _leave(self) -> None:
        """Have no stream on a replica that does not serve while another does."""
        while True:
            if self._best.serves:
                for replica in self.replicas:
                    if replica.unready:
                        replica.leave()
            self._changed.clear()
            await self._changed.wait()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """That of the best; they connect by themselves."""
        return self._best.line.channel.get_state(try_to_connect)

    async def channel_ready(self) -> None:
        """Wait until one is connected."""
        while self._best.state == _LOST:
            self._changed.clear()
            await self._changed.wait()

    async def close(self, grace: float | None = None) -> None:
        """End all connections."""
        await self._tasks.aclose()
        await asyncio.gather(*(replica.line.channel.close(grace) for replica in self.replicas))


def _health(channel: grpc.aio.Channel) -> Any:
    """The stream of what a server says of itself. By name, because the published types of HealthStub lack methods."""
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest.SerializeToString,
                                 health_pb2.HealthCheckResponse.FromString)
    return watch(health_pb2.HealthCheckRequest(), timeout=None)  # without end, hence no deadline: pings watch over it
