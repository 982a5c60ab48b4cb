"""A pod that sends from its first microsecond: nothing passes before its policy is in, or against it."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from muslin import netns
from muslin.api.policy.v1 import policy_pb2
from tests.integration.node.daemon import Daemon, Programs, allow_all, call, endpoint, policy_service, spawn
from tests.support.netns import namespace

pytestmark = pytest.mark.root

TARGET, EAGER = ("10.4.0.1", "fd00:4::1"), ("10.4.0.2", "fd00:4::2")
PORT = 9000
NAMES = {"target": "mustarget", "eager": "museager"}


class Stream:
    """Datagrams of both families, as fast as they go, from a namespace whose interface may be still to come."""

    def __init__(self, source: Path) -> None:
        self.sent = dict.fromkeys(TARGET, 0)
        """Datagrams that the kernel took, by target."""
        self._sockets = {TARGET[0]: netns.open_socket(source, socket.AF_INET, socket.SOCK_DGRAM),
                         TARGET[1]: netns.open_socket(source, socket.AF_INET6, socket.SOCK_DGRAM)}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        for turn in itertools.count():
            if self._over.is_set():
                return
            for address, each in self._sockets.items():
                try:
                    each.sendto(turn.to_bytes(8, "big"), (address, PORT))
                    self.sent[address] += 1
                except OSError:
                    continue  # there is no way there yet

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        for each in self._sockets.values():
            each.close()


@contextmanager
def receiver(target: Path) -> Iterator[socket.socket]:
    with netns.open_socket(target, socket.AF_INET6, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        listening.bind(("::", PORT))
        listening.setblocking(False)
        yield listening


def received(listening: socket.socket) -> set[str]:
    """Senders of what has arrived, by their addresses."""
    senders = set()
    while True:
        try:
            senders.add(listening.recvfrom(64)[1][0].removeprefix("::ffff:"))
        except BlockingIOError:
            return senders


def policy(*, egress: bool) -> policy_pb2.SubscribeResponse:
    """The program of the eager pod, with a policy for its egress that allows all or nothing."""
    rules = [policy_pb2.Rule(action=policy_pb2.ACTION_ALLOW)] if egress else []
    made = endpoint("eager", EAGER[0], NAMES["eager"], ipv6=EAGER[1])
    made.egress.append(policy_pb2.TierPolicies(policies=["t/egress"]))
    return policy_pb2.SubscribeResponse(revision=2, policies=[policy_pb2.Policy(id="t/egress", egress=rules)],
                                        endpoints=[made])


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something of another thread."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  a thread that is busy sending sets no event
            await asyncio.sleep(0.01)


async def played(host: Path, daemon: Daemon, programs: Programs, *, egress: bool) -> tuple[set[str], set[str]]:
    """Who was heard before the pod's program came, and after ADD returned."""
    with namespace("target") as target, namespace("eager") as eager:
        await daemon.add(call("target", target, TARGET[0], NAMES["target"], ipv6=TARGET[1]))
        with receiver(target) as listening:
            stream = Stream(eager)
            try:
                adding = asyncio.create_task(daemon.add(call("eager", eager, EAGER[0], NAMES["eager"], ipv6=EAGER[1])))
                # The interface is there, wired and sent from; its program is not there.
                await until(lambda: all(count > 200 for count in stream.sent.values()))
                before = received(listening)
                assert not adding.done()
                programs.send(policy(egress=egress))
                await adding
                sent = dict(stream.sent)
                await until(lambda: all(stream.sent[address] > count + 200 for address, count in sent.items()))
            finally:
                stream.stop()
            return before, received(listening)


@pytest.mark.parametrize("egress", [False, True])
async def test_nothing_passes_before_the_policy_or_against_it(tmp_path: Path, egress: bool) -> None:
    """That the same stream passes once its policy allows it shows that it would have been seen."""
    with namespace("host") as host:
        async with policy_service(tmp_path) as programs:
            programs.snapshot = policy_pb2.SubscribeResponse(
                revision=1, snapshot=True, policies=[allow_all()],
                endpoints=[endpoint("target", TARGET[0], NAMES["target"], ipv6=TARGET[1])])
            daemon = await spawn(host, tmp_path)
            try:
                await daemon.ready()
                before, after = await played(host, daemon, programs, egress=egress)
            finally:
                await daemon.stop()
    assert before == set()
    assert after == (set(EAGER) if egress else set())
