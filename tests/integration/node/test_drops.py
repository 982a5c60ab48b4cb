"""What was dropped, counted and told as it happens; with real packets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from muslin import netns
from muslin.api.policy.v1 import policy_pb2
from muslin.errors import NotFound
from services.node import actual
from services.node.counters import DropsCollector, drops_of
from services.node.enforce import table
from services.node.enforce.drops import REPORT_GROUP
from services.node.enforce.names import Direction
from services.node.enforce.program import Action, Policy, Rule
from services.node.enforce.state import Release
from services.node.enforcer import Enforcer
from services.node.errors import KernelError
from services.node.nft.reports import Reports
from services.node.tracing import Tracer
from tests.integration.node.test_cutting import SECONDS, enforcing, snapshot
from tests.integration.node.world import PREFIXES, Pod, World, world
from tests.support.arena import until
from tests.support.netns import command

pytestmark = pytest.mark.root

DENY_81 = Policy("t/deny", "deny", ingress=(
    Rule(Action.ALLOW, 6, ports=((80, 80),), path="spec.ingress[0]"),
    Rule(Action.DENY, 17, ports=((81, 81),), path="spec.ingress[1]")))


@pytest.fixture
def made() -> Iterator[World]:
    with world("a", "b", "c", ipv6=True) as built:
        command(built.host, "sysctl", "-q", "net.ipv6.conf.all.forwarding=1")
        yield built


def send(source: Pod, address: str, port: int, count: int = 1, bind: str = "") -> None:
    """Datagrams, each the first of a connection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(count):
        with netns.open_socket(source.netns, family, socket.SOCK_DGRAM) as sender:
            if bind:
                sender.bind((bind, 0))
            sender.sendto(b"?", (address, port))


async def counted(enforcer: Enforcer) -> list[tuple[str, str, tuple[str, ...], str, int, int]]:
    return [(d.workload, d.cause.policy, tuple(d.cause.asked), policy_pb2.Direction.Name(d.cause.direction)[10:],
             d.packets, d.bytes) for d in drops_of(enforcer.state, await enforcer.drops())]


async def test_drops_are_counted_by_pod_and_by_what_decided(made: World) -> None:
    """A policy shared by two pods counts for each; so do the end of a tier, a missing profile and the frame."""
    a, b, c = made.pods.values()
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint(ingress=[["t/deny"]]),
                                           c.endpoint(ingress=[["t/deny"]], egress=[["t/none"]])],
                                       [DENY_81, Policy("t/none")]))
        send(a, b.address, 81, 3)
        send(a, c.address6, 81, 2)
        send(a, b.address, 82, 4)
        send(c, a.address, 80, 5)
        found = await counted(enforcer)
        assert found == [
            ("test/b", "", ("t/deny",), "INGRESS", 4, 4 * 29),
            ("test/b", "t/deny", (), "INGRESS", 3, 3 * 29),
            ("test/c", "t/deny", (), "INGRESS", 2, 2 * 49),
            ("test/c", "", ("t/none",), "EGRESS", 5, 5 * 29)]
        # Also after a daemon has read the table and written its rules anew.
        metrics = DropsCollector(made.nft, lambda: enforcer.state).collect()
        assert {(s.labels["workload"], s.labels["policy"], s.labels["direction"]): s.value
                for s in metrics[0].samples} == {(w, p, d.lower()): n for w, p, _, d, n, _ in found}
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(2, [a.endpoint(), b.endpoint(ingress=[["t/deny"]])], [DENY_81]))
        assert ("test/b", "t/deny", (), "INGRESS", 3, 3 * 29) in await counted(enforcer)


async def test_counts_of_a_pod_that_is_gone_go(made: World) -> None:
    a, b, _ = made.pods.values()
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint(ingress=[["t/deny"]])], [DENY_81]))
        send(a, b.address, 81)
        assert len(await enforcer.drops()) == 1
        await enforcer.submit(Release(b.attachment))
        await asyncio.to_thread(until, lambda: not made.nft.tallies("muslin", "drops"), SECONDS)


async def test_drops_of_a_watched_pod_are_told_with_policy_and_rule(made: World) -> None:
    """Those of others are not; and nothing is left when the watcher goes."""
    a, b, c = made.pods.values()
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint(ingress=[["t/deny"]]),
                                           c.endpoint(ingress=[["t/deny"]])], [DENY_81]))
        wanted = table.merged(enforcer.state.parts.values())
        tracer = Tracer(enforcer, str(made.host))
        async with asyncio.timeout(SECONDS), tracer.watching("test/b") as watch:
            assert list(made.nft.elements("muslin", "watched")) == [b.interface.encode().ljust(16, b"\0")]
            assert actual.difference(made.nft, wanted, PREFIXES) == "", "watching is no drift"
            send(a, c.address, 81)
            send(a, b.address, 81)
            send(a, b.address6, 99)
            (first, _), (second, missed) = await watch.next(), await watch.next()
        assert (first.cause.policy, first.rule, first.addresses, first.packet.port, first.packet.protocol) == (
            "t/deny", "spec.ingress[1]", (a.address, b.address), 81, 17)
        assert (second.cause.policy, second.cause.asked, second.rule, second.addresses, missed) == (
            "", ("t/deny",), "", (a.address6, b.address6), 0)
        assert made.nft.elements("muslin", "watched") == {}
        with Reports(REPORT_GROUP, made.host) as free:
            send(a, b.address, 81)
            assert list(free.pending()) == []


async def test_a_pod_that_sends_from_anothers_address_is_told(made: World) -> None:
    a, b, _ = made.pods.values()
    command(a.netns, "ip", "address", "add", "192.168.7.99/32", "dev", "eth0")
    command(made.host, "sysctl", "-q", f"net.ipv4.conf.{a.interface}.rp_filter=0")
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint()]))
        async with asyncio.timeout(SECONDS), Tracer(enforcer, str(made.host)).watching("test/a") as watch:
            send(a, b.address, 80, bind="192.168.7.99")
            drop, _ = await watch.next()
        assert (drop.cause.direction, drop.cause.reason, drop.addresses[0]) == (
            Direction.EGRESS, "not its own address", "192.168.7.99")


async def test_several_watchers_share_one_listener(made: World) -> None:
    """The first to go leaves the other watching; a pod that is not here can not be watched."""
    a, b, c = made.pods.values()
    async with enforcing(made) as enforcer:
        closed = [pod.endpoint(ingress=[["t/deny"]]) for pod in (b, c)]
        await enforcer.submit(snapshot(1, [a.endpoint(), *closed], [DENY_81]))
        tracer = Tracer(enforcer, str(made.host))
        async with asyncio.timeout(SECONDS), AsyncExitStack() as stack:
            await stack.enter_async_context(tracer.watching("test/b"))
            watch = await stack.enter_async_context(tracer.watching("test/c"))
            async with tracer.watching("test/c") as third:
                send(a, c.address, 81)
                assert (await third.next())[0].cause == (await watch.next())[0].cause
            assert len(made.nft.elements("muslin", "watched")) == 2
            send(a, c.address, 81)
            assert (await watch.next())[0].cause.policy == "t/deny"
            with pytest.raises(KernelError, match="28021"):
                Reports(REPORT_GROUP, made.host)
            with pytest.raises(NotFound, match="test/nobody"):
                await stack.enter_async_context(tracer.watching("test/nobody"))
        assert made.nft.elements("muslin", "watched") == {}


async def test_a_flood_is_told_in_part_and_counted_whole(made: World) -> None:
    """The kernel reports at most its limit's burst at once; who watches is not drowned."""
    a, b, _ = made.pods.values()
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint(ingress=[["t/deny"]])], [DENY_81]))
        async with asyncio.timeout(SECONDS), Tracer(enforcer, str(made.host)).watching("test/b") as watch:
            began = asyncio.get_running_loop().time()
            send(a, b.address, 81, 1000)
            took = asyncio.get_running_loop().time() - began
            told = 0
            while True:
                try:
                    async with asyncio.timeout(0.3):
                        await watch.next()
                except TimeoutError:
                    break
                told += 1
            assert 100 <= told <= 100 + 50 * (took + 1)
        assert [(each[1], each[4]) for each in await counted(enforcer)] == [("t/deny", 1000)]


async def test_what_a_killed_daemon_watched_runs_out(made: World) -> None:
    """Elements live by themselves, for as long as they are renewed."""
    b = made.pods["b"]
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [b.endpoint()]))
        await enforcer.watch([b.interface], 600_000)
        assert len(made.nft.elements("muslin", "watched")) == 1
        await enforcer.watch([b.interface], 200)
    await asyncio.to_thread(until, lambda: not made.nft.elements("muslin", "watched"), SECONDS)
