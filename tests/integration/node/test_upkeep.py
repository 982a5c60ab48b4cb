"""The daemon keeps what it wired: drift, restarts under traffic, records, GC and STATUS; with real packets."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from muslin import netns, rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.node.v1 import node_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.errors import FailedPrecondition, InvalidArgument, MuslinError, Unavailable
from services.node.netlink import links
from services.node.netlink.connection import Connection
from services.node.wiring import UNFINISHED_GROUP
from tests.integration.node import daemon
from tests.integration.node.daemon import Daemon, Programs, allow_all, call, endpoint
from tests.integration.node.world import reaches
from tests.support.netns import command, namespace, namespaces

pytestmark = pytest.mark.root

PATIENCE = 60.0
"""Seconds; what is waited for takes less than ten on an idle machine."""

PERMANENT = ("neigh", "show", "nud", "permanent")
"""Of neighbours those that are made; others come and go."""

A, B, C = ("a", "10.0.0.1", "musa"), ("b", "10.0.0.2", "musb"), ("c", "10.0.0.3", "musc")


@dataclass
class Node:
    """A host namespace, a policy service and the daemon between them."""

    host: Path
    run: Path
    programs: Programs
    daemon: Daemon
    logs: str = ""

    def inside(self, *argv: str) -> str:
        return command(self.host, *argv)

    def links(self) -> dict[str, links.Link]:
        with Connection(self.host) as connection:
            return {link.name: link for link in links.listing(connection, "veth")}

    def records(self) -> dict[str, dict[str, object]]:
        return {path.name: json.loads(path.read_bytes()) for path in (self.run / "attachments").iterdir()}

    async def stop(self, number: int = signal.SIGTERM) -> None:
        self.logs += await self.daemon.stop(number)

    async def start(self) -> None:
        self.daemon = await daemon.spawn(self.host, self.run)

    async def until_status(self, condition: Callable[[node_pb2.GetStatusResponse], bool]) -> None:
        """What the daemon says, of which there is no event either."""
        async with asyncio.timeout(PATIENCE):
            while not condition(await self.daemon.status()):  # noqa: ASYNC110  another process' state
                await asyncio.sleep(0.05)

    async def problems(self) -> list[str]:
        return list((await self.daemon.status()).problems)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    with namespace("host") as host:
        async with daemon.policy_service(run) as programs:
            made = Node(host, run, programs, await daemon.spawn(host, run))
            try:
                yield made
            finally:
                await made.stop()
            assert "Traceback" not in made.logs


def program(*containers: tuple[str, str, str], profiles: Sequence[str] = ("profile/all",), revision: int = 1,
            ) -> policy_pb2.SubscribeResponse:
    made = [endpoint(*container) for container in containers]
    for each, profile in zip(made, profiles, strict=False):
        each.profiles[:] = [profile]
    return policy_pb2.SubscribeResponse(
        revision=revision, snapshot=True, endpoints=made,
        policies=[allow_all(), policy_pb2.Policy(id="profile/none", name="none", egress=[
            policy_pb2.Rule(action=policy_pb2.ACTION_ALLOW)])])


async def until(condition: Callable[[], bool]) -> None:
    """The kernel's state, of which there is no event here."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  as above
            await asyncio.sleep(0.02)


async def test_what_others_change_at_the_hosts_end_is_put_in_order(node: Node) -> None:
    """Whether the kernel tells of it or not; and nothing else is touched."""
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two):
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        node.inside("ip", "route", "add", "10.9.9.9/32", "dev", "musa")

        def seen() -> list[str]:
            lines = [line for about in (("route",), PERMANENT, ("link",)) for line in
                     node.inside("ip", *about).splitlines()]
            return [*lines, *(command(node.host, "sysctl", f"net.ipv4.conf.musa.{name}", check=False)
                              for name in ("rp_filter", "proxy_arp", "forwarding", "route_localnet"))]

        whole = seen()
        damages = (
                ("ip", "route", "delete", "10.0.0.1/32"),
                ("ip", "route", "replace", "10.0.0.1/32", "dev", "musb"),
                ("ip", "neigh", "delete", "10.0.0.1", "dev", "musa"),
                ("ip", "neigh", "replace", "10.0.0.1", "lladdr", "02:00:00:00:00:99", "dev", "musa", "nud",
                 "permanent"),
                ("sysctl", "-qw", "net.ipv4.conf.musa.rp_filter=0"),
                ("sysctl", "-qw", "net.ipv4.conf.musa.forwarding=0"),
                ("ip", "link", "set", "musa", "alias", ""),
                ("ip", "link", "set", "musa", "address", "02:00:00:00:00:98"),
                ("ip", "link", "set", "musa", "name", "musx"))
        for damage in damages:
            node.inside(*damage)
            await until(lambda: seen() == whole)
        node.inside("ip", "link", "set", "musa", "down")  # takes the stranger's route along
        await until(lambda: seen() == [line for line in whole if not line.startswith("10.9.9.9")])
        assert reaches(one, "10.0.0.2", 80)
        assert await node.problems() == []
        for pod, (name, address, interface) in ((one, A), (two, B)):
            await node.daemon.delete(call(name, pod, address, interface))
        assert node.links() == {}
        await node.stop()
        assert node.logs.count("somebody changed the wiring of net/a/eth0") > len(damages)


async def test_what_others_change_of_ipv6_is_put_in_order(node: Node) -> None:
    node.programs.snapshot = policy_pb2.SubscribeResponse(revision=1, snapshot=True, policies=[allow_all()],
                                                          endpoints=[endpoint("a", "10.0.0.1", "musa", ipv6="fd00::1")])
    with namespace("pod") as pod:
        await node.daemon.add(call("a", pod, "10.0.0.1", "musa", ipv6="fd00::1"))

        def seen() -> list[str]:
            lines = [line for about in (("route", "show"), PERMANENT, ("address", "show")) for line in
                     node.inside("ip", "-6", *about, "dev", "musa").splitlines()]
            return sorted([*lines, *(node.inside("sysctl", f"net.ipv6.conf.musa.{name}")
                                     for name in ("accept_ra", "forwarding", "proxy_ndp"))])

        whole = seen()
        damages = (("ip", "-6", "route", "delete", "fd00::1/128"),
                   ("ip", "-6", "neigh", "delete", "fd00::1", "dev", "musa"),
                   ("ip", "-6", "address", "delete", "fe80::ecee:eeff:feee:eeee/128", "dev", "musa"),
                   ("sysctl", "-qw", "net.ipv6.conf.musa.proxy_ndp=0"),
                   ("sysctl", "-qw", "net.ipv6.conf.musa.accept_ra=1"))
        for damage in damages:
            node.inside(*damage)
            await until(lambda: seen() == whole)
        await node.stop()
        assert node.logs.count("somebody changed the wiring of net/a/eth0") >= len(damages)


async def test_a_veth_that_somebody_deleted_takes_its_rules_along(node: Node) -> None:
    """It is reported; after a restart too; its DEL succeeds, and an ADD as well."""
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two):
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        node.inside("ip", "link", "delete", "musa")
        await until(lambda: "musa" not in node.inside("nft", "list", "table", "inet", "muslin"))
        words = ["net/a/eth0: its veth musa is gone, and DEL has not come"]
        assert await node.problems() == words
        await node.stop(signal.SIGKILL)
        await node.start()
        await node.until_status(lambda status: list(status.problems) == words)
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        assert await node.problems() == []
        assert reaches(one, "10.0.0.2", 80)
        await node.daemon.delete(call("a", one, "10.0.0.1", "musa"))
        assert list(node.records()) == ["net@b@eth0.json"]


async def test_links_of_ours_that_nobody_knows(node: Node) -> None:
    """One with an owner is adopted, and goes with its DEL; one that was never finished goes by itself."""
    await node.daemon.ready()
    node.inside("ip", "link", "add", "musa", "type", "veth", "peer", "name", "far")
    node.inside("ip", "link", "set", "musa", "alias", "muslin:net/a/eth0")
    node.inside("ip", "link", "add", "musz", "group", str(UNFINISHED_GROUP), "type", "veth", "peer", "name", "away")
    await until(lambda: "musz" not in node.links())
    await node.until_status(lambda status: [a.container_id for a in status.attachments] == ["a"])
    await node.daemon.delete(call("a", "", "10.0.0.1", "musa"))
    assert node.links() == {}


class Flow:
    """Numbered datagrams to an echo, one after the other; which arrived there, and which came back."""

    def __init__(self, source: Path, target: Path, address: str) -> None:
        self.sent = 0
        self.arrived: set[int] = set()
        self.received: set[int] = set()
        self._server = netns.open_socket(target, socket.AF_INET, socket.SOCK_DGRAM)
        self._client = netns.open_socket(source, socket.AF_INET, socket.SOCK_DGRAM)
        for each in (self._server, self._client):
            each.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE: what waits to be read is not lost
            each.settimeout(0.1)
        self._server.bind(("0.0.0.0", 7))
        self._client.connect((address, 7))
        self._stop, self._done = threading.Event(), threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._others = [threading.Thread(target=work, daemon=True) for work in (self._echo, self._read)]

    def _send(self) -> None:
        while not self._stop.is_set():
            self._client.send(self.sent.to_bytes(4, "big"))
            self.sent += 1
            time.sleep(0.002)

    def _each(self, own: socket.socket) -> Iterator[tuple[bytes, object]]:
        """What comes, until the end, and what is there then."""
        while True:
            try:
                yield own.recvfrom(16)
            except TimeoutError:
                if self._done.is_set():
                    return

    def _echo(self) -> None:
        for data, peer in self._each(self._server):
            self.arrived.add(int.from_bytes(data, "big"))
            self._server.sendto(data, peer)  # type: ignore[call-overload]  # an address of AF_INET

    def _read(self) -> None:
        for data, _ in self._each(self._client):
            self.received.add(int.from_bytes(data, "big"))

    def start(self) -> None:
        for thread in (self._sender, *self._others):
            thread.start()

    def end(self, *, whole: bool) -> None:
        """Send no more; `whole` is whether all that was sent is waited for."""
        self._stop.set()
        self._sender.join()
        deadline = time.monotonic() + PATIENCE
        while whole and len(self.received) < self.sent and time.monotonic() < deadline:
            time.sleep(0.01)
        self._done.set()
        for thread in self._others:
            thread.join()
        self._server.close()
        self._client.close()


@contextmanager
def flow(source: Path, target: Path, address: str, *, whole: bool) -> Iterator[Flow]:
    """A flow that goes on during the block."""
    made = Flow(source, target, address)
    made.start()
    try:
        yield made
    finally:
        made.end(whole=whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_loses_no_packet_and_lets_none_through(node: Node, number: int) -> None:
    """One flow that is allowed and one that is not, from before the daemon's end until after its new program."""
    node.programs.snapshot = program(A, B, C, profiles=("profile/all", "profile/all", "profile/none"))
    with namespaces(3, "pod") as pods:
        for pod, (name, address, interface) in zip(pods, (A, B, C), strict=True):
            await node.daemon.add(call(name, pod, address, interface))
        before = node.links()
        with (flow(pods[0], pods[1], "10.0.0.2", whole=True) as allowed,
              flow(pods[0], pods[2], "10.0.0.3", whole=False) as denied):
            await until(lambda: len(allowed.received) > 50)
            for revision in (2, 3):
                node.programs.snapshot = program(A, B, C, profiles=("profile/all", "profile/all", "profile/none"),
                                                 revision=revision)
                await node.stop(number)
                await node.start()
                await node.programs.until(revision)
                enough = allowed.sent + 50
                await until(partial(lambda enough: allowed.sent > enough, enough))
        assert allowed.received == set(range(allowed.sent))
        assert denied.sent > 100
        assert denied.arrived == set()
        assert node.links() == before
        status = await node.daemon.status()
        assert [a.container_id for a in status.attachments] == ["a", "b", "c"]


async def test_records_are_private_and_go_with_their_attachment(node: Node) -> None:
    """What an earlier run left unfinished, damaged or from another boot goes; what is right stays."""
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two):
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        directory = node.run / "attachments"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "net@a@eth0.json").stat().st_mode) == 0o600
        record = node.records()["net@a@eth0.json"]
        assert (record["host_interface"], record["addresses"], record["mac"], record["netns"]) == (
            "musa", ["10.0.0.1"], "02:00:00:00:00:07", str(one))
        await node.stop(signal.SIGKILL)
        (directory / "net@x@eth0.new").write_text("{")
        (directory / "net@y@eth0.json").write_text("{")
        (directory / "net@z@eth0.json").write_text(json.dumps(record | {"container_id": "z", "boot": "another"}))
        await node.start()
        await node.daemon.ready()
        assert node.records() == {"net@a@eth0.json": record}
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        await node.daemon.delete(call("a", one, "10.0.0.1", "musa"))
        assert list(node.records()) == ["net@b@eth0.json"]


async def test_a_failed_add_leaves_no_record(node: Node) -> None:
    with namespace("pod") as pod:
        with pytest.raises(MuslinError, match="was not in the kernel"):
            await node.daemon.add(call("a", pod, "10.0.0.1", "musa"), timeout=2)
        assert node.records() == {}


async def test_an_add_right_after_its_del_succeeds(node: Node) -> None:
    """When DEL is answered both ends are gone, though the kernel still waits for their last users."""
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two), Connection(one) as inside:
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        for _ in range(20):
            await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
            assert reaches(one, "10.0.0.2", 80)
            await node.daemon.delete(call("a", one, "10.0.0.1", "musa"))
            assert links.get(inside, "eth0") is None
            assert set(node.links()) == {"musb"}
            assert "10.0.0.1" not in node.inside("ip", "route")


async def collected(node: Node, **lists: object) -> None:
    """GC with these lists."""
    config = {"cniVersion": "1.1.0", "name": "net", "type": "muslin", **{f"cni.dev/{k}": v for k, v in lists.items()}}
    with rpc.translated("node: gc"):
        await node.daemon.plugin.GC(cni_pb2.GCRequest(call=cni_pb2.Call(config=json.dumps(config).encode())),
                                    timeout=20, wait_for_ready=True)


async def test_gc_frees_what_is_not_listed(node: Node) -> None:
    """By container and interface; of this network only; no list, or one that can not be read, frees nothing."""
    containers = [(name, f"10.0.0.{number}", f"mus{name}") for number, name in enumerate("abcd", 1)]
    node.programs.snapshot = program(*containers)
    node.programs.snapshot.endpoints[3].attachment.network = "other"
    with namespaces(4, "pod") as pods:
        for pod, (name, address, interface) in zip(pods, containers, strict=True):
            asked = call(name, pod, address, interface)
            if name == "d":
                asked.config = asked.config.replace(b'"net"', b'"other"')
            await node.daemon.add(asked)
        await collected(node)
        with pytest.raises(InvalidArgument, match="containerID"):
            await collected(node, **{"valid-attachments": [{"containerID": "a"}]})
        assert set(node.links()) == {"musa", "musb", "musc", "musd"}
        await collected(node, **{"valid-attachments": [{"containerID": "a", "ifname": "eth0"},
                                                       {"containerID": "b", "ifname": "eth0"},
                                                       {"containerID": "c", "ifname": "eth1"}]})
        assert set(node.links()) == {"musa", "musb", "musd"}
        await collected(node, attachments=[{"containerID": "b", "ifname": "eth0"}])
        assert set(node.links()) == {"musb", "musd"}
        node.inside("ip", "link", "delete", "musb")
        await collected(node, attachments=[])
        assert set(node.links()) == {"musd"}
        assert list(node.records()) == ["other@d@eth0.json"]


async def test_status_says_whether_an_add_would_be_served(node: Node) -> None:
    """Before the first program it would not; how a lost stream is told is another test's."""
    async def asked() -> None:
        with rpc.translated("node"):
            await node.daemon.plugin.Status(cni_pb2.StatusRequest(call=cni_pb2.Call(config=daemon.CONFIG)), timeout=10,
                                            wait_for_ready=True)

    await node.daemon.ready()
    await asked()
    node.programs.hold = asyncio.Event()
    await node.stop()
    await node.start()
    with pytest.raises(Unavailable, match=r"no pod can be attached yet: .*policy stream: no program yet"):
        await asked()
    node.programs.hold.set()
    await node.daemon.ready()
    await asked()


async def test_status_tells_of_policy_that_is_not_followed_any_more(tmp_path: Path) -> None:
    """Not at once: a policy service that is started anew is back before that."""
    (tmp_path / "run").mkdir(mode=0o700)

    async def asked(running: Daemon) -> None:
        with rpc.translated("node"):
            await running.plugin.Status(cni_pb2.StatusRequest(call=cni_pb2.Call(config=daemon.CONFIG)), timeout=10)

    with namespace("host") as host:
        async with daemon.policy_service(tmp_path / "run"):
            running = await daemon.spawn(host, tmp_path / "run")
            await running.ready()
        try:
            problem: MuslinError | None = None
            async with asyncio.timeout(PATIENCE):
                while problem is None:
                    try:
                        await asked(running)
                    except MuslinError as failure:
                        problem = failure
                    await asyncio.sleep(0.1)
        finally:
            await running.stop()
    assert isinstance(problem, FailedPrecondition)
    assert "may not be in force: policy stream: no stream from the policy service" in problem.message
