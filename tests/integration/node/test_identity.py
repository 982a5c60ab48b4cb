"""A pod whose sandbox was replaced: whatever comes when, the new sandbox keeps what is its own.

The interface name follows from the pod, so the old sandbox and the new one want the same; often the same addresses too.
Enumerated are all orders in which the new ADD, two DELs of the old one, and the end of its namespace can come.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from muslin import netns
from muslin.api.cni.v1 import cni_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.cni.result import Result
from muslin.errors import FailedPrecondition
from services.node.netlink import links
from services.node.netlink.connection import Connection
from tests.integration.node.daemon import Daemon, allow_all, call, check, endpoint, policy_service, spawn
from tests.integration.node.world import listening, reaches
from tests.support.netns import command, namespace

pytestmark = pytest.mark.root

INTERFACE = "mus0123456789a"
OLD = ("10.3.0.1", "fd00:3::1")
ADDRESSES = {"the same addresses": OLD, "other addresses": ("10.3.0.2", "fd00:3::2")}
STEPS = ("add new", "del old", "del old", "namespace of old goes")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[tuple[Path, Daemon]]:
    with namespace("host") as host:
        for address in ("10.1.0.1", "fd00:1::1"):
            command(host, "ip", "address", "add", address, "dev", "lo")
        async with policy_service(tmp_path) as programs:
            programs.snapshot = policy_pb2.SubscribeResponse(
                revision=1, snapshot=True, policies=[allow_all()],
                endpoints=[endpoint("old", OLD[0], INTERFACE, ipv6=OLD[1]),
                           *(endpoint(f"new-{key}".replace(" ", "-"), address, INTERFACE, ipv6=ipv6)
                             for key, (address, ipv6) in ADDRESSES.items())])
            daemon = await spawn(host, tmp_path)
            await daemon.ready()
            try:
                yield host, daemon
            finally:
                await daemon.stop()


async def lives(host: Path, daemon: Daemon, mine: cni_pb2.Call, answered: Result, pod: Path, key: str) -> None:
    """The new sandbox has all of its own, and packets reach it; nothing of the old one is left."""
    await daemon.check(check(mine, answered))
    with listening(pod, 80, ipv6=True):
        for address in ADDRESSES[key]:
            assert await asyncio.to_thread(reaches, host, address, 80, timeout=5)
    with Connection(host) as connection:
        assert [link.alias for link in links.listing(connection, "veth")] == [f"muslin:net/{mine.container_id}/eth0"]
    assert [a.container_id for a in (await daemon.status()).attachments] == [mine.container_id]


@pytest.mark.parametrize("key", ADDRESSES)
async def test_a_late_del_never_touches_the_new_sandbox(node: tuple[Path, Daemon], key: str) -> None:
    host, daemon = node
    for order in sorted(set(itertools.permutations(STEPS))):
        await played(host, daemon, key, order, together=False)


@pytest.mark.parametrize("key", ADDRESSES)
async def test_nor_does_one_that_comes_at_the_same_time(node: tuple[Path, Daemon], key: str) -> None:
    """All at once, begun in each order."""
    host, daemon = node
    for order in sorted(set(itertools.permutations(STEPS))):
        await played(host, daemon, key, order, together=True)


async def played(host: Path, daemon: Daemon, key: str, order: tuple[str, ...], *, together: bool) -> None:
    container = f"new-{key}".replace(" ", "-")
    with namespace("old") as old, namespace("new") as new:
        theirs = call("old", old, OLD[0], INTERFACE, ipv6=OLD[1])
        mine = call(container, new, ADDRESSES[key][0], INTERFACE, ipv6=ADDRESSES[key][1])
        answers: list[Result] = []

        async def add() -> None:
            answers.append(await daemon.add(mine))

        async def vanish() -> None:
            netns.delete(old.name)

        steps: dict[str, Callable[[], Awaitable[None]]] = {
            "add new": add, "del old": lambda: daemon.delete(theirs), "namespace of old goes": vanish}
        await daemon.add(theirs)
        if together:
            await asyncio.gather(*(steps[name]() for name in order))
        else:
            for name in order:
                await steps[name]()
                if answers:
                    await lives(host, daemon, mine, answers[0], new, key)
        await daemon.delete(theirs)
        await lives(host, daemon, mine, answers[0], new, key)
        await daemon.delete(mine)
        with Connection(host) as connection:
            assert links.listing(connection, "veth") == []


async def test_the_check_of_a_replaced_sandbox_says_so(node: tuple[Path, Daemon]) -> None:
    _, daemon = node
    with namespace("old") as old, namespace("new") as new:
        theirs = call("old", old, OLD[0], INTERFACE, ipv6=OLD[1])
        answered = await daemon.add(theirs)
        await daemon.check(check(theirs, answered))
        await daemon.add(call("new-the-same-addresses", new, OLD[0], INTERFACE, ipv6=OLD[1]))
        with pytest.raises(FailedPrecondition, match=f"host interface {INTERFACE} belongs to muslin:net/new-the-same"):
            await daemon.check(check(theirs, answered))
