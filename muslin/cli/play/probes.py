"""Real packets from pod to pod: many connections at once, each from its sender's network namespace.

A TCP flow passed when the connection stands; a UDP flow when its echo is back. Silence until the timeout is a lost
flow. An answer from somebody else, or a refusal (the packets arrived, and nobody listened), is neither.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from muslin import netns
from muslin.cli.play.flows import Flow, Observation, Packet
from muslin.cli.play.greeting import MOST, greeting
from muslin.errors import IOFailure

__all__ = ["Route", "probe"]

WINDOW = 1000
"""Flows in flight at once: what one core answers within a fraction of the timeout."""
UDP_SENDS = 3
"""Datagrams sent within the timeout before a UDP flow counts as lost."""

_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.ETIMEDOUT)


@dataclass(frozen=True, slots=True)
class Route:
    """A flow with what it takes to send it: the sender's namespace and the receiver's address."""

    flow: Flow
    netns: str
    address: str


@dataclass(slots=True)
class _Attempt:
    route: Route
    socket: socket.socket
    deadline: float
    payload: bytes
    connected: bool = False

    @property
    def stream(self) -> bool:
        return self.route.flow.port.protocol == "TCP"


def probe(routes: Sequence[Route], timeout: float, *, progress: Callable[[int], None] = lambda done: None,
          stopped: Callable[[], bool] = lambda: False) -> dict[Flow, Observation]:
    """Send all flows and say what became of each.

    `timeout`, in seconds, is for each flow; `progress` is told how many are done. Returns early, without the flows
    that were under way, once `stopped` says so. Raises NotFound for a namespace that is gone, IOFailure when this
    process may not open enough sockets.
    """
    return _Prober(timeout).run(routes, progress, stopped)


class _Prober:
    """One run: a selector, the attempts in flight, and a heap of when each wants attention next."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.selector = selectors.DefaultSelector()
        self.flying: dict[int, _Attempt] = {}  # by file descriptor
        self.alarms: list[tuple[float, int, int, _Attempt]] = []
        self.order = itertools.count()
        self.seen: dict[Flow, Observation] = {}

    def run(self, routes: Sequence[Route], progress: Callable[[int], None],
            stopped: Callable[[], bool]) -> dict[Flow, Observation]:
        waiting = [list(group) for _, group in itertools.groupby(sorted(routes, key=_sender), key=_sender)]
        try:
            while (waiting or self.flying) and not stopped():
                while waiting and len(self.flying) < WINDOW:
                    group = waiting[-1]
                    taken = group[:WINDOW - len(self.flying)]
                    del group[:len(taken)]
                    if not group:
                        waiting.pop()
                    self.launch(taken)
                self.turn()
                progress(len(self.seen))
        finally:
            for attempt in self.flying.values():
                attempt.socket.close()
            self.selector.close()
        return self.seen

    def launch(self, routes: Sequence[Route]) -> None:
        """Start flows of one sender: its sockets are made in its namespace, in one visit."""
        try:
            sockets = netns.run(routes[0].netns, lambda: [_socket(route.flow.port.protocol) for route in routes])
        except OSError as error:
            raise IOFailure(f"can not open a socket to probe with: {error.strerror}; raise `ulimit -n`") from error
        for route, made in zip(routes, sockets, strict=True):
            now = time.monotonic()
            payload = b"" if route.flow.port.protocol == "TCP" else os.urandom(8)
            attempt = _Attempt(route, made, now + self.timeout, payload)
            self.flying[made.fileno()] = attempt
            try:
                made.connect((route.address, route.flow.port.port))
            except BlockingIOError:
                pass
            except OSError as error:
                self.finish(attempt, _failed(error.errno))
                continue
            if attempt.stream:
                self.selector.register(made, selectors.EVENT_WRITE, attempt)
                self.alarm(attempt, attempt.deadline, 0)
            else:
                self.selector.register(made, selectors.EVENT_READ, attempt)
                self.alarm(attempt, now, UDP_SENDS)

    def alarm(self, attempt: _Attempt, when: float, sends: int) -> None:
        heapq.heappush(self.alarms, (when, next(self.order), sends, attempt))

    def turn(self) -> None:
        """Wait for the next event or alarm, and handle what is there."""
        due = self.alarms[0][0] - time.monotonic() if self.alarms else 0.0
        for key, _ in self.selector.select(max(0.0, min(due, 0.1))):
            self.event(key.data)
        now = time.monotonic()
        while self.alarms and self.alarms[0][0] <= now:
            _, _, sends, attempt = heapq.heappop(self.alarms)
            if self.flying.get(attempt.socket.fileno()) is not attempt:
                continue  # it is done; the alarm is stale
            if not sends:
                self.expire(attempt)
                continue
            try:
                attempt.socket.send(attempt.payload)
            except OSError as error:
                self.finish(attempt, _failed(error.errno))
                continue
            later = now + self.timeout / UDP_SENDS
            self.alarm(attempt, later if sends > 1 else attempt.deadline, sends - 1)

    def expire(self, attempt: _Attempt) -> None:
        if attempt.connected:  # packets went both ways, which is what was asked
            self.finish(attempt, Observation(Packet.PASSED, "connected, and no greeting came"))
        else:
            self.finish(attempt, Observation(Packet.LOST, "timed out"))

    def event(self, attempt: _Attempt) -> None:
        if attempt.stream and not attempt.connected:
            if number := attempt.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.finish(attempt, _failed(number))
                return
            attempt.connected = True
            self.selector.modify(attempt.socket, selectors.EVENT_READ, attempt)
            return
        try:
            answer = attempt.socket.recv(MOST)
        except BlockingIOError:
            return
        except OSError as error:
            self.finish(attempt, _failed(error.errno))
            return
        flow = attempt.route.flow
        if answer == greeting(flow.destination, flow.port) + attempt.payload:
            self.finish(attempt, Observation(Packet.PASSED))
        else:
            words = answer[:80].decode(errors="replace").strip()
            self.finish(attempt, Observation(Packet.BROKEN, f"answered by {words!r}"))

    def finish(self, attempt: _Attempt, observation: Observation) -> None:
        del self.flying[attempt.socket.fileno()]
        try:
            self.selector.unregister(attempt.socket)
        except KeyError:
            pass  # it failed before it was registered
        attempt.socket.close()
        self.seen[attempt.route.flow] = observation


def _sender(route: Route) -> str:
    return route.netns


def _socket(protocol: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


def _failed(number: int | None) -> Observation:
    reason = os.strerror(number) if number else "unknown"
    if number in _UNREACHABLE:
        return Observation(Packet.LOST, reason.lower())
    return Observation(Packet.BROKEN, reason.lower())

