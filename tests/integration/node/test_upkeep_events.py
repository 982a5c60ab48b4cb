"""What the kernel tells of deletions, as it tells it: in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from muslin import netns
from services.node import metrics
from services.node.attachment import Attachment
from services.node.kernel import Kernel, delete_together
from services.node.netlink import links, network
from services.node.netlink.connection import Connection
from services.node.upkeep.events import Gone, Kind, Monitor
from services.node.uplink import Uplink
from services.node.wiring import Wired, Wiring, wire
from tests.support.netns import namespace, namespaces

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[Path]:
    with namespace("host") as path:
        yield path


def wired(host: Connection, pod: Path, number: int) -> Wired:
    return wire(host, Wiring(Attachment("net", f"c{number}", "eth0"), str(pod), f"mus{number}",
                             f"02:00:00:00:00:{number:02x}", (ipaddress.IPv4Address(f"10.0.0.{number}"),)))


class Heard:
    """What a monitor told, and waiting for it."""

    def __init__(self, monitor: Monitor) -> None:
        self.gone: list[Gone] = []
        self.lost = asyncio.Event()
        self.came = asyncio.Event()
        monitor.listener = self._told

    def _told(self, gone: list[Gone] | None) -> None:
        if gone is None:
            self.lost.set()
        else:
            self.gone += gone
        self.came.set()

    async def until(self, wanted: Gone) -> None:
        async with asyncio.timeout(30):
            while wanted not in self.gone:
                self.came.clear()
                await self.came.wait()


async def test_what_is_made_is_not_heard_and_what_is_deleted_is(host: Path) -> None:
    """Of links, routes and neighbours, whoever deletes them, with the link they belonged to."""
    monitor: Monitor = netns.run(host, Monitor)
    try:
        heard = Heard(monitor)
        with Connection(host) as connection, namespace("pod") as pod:
            made = wired(connection, pod, 1)
            with pytest.raises(BlockingIOError):  # the kernel has told all there is before it answers
                monitor._socket.recv(1)
            monitor.start()
            departure = monitor.departure(made.host_index)
            await asyncio.to_thread(delete_together, connection, [made.host_index], 0)
            await heard.until(Gone(Kind.LINK, made.host_index))
            await departure
            assert Gone(Kind.NEIGHBOUR, made.host_index) in heard.gone
            assert links.listing(connection, "veth") == []
    finally:
        monitor.close()


async def test_more_than_is_listened_to_is_told_as_a_loss(host: Path) -> None:
    """Then anything may have happened; and what comes after is heard again."""
    monitor: Monitor = netns.run(host, Monitor)
    try:
        monitor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # as little as the kernel allows
        monitor.start()
        heard = Heard(monitor)
        with Connection(host) as connection, namespaces(2, "pod") as pods:
            both = [wired(connection, pod, number) for number, pod in enumerate(pods, 1)]
            address = ipaddress.ip_address("10.9.9.9")
            for _ in range(50):  # nobody reads meanwhile
                connection.request([network.add_route(both[0].host_index, ipaddress.ip_network("10.9.9.9/32"))])
                connection.request([network.add_neighbour(both[0].host_index, address, "02:00:00:00:00:09")])
                delete_together(connection, [both[0].host_index], 0)
                both[0] = wired(connection, pods[0], 1)
            async with asyncio.timeout(30):
                await heard.lost.wait()
            monitor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            await asyncio.to_thread(delete_together, connection, [both[1].host_index], 0)
            await heard.until(Gone(Kind.LINK, both[1].host_index))
    finally:
        monitor.close()


def test_links_that_go_together(host: Path) -> None:
    """Those that are gone already are no error, and no other link goes along."""
    with Connection(host) as connection, namespaces(4, "pod") as pods:
        made = [wired(connection, pod, number).host_index for number, pod in enumerate(pods, 1)]
        delete_together(connection, made[:1], 5)
        delete_together(connection, made[:3], 5)
        assert [link.name for link in links.listing(connection, "veth")] == ["mus4"]
        delete_together(connection, made[:3], 5)
        delete_together(connection, [], 5)
        assert [link.name for link in links.listing(connection, "veth")] == ["mus4"]


def batches() -> float:
    (metric,) = metrics.UNWIRING_SECONDS.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_count"))


async def deleted_at_once(pods: list[Path]) -> float:
    """Wire pods in this thread's namespace and delete them at the same moment; how many batches it took."""
    monitor = Monitor()
    monitor.start()
    kernel = Kernel(monitor, Uplink())
    removing = asyncio.create_task(kernel.remove())
    try:
        attachments = [Attachment("net", f"c{number}", "eth0") for number in range(len(pods))]
        for number, pod in enumerate(pods):
            await kernel.wire(Wiring(attachments[number], str(pod), f"mus{number}", f"02:00:00:00:00:{number:02x}",
                                     (ipaddress.IPv4Address(f"10.0.0.{number}"),)))
        assert set(await kernel.owned()) == set(attachments)
        begun = batches()
        await asyncio.gather(*(kernel.unwire(each, f"mus{number}") for number, each in enumerate(attachments)))
        assert await kernel.owned() == {}
    finally:
        removing.cancel()
        await asyncio.gather(removing, return_exceptions=True)
        await kernel.aclose()
        monitor.close()
    return batches() - begun


def test_what_is_deleted_at_the_same_moment_is_deleted_together(host: Path) -> None:
    """Forty links cost the kernel about what one does, if it is asked once."""
    with namespaces(40, "pod") as pods:
        assert netns.run(host, lambda: asyncio.run(deleted_at_once(pods))) == 1
