"""The daemon as it runs: ADD and DEL over its socket, restarts, crashes, strangers in its table."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from muslin import netns
from muslin.api.cni.v1 import cni_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.cni.result import IPConfig, Route
from muslin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, TimedOut
from services.node.netlink import links
from services.node.netlink.attributes import be32, text
from services.node.netlink.connection import Connection
from services.node.nft import messages
from services.node.nft.connection import Nftables
from tests.integration.node import daemon
from tests.integration.node.daemon import Daemon, Programs, allow_all, call, endpoint
from tests.integration.node.world import reaches
from tests.support.netns import command, namespace, namespaces

pytestmark = pytest.mark.root


@dataclass
class Node:
    """A host namespace, a policy service and the daemon between them."""

    host: Path
    run: Path
    programs: Programs
    daemon: Daemon
    logs: str = ""
    refusals: bool = False
    """Whether the test makes the kernel refuse something."""

    def links(self) -> set[str]:
        with Connection(self.host) as connection:
            return {link.name for link in links.listing(connection, "veth")}

    def table(self) -> str:
        return command(self.host, "nft", "list", "table", "inet", "muslin")

    async def restart(self, number: int = signal.SIGTERM) -> None:
        self.logs += await self.daemon.stop(number)
        self.daemon = await daemon.spawn(self.host, self.run)


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
                made.logs += await made.daemon.stop()
            assert "Traceback" not in made.logs
            assert ("the kernel refused" in made.logs) == made.refusals


def program(*containers: tuple[str, str, str], revision: int = 1, snapshot: bool = True,
            ) -> policy_pb2.SubscribeResponse:
    return policy_pb2.SubscribeResponse(revision=revision, snapshot=snapshot, policies=[allow_all()],
                                        endpoints=[endpoint(*container) for container in containers])


async def until(condition: Callable[[], bool], seconds: float = daemon.SECONDS) -> None:
    """The kernel's state, of which there is no event here."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  as above
            await asyncio.sleep(0.01)


A, B = ("a", "10.0.0.1", "musa"), ("b", "10.0.0.2", "musb")


async def test_add_and_del(node: Node) -> None:
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two):
        result = await node.daemon.add(call("a", one, "10.0.0.1", "musa", mtu=1400))
        assert [(i.name, i.mac, i.mtu, i.sandbox) for i in result.interfaces] == [
            ("musa", "ee:ee:ee:ee:ee:ee", 1400, ""), ("eth0", "02:00:00:00:00:07", 1400, str(one))]
        assert result.ips == (IPConfig("10.0.0.1/32", interface=1),)
        assert result.routes == (Route("0.0.0.0/0", "169.254.1.1"),)
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        assert reaches(one, "10.0.0.2", 80), "refused by the pod, so it arrived there"
        status = await node.daemon.status()
        assert (status.node, status.enforced_revision) == ("n1", 1)
        assert [a.container_id for a in status.attachments] == ["a", "b"]
        assert node.programs.nodes == ["n1"]
        for _ in range(2):
            await node.daemon.delete(call("a", "", "10.0.0.1", "musa"))
            assert node.links() == {"musb"}
            assert "musa" not in node.table()
        netns.delete(two.name)
        await node.daemon.delete(call("b", two, "10.0.0.2", "musb"))
        assert node.links() == set()
        assert "jump" not in node.table().split("chain", 1)[0], "no element is left in a map"


async def test_add_waits_for_exactly_its_policy(node: Node) -> None:
    """Not for another's, nor for its own with an earlier address."""
    with namespace("pod") as pod:
        adding = asyncio.ensure_future(node.daemon.add(call("a", pod, "10.0.0.1", "musa")))
        await node.programs.until(1)
        for revision, each in ((2, B), (3, ("a", "10.0.0.9", "musa")), (4, ("a", "10.0.0.1", "musz"))):
            node.programs.send(program(each, revision=revision, snapshot=False))
            await node.programs.until(revision)
            await node.daemon.status()
            assert not adding.done()
        node.programs.send(program(A, revision=5, snapshot=False))
        await adding
        assert '"musa" comment "test/a" : jump' in node.table()


async def test_add_without_policy_fails_in_time_and_leaves_nothing(node: Node) -> None:
    node.programs.snapshot = program(B)
    with namespace("pod") as pod, Connection(pod) as inside:
        said = await node.daemon.too_late(call("a", pod, "10.0.0.1", "musa"), timeout=2)
        assert "net/a/eth0 was not in the kernel" in said
        assert "has sent no program for it" in said
        assert node.links() == set()
        assert links.get(inside, "eth0") is None
        assert not (await node.daemon.status()).attachments
        node.programs.send(program(A, revision=2, snapshot=False))
        await node.daemon.add(call("a", pod, "10.0.0.1", "musa"))


async def test_add_without_a_policy_service_fails_in_time(tmp_path: Path) -> None:
    """And wires nothing: the table could be an earlier run's."""
    (tmp_path / "run").mkdir(mode=0o700)
    with namespace("host") as host, namespace("pod") as pod:
        running = await daemon.spawn(host, tmp_path / "run")
        try:
            assert "no program has come" in await running.too_late(call("a", pod, "10.0.0.1", "musa"), timeout=3)
            with Connection(host) as connection:
                assert links.listing(connection, "veth") == []
            assert "drop" in command(host, "nft", "list", "table", "inet", "muslin"), "unknown pods are dropped already"
            parts = {part.name: part for part in (await running.status()).parts}
            assert not parts["policy stream"].ready
            assert parts["policy stream"].message
        finally:
            await running.stop()


async def test_a_caller_that_goes_away_leaves_nothing(node: Node) -> None:
    with namespace("pod") as pod:
        adding = asyncio.ensure_future(node.daemon.add(call("a", pod, "10.0.0.1", "musa")))
        await until(lambda: node.links() == {"musa"})
        adding.cancel()
        await until(lambda: node.links() == set())
        node.programs.send(program(A, revision=2, snapshot=False))
        await node.daemon.add(call("a", pod, "10.0.0.1", "musa"))


async def test_an_interface_that_exists_is_an_error_and_stays(node: Node) -> None:
    """Also for the attachment that has it; its rules stay too."""
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two):
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        with pytest.raises(AlreadyExists, match="eth0"):
            await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        assert reaches(one, "10.0.0.2", 80)
        with pytest.raises(InvalidArgument, match="CNI_NETNS"):
            await node.daemon.add(call("a", "/run/netns/nowhere", "10.0.0.1", "musa"))
        assert reaches(one, "10.0.0.2", 80)
        assert len((await node.daemon.status()).attachments) == 2


async def test_the_pods_next_container_takes_over_and_the_late_del_spares_it(node: Node) -> None:
    node.programs.snapshot = program(A, ("a2", "10.0.0.1", "musa"), B)
    with namespaces(3, "pod") as (old, new, other):
        await node.daemon.add(call("b", other, "10.0.0.2", "musb"))
        await node.daemon.add(call("a", old, "10.0.0.1", "musa"))
        await node.daemon.add(call("a2", new, "10.0.0.1", "musa"))
        await node.daemon.delete(call("a", old, "10.0.0.1", "musa"))
        assert reaches(new, "10.0.0.2", 80)
        assert [a.container_id for a in (await node.daemon.status()).attachments] == ["a2", "b"]
        await node.daemon.delete(call("a2", new, "10.0.0.1", "musa"))
        assert node.links() == {"musb"}


async def test_forty_at_once(node: Node) -> None:
    """Adds and dels of many pods together."""
    containers = [(f"c{n}", f"10.0.0.{n}", f"mus{n}") for n in range(1, 41)]
    node.programs.snapshot = program(*containers)
    with namespaces(40, "pod") as pods:
        calls = [call(name, pod, address, interface)
                 for pod, (name, address, interface) in zip(pods, containers, strict=True)]
        await asyncio.gather(*(node.daemon.add(each, timeout=20) for each in calls))
        assert len(node.links()) == 40
        assert reaches(pods[0], "10.0.0.40", 80)
        await asyncio.gather(*(node.daemon.delete(each, timeout=20) for each in calls))
        assert node.links() == set()


async def test_add_and_del_of_one_attachment_at_once_leave_all_or_nothing(node: Node) -> None:
    """They run one after the other, in the order they came."""
    node.programs.snapshot = program(A)
    await node.daemon.ready()
    with namespace("pod") as pod:
        mine = call("a", pod, "10.0.0.1", "musa")
        for _ in range(5):
            await asyncio.gather(node.daemon.add(mine), node.daemon.delete(mine))
            wired = [a.container_id for a in (await node.daemon.status()).attachments]
            assert (wired, node.links()) in ((["a"], {"musa"}), ([], set()))
            await node.daemon.delete(mine)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_cuts_and_opens_nothing(node: Node, number: int) -> None:
    """With the policy service away while it starts, and then back with a smaller program."""
    node.programs.snapshot = program(A, B)
    with namespaces(3, "pod") as (one, two, three):
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        before = node.table()
        node.programs.hold = asyncio.Event()
        await node.restart(number)
        assert [a.container_id for a in (await node.daemon.status()).attachments] == ["a", "b"]
        assert node.table() == before
        assert reaches(one, "10.0.0.2", 80)
        with pytest.raises(TimedOut):
            await node.daemon.add(call("c", three, "10.0.0.3", "musc"), timeout=1)
        assert node.links() == {"musa", "musb"}
        node.programs.snapshot = program(A, revision=7)
        node.programs.hold.set()
        await node.programs.until(7)
        assert '"musa"' in node.table()
        assert '"musb"' not in node.table()
        assert not reaches(one, "10.0.0.2", 80, timeout=0.2), "b is in no program any more, and dropped"
        assert node.links() == {"musa", "musb"}, "but not unwired: only its DEL does that"
        await node.daemon.delete(call("b", two, "10.0.0.2", "musb"))
        await node.daemon.delete(call("a", one, "10.0.0.1", "musa"))
        assert node.links() == set()


async def test_a_table_that_somebody_flushed_comes_back_with_the_next_change(node: Node) -> None:
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two):
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        whole = node.table()
        for damage in ("flush ruleset", "delete element inet muslin to_pod { musb }"):
            command(node.host, "nft", damage)
            node.programs.send(program(revision=2, snapshot=False))
            node.programs.send(policy_pb2.SubscribeResponse(revision=3, removed_endpoints=[
                cni_pb2.Attachment(network="net", container_id="b", ifname="eth0")]))
            node.programs.send(program(B, revision=4, snapshot=False))
            await node.programs.until(4)
            assert sorted(node.table().split()) == sorted(whole.split())
        node.refusals = True


async def test_changes_by_others_are_undone(node: Node) -> None:
    """Without any event: what somebody flushed, emptied or slipped in is put in order within seconds."""
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two):
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))

        def content() -> list[str]:
            return sorted(line for line in node.table().splitlines() if "counter" not in line)

        whole = content()
        for damage in ("flush ruleset", "insert rule inet muslin forward-ingress accept"):
            command(node.host, "nft", damage)
            await until(lambda: "table inet muslin" in command(node.host, "nft", "list", "ruleset")
                        and content() == whole)


async def test_a_table_that_somebody_owns_is_taken_back_when_it_is_free(node: Node) -> None:
    """The kernel refuses everything meanwhile: an ADD fails in time and says why, and succeeds later."""
    node.refusals = True
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two):
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        command(node.host, "nft", "delete", "table", "inet", "muslin")
        with Nftables(node.host) as owner:
            owned = messages.add_table("muslin")
            owner.commit([dataclasses.replace(owned, body=text(1, "muslin") + be32(2, 2))])  # NFT_TABLE_F_OWNER
            with pytest.raises(TimedOut, match="the kernel refuses the program"):
                await node.daemon.add(call("b", two, "10.0.0.2", "musb"), timeout=2)
            assert node.links() == {"musa"}
            parts = {part.name: part for part in (await node.daemon.status()).parts}
            assert not parts["kernel"].ready
            assert "Operation not permitted" in parts["kernel"].message
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        assert reaches(one, "10.0.0.2", 80)


async def test_a_message_that_does_not_fit_gets_a_new_snapshot(node: Node) -> None:
    """The node subscribes anew; what is in force stays in force."""
    node.programs.snapshot = program(A)
    with namespace("pod") as pod:
        await node.daemon.add(call("a", pod, "10.0.0.1", "musa"))
        node.programs.snapshot = program(A, revision=9)
        node.programs.send(policy_pb2.SubscribeResponse(
            revision=2, group_changes=[policy_pb2.GroupChange(id="nowhere", added=["10.0.0.1"])]))
        await node.programs.until(9)
        assert node.programs.nodes == ["n1", "n1"]
        assert (await node.daemon.status()).enforced_revision == 9


async def test_a_network_name_too_long_for_an_alias_is_refused(node: Node) -> None:
    await node.daemon.ready()
    with namespace("pod") as pod:
        mine = call("c" * 64, pod, "10.0.0.1", "musa")
        mine.config = b'{"cniVersion": "1.0.0", "name": "%s", "type": "muslin"}' % (b"n" * 200)
        with pytest.raises(InvalidArgument, match="name"):
            await node.daemon.add(mine)
        assert node.links() == set()


async def test_an_interface_that_would_not_be_dropped_before_its_policy_is_refused(node: Node) -> None:
    node.programs.snapshot = program(("a", "10.0.0.1", "veth1"))
    with namespace("pod") as pod:
        with pytest.raises(FailedPrecondition, match="--interface-prefix"):
            await node.daemon.add(call("a", pod, "10.0.0.1", "veth1"))
        assert node.links() == set()


async def test_without_privileges_it_says_so_and_ends(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        "setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", sys.executable, "-m", "services.node",
        "--listen", f"unix:{tmp_path}/run/muslin.sock", stderr=asyncio.subprocess.PIPE)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert b"can not start: list tables: Operation not permitted" in errors
    assert b"Traceback" not in errors


async def test_cleanup_takes_out_what_is_ours_and_nothing_else(node: Node) -> None:
    node.programs.snapshot = program(A, B)
    with namespaces(2, "pod") as (one, two):
        await node.daemon.add(call("a", one, "10.0.0.1", "musa"))
        await node.daemon.add(call("b", two, "10.0.0.2", "musb"))
        await node.daemon.stop()
        command(node.host, "ip", "link", "add", "musother", "type", "veth", "peer", "name", "far")
        command(node.host, "nft", "add", "table", "inet", "theirs")
        run = (sys.executable, "-m", "services.node.cleanup")
        assert command(node.host, *run, "--prefix", "musa").splitlines() == [
            "removed link musa (muslin:net/a/eth0)", "removed table inet muslin"]
        assert command(node.host, *run).splitlines() == ["removed link musb (muslin:net/b/eth0)"]
        assert command(node.host, *run) == ""
        assert node.links() == {"musother", "far"}
        assert command(node.host, "nft", "list", "tables") == "table inet theirs\n"
