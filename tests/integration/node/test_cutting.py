"""Established connections after a change of policy, and after their pod has gone; with real ones."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from muslin import netns
from muslin.rpc import Readiness
from services.node.enforce.program import Action, Endpoint, Group, Kind, Policy, Rule, Update, member
from services.node.enforce.state import Claim, Release
from services.node.enforcer import Enforcer
from services.node.netlink.conntrack import Conntrack, Entry
from tests.integration.node.world import ALLOW_ALL, PREFIXES, Pod, World, family_of, group, world
from tests.support.arena import until
from tests.support.netns import command

pytestmark = pytest.mark.root

SECONDS = 20.0
"""Longest wait for what must happen; it takes milliseconds."""


@contextmanager
def echoing(where: Path, port: int) -> Iterator[None]:
    """A server of TCP connections that gives back what it gets, of both families."""
    server = netns.open_socket(where, socket.AF_INET6, socket.SOCK_STREAM)
    server.bind(("::", port))
    server.listen(16)

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


class Talk:
    """A connection on which every word is answered, or was once."""

    def __init__(self, stack: ExitStack, source: Path, address: str, port: int) -> None:
        self.socket = stack.enter_context(netns.open_socket(source, family_of(address), socket.SOCK_STREAM))
        self.socket.settimeout(SECONDS)
        self.socket.connect((address, port))
        self.said = 0
        assert self.answered()

    def answered(self, seconds: float = SECONDS) -> bool:
        """Say a word; whether all that was said is answered."""
        self.said += 1
        word = self.said.to_bytes(4, "big")
        self.socket.settimeout(seconds)
        self.socket.sendall(word)
        heard = b""
        try:
            while len(heard) < 4:
                heard += self.socket.recv(4 - len(heard))
        except TimeoutError:
            return False
        return heard == word


@pytest.fixture
def made() -> Iterator[World]:
    with world("a", "b", "c", ipv6=True) as built, ExitStack() as stack:
        for address in ("10.99.0.1/32", "fd00:99::1/128"):
            command(built.host, "ip", "address", "add", address, "dev", "lo")
        # For IPv6 between pods, whatever the kernel's version.
        command(built.host, "sysctl", "-q", "net.ipv6.conf.all.forwarding=1")
        for pod in built.pods.values():
            for port in (80, 81):
                stack.enter_context(echoing(pod.netns, port))
        yield built


@asynccontextmanager
async def enforcing(made: World) -> AsyncIterator[Enforcer]:
    """The daemon's own enforcement, in the world's host."""
    enforcer = Enforcer(made.nft, PREFIXES)
    claims = [Claim(pod.attachment, pod.interface) for pod in made.pods.values()]
    await enforcer.start(claims, Readiness().part("kernel"))
    task = asyncio.create_task(enforcer.run())
    try:
        yield enforcer
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await enforcer.aclose()


def snapshot(revision: int, endpoints: Iterable[Endpoint], policies: Iterable[Policy] = (),
             groups: Iterable[Group] = ()) -> Update:
    return Update(revision, snapshot=True, groups=tuple(groups), policies=(ALLOW_ALL, *policies),
                  endpoints=tuple(endpoints))


def entries(made: World, *pods: Pod) -> list[Entry]:
    """Of TCP connections with servers of these tests, that have all these pods' addresses at their ends."""
    with Conntrack(made.host) as conntrack:
        ends = [{ipaddress.ip_address(address).packed for address in (pod.address, pod.address6)} for pod in pods]
        return [entry for entry in conntrack.entries() if entry.protocol == 6
                and all(each & {entry.source, entry.destination} for each in ends)]


def to_port(port: int, listed: Iterable[Entry]) -> set[Entry]:
    """Those with that destination port."""
    return {entry for entry in listed if entry.port == port}


async def cut(made: World, *pods: Pod, port: int | None = None) -> None:
    """Wait until there are no connections between them; with a port none to that."""
    await asyncio.to_thread(until, lambda: not [each for each in entries(made, *pods) if port in (None, each.port)],
                            SECONDS)


WEB = Rule(Action.ALLOW, 6, ports=((80, 80),))


@pytest.mark.parametrize("family", [4, 6])
async def test_what_a_new_policy_forbids_stops_and_what_it_allows_goes_on(made: World, family: int) -> None:
    """A policy comes that allows one port of two. The other one's connection is silent, from both ends."""
    a, b, c = made.pods.values()
    to = b.address if family == 4 else b.address6
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [pod.endpoint() for pod in made.pods.values()]))
        with ExitStack() as stack:
            allowed, forbidden, other = (Talk(stack, pod.netns, to, port) for pod, port in ((a, 80), (a, 81), (c, 80)))
            before = to_port(80, entries(made, b))
            assert len(before) == 2
            await enforcer.submit(Update(2, policies=(Policy("t/in", "t/in", ingress=(WEB,)),),
                                         endpoints=(b.endpoint(ingress=[["t/in"]]),)))
            await cut(made, a, b, port=81)
            assert not await asyncio.to_thread(forbidden.answered, 1.0)
            for talk in (allowed, other):
                for _ in range(50):
                    assert await asyncio.to_thread(talk.answered)
            assert to_port(80, entries(made, b)) == before, "the same, not made anew"
            assert not await asyncio.to_thread(forbidden.answered, 0.5)
            assert not any(entry.port == 81 for entry in entries(made, a, b))


async def test_a_server_that_sends_does_not_revive_what_was_cut(made: World) -> None:
    """Its own egress allows it to begin connections to the client; this is none that it began."""
    a, b, _ = made.pods.values()
    server = netns.open_socket(b.netns, socket.AF_INET, socket.SOCK_STREAM)
    with server:
        server.bind(("0.0.0.0", 90))
        server.listen()
        async with enforcing(made) as enforcer:
            await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint()]))
            with netns.open_socket(a.netns, socket.AF_INET, socket.SOCK_STREAM) as client:
                client.settimeout(SECONDS)
                client.connect((b.address, 90))
                accepted, _ = server.accept()
                with accepted:
                    accepted.sendall(b"1")
                    assert client.recv(1) == b"1"
                    await enforcer.submit(Update(2, policies=(Policy("t/none"),),
                                                 endpoints=(b.endpoint(ingress=[["t/none"]]),)))
                    await cut(made, a, b)
                    accepted.sendall(b"2")
                    client.settimeout(1.0)
                    with pytest.raises(TimeoutError):
                        await asyncio.to_thread(client.recv, 1)
                    assert entries(made, a, b) == []


async def test_a_member_that_leaves_a_group_is_cut_and_the_others_go_on(made: World) -> None:
    a, b, c = made.pods.values()
    policy = Policy("t/in", "t/in", ingress=(Rule(Action.ALLOW, peer_group="web"),))
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint(ingress=[["t/in"]]), c.endpoint()], [policy],
                                       [group("web", Kind.ADDRESS, a.address, c.address)]))
        with ExitStack() as stack:
            leaving, staying = (Talk(stack, pod.netns, b.address, 80) for pod in (a, c))
            before = entries(made, c, b)
            await enforcer.submit(Update(2, members=(("web", frozenset(), frozenset({member(a.address)})),)))
            await cut(made, a, b)
            assert not await asyncio.to_thread(leaving.answered, 0.5)
            assert await asyncio.to_thread(staying.answered)
            assert entries(made, c, b) == before


async def test_the_host_goes_on_whatever_the_policy(made: World) -> None:
    """As policy has it of first packets."""
    a, b, _ = made.pods.values()
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint()]))
        with ExitStack() as stack:
            probe, forbidden = Talk(stack, made.host, b.address, 80), Talk(stack, a.netns, b.address, 80)
            none = b.endpoint(ingress=[["t/none"]])
            await enforcer.submit(Update(2, policies=(Policy("t/none"),), endpoints=(none,)))
            await cut(made, a, b)
            assert not await asyncio.to_thread(forbidden.answered, 0.5)
            assert await asyncio.to_thread(probe.answered)


async def test_a_connection_whose_destination_is_translated_is_judged_by_where_it_went(made: World) -> None:
    """To an address of a service; it stays while its pod allows it, and is cut with it."""
    a, b, _ = made.pods.values()
    command(made.host, "nft", "add table ip lb; add chain ip lb pre { type nat hook prerouting priority dstnat; }; "
                              f"add rule ip lb pre ip daddr 10.96.0.1 tcp dport 8000 dnat to {b.address}:80")
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint()]))
        with ExitStack() as stack:
            talk = Talk(stack, a.netns, "10.96.0.1", 8000)
            before = entries(made, a, b)
            await enforcer.submit(Update(2, policies=(Policy("t/in", "t/in", ingress=(WEB,)),),
                                         endpoints=(b.endpoint(ingress=[["t/in"]]),)))
            await enforcer.submit(Update(3, policies=(Policy("t/out", "t/out", egress=(
                Rule(Action.ALLOW, 6, nets=(ipaddress.ip_network(b.address),), ports=((80, 80),)),)),),
                endpoints=(a.endpoint(egress=[["t/out"]]),)))
            await enforcer.settled()
            assert await asyncio.to_thread(talk.answered)
            assert entries(made, a, b) == before
            await enforcer.submit(Update(4, policies=(Policy("t/in", "t/in"),)))
            await cut(made, a, b)
            assert not await asyncio.to_thread(talk.answered, 0.5)


async def test_connections_of_a_pod_that_goes_are_gone_before_its_address_is_used_again(made: World) -> None:
    """Connections of others stay."""
    a, b, c = made.pods.values()
    async with enforcing(made) as enforcer:
        await enforcer.submit(snapshot(1, [pod.endpoint() for pod in made.pods.values()]))
        with ExitStack() as stack:
            Talk(stack, a.netns, b.address, 80)
            Talk(stack, b.netns, c.address6, 80)
            Talk(stack, made.host, b.address, 80)
            staying = Talk(stack, a.netns, c.address, 80)
            before = entries(made, a, c)
            await enforcer.submit(Release(b.attachment))
            await enforcer.severed([ipaddress.ip_address(b.address)])
            assert entries(made, b) == []
            assert await asyncio.to_thread(staying.answered)
            assert entries(made, a, c) == before


async def test_what_was_forbidden_while_no_daemon_ran_is_cut_at_its_start(made: World) -> None:
    a, b, _ = made.pods.values()
    with ExitStack() as stack:
        async with enforcing(made) as enforcer:
            await enforcer.submit(snapshot(1, [a.endpoint(), b.endpoint()]))
            forbidden, allowed = (Talk(stack, a.netns, b.address, port) for port in (81, 80))
            before = to_port(80, entries(made, a, b))
        async with enforcing(made) as enforcer:
            await enforcer.submit(snapshot(2, [a.endpoint(), b.endpoint(ingress=[["t/in"]])],
                                           [Policy("t/in", "t/in", ingress=(WEB,))]))
            await cut(made, a, b, port=81)
            assert not await asyncio.to_thread(forbidden.answered, 0.5)
            assert await asyncio.to_thread(allowed.answered)
            assert to_port(80, entries(made, a, b)) == before
