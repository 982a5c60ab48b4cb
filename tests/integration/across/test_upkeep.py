"""The ways between nodes in bad times: daemons killed, nodes gone, others that meddle, and packets that are lies."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from muslin import netns
from muslin.api.endpoint.v1 import endpoint_pb2
from services.node.across.plan import mac_of
from tests.integration.node.world import listening, reaches
from tests.support.fabric import Cluster, Pod, links, until
from tests.support.netns import command, namespace

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="package")]

PORT = 7000
VXLAN = 4789


async def reached(source: Pod, target: Pod, port: int = PORT) -> None:
    def there() -> bool:
        try:
            return reaches(source.netns, target.v4, port, timeout=1.0)
        except OSError:
            return False  # the way is taken away still

    await until(lambda: asyncio.to_thread(there), "it is not reached")


class Flow:
    """A datagram every few milliseconds, and which of them arrived."""

    def __init__(self, source: Pod, target: Pod) -> None:
        self.sent = 0
        self.seen: set[int] = set()
        self._stopped = threading.Event()
        self._server = netns.open_socket(target.netns, socket.AF_INET, socket.SOCK_DGRAM)
        self._server.bind((target.v4, PORT + 1))
        self._server.settimeout(0.5)
        self._client = netns.open_socket(source.netns, socket.AF_INET, socket.SOCK_DGRAM)
        self._client.connect((target.v4, PORT + 1))
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]

    def _send(self) -> None:
        while not self._stopped.is_set():
            self._client.send(struct.pack("I", self.sent))
            self.sent += 1
            time.sleep(0.005)

    def _receive(self) -> None:
        while True:
            try:
                self.seen.add(struct.unpack("I", self._server.recv(16))[0])
            except TimeoutError:
                if self._stopped.is_set():
                    return

    def __enter__(self) -> Flow:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._server.close()
        self._client.close()

    async def goes_on(self) -> None:
        """Wait until something more has arrived."""
        before = len(self.seen)
        await until(lambda: len(self.seen) > before + 10, "nothing arrives")

    @property
    def lost(self) -> list[int]:
        """Which, by their number; the last may be under way."""
        return sorted(set(range(self.sent)) - self.seen)


@pytest.mark.parametrize("mode", ["none", "vxlan"])
async def test_a_daemon_that_is_killed_costs_no_packet(up: Cluster, mode: str) -> None:
    """On either side; and what changed meanwhile is right soon after it is there again."""
    await up.set_pool("default", encapsulation=mode)
    one, two = await up.add("n1", "f1"), await up.add("n2", "f2")
    node, device = up.nodes["n1"], "vxlan.muslin" if mode == "vxlan" else "eth0"
    for here, there in (("n1", "198.18.2.2"), ("n2", "198.18.2.1")):  # packets may get lost while modes change
        await until(lambda: f"via {there} dev {device}" in up.nodes[here].ways().values(), "not in force")  # noqa: B023
    with listening(two.netns, PORT):
        await reached(one, two)
    with Flow(one, two) as flow:
        await flow.goes_on()
        await node.stop(signal.SIGKILL)
        before = node.ways()
        await flow.goes_on()
        assert node.ways() == before
        # A route of a block that is no more, and one that is missing: what changes while nobody looks.
        node.run("ip", "route", "add", "blackhole", "10.99.0.0/26", "proto", "109", "metric", "2048")
        far = await up.add("n3", "newcomer")
        await node.start()
        await until(lambda: "10.99.0.0/26" not in node.ways(), "the stray route stays")
        await flow.goes_on()
        await up.nodes["n2"].stop()
        await flow.goes_on()
        await up.nodes["n2"].start()
        await flow.goes_on()
    assert flow.sent > 50
    assert flow.lost == []
    for pod in (one, two, far):
        await up.delete(pod)


async def test_a_stopped_daemon_is_no_dead_node(up: Cluster) -> None:
    """Its pods run, and its kernel answers: longer than it takes to count as absent, the ways stay as they are."""
    await up.set_pool("default", encapsulation="none")
    pod = await up.add("n2", "lives")
    await until(lambda: "via 198.18.2.2 dev eth0" in up.nodes["n1"].ways().values(), "there is no way")
    await up.nodes["n2"].stop()
    hosts = up.endpoint.WatchHosts(endpoint_pb2.WatchHostsRequest(), timeout=60)
    async for message in hosts:
        if any(host.node == "n2" and not host.present for host in message.hosts):
            break
    else:
        raise AssertionError("it counts as present")
    hosts.cancel()
    # As long again and the time for its answers: then it would be gone.
    end = time.monotonic() + 6
    while time.monotonic() < end:
        assert "unreachable" not in up.nodes["n1"].ways().values()
        await asyncio.sleep(0.2)
    await up.nodes["n2"].start()
    await up.delete(pod)


async def test_the_ways_to_a_dead_node_are_taken_away(up: Cluster) -> None:
    """Whoever calls its pods learns so at once, and nothing leaves by the default route."""
    await up.set_pool("default", encapsulation="vxlan")
    pod, caller = await up.add("n3", "dies"), await up.add("n1", "caller")
    node = up.nodes["n3"]
    await until(lambda: any("vxlan" in way for way in up.nodes["n1"].ways().values()), "there is no way")
    await node.stop(signal.SIGKILL)
    command(up.fabric.router, "ip", "link", "set", "p-n3", "down")
    await until(lambda: "unreachable" in up.nodes["n1"].ways().values(), "the way to the dead node stays", 60)
    assert "198.51.100.3" not in up.nodes["n1"].run("bridge", "fdb", "show", "dev", "vxlan.muslin")
    assert "node n3" in "\n".join((await up.nodes["n1"].status()).problems)
    with netns.open_socket(caller.netns, socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        with pytest.raises(OSError, match="No route to host"):
            client.connect((pod.v4, PORT))
    command(up.fabric.router, "ip", "link", "set", "p-n3", "up")
    await node.start()
    with listening(pod.netns, PORT):
        await reached(caller, pod)
    for each in (pod, caller):
        await up.delete(each)


async def test_a_node_that_is_forgotten_has_no_ways(up: Cluster) -> None:
    """`DeleteNodes` is at once; a node that lives says so again."""
    await up.set_pool("default", encapsulation="none")
    pod = await up.add("n2", "forgotten")
    await until(lambda: "via 198.18.2.2 dev eth0" in up.nodes["n1"].ways().values(), "there is no way")
    await up.nodes["n2"].stop()
    await up.endpoint.DeleteNodes(endpoint_pb2.DeleteNodesRequest(names=["n2"]), timeout=10)
    await until(lambda: "via 198.18.2.2 dev eth0" not in up.nodes["n1"].ways().values(), "the way stays")
    await up.nodes["n2"].start()
    await until(lambda: "via 198.18.2.2 dev eth0" in up.nodes["n1"].ways().values(), "the way does not come back")
    await up.delete(pod)


async def test_what_others_change_is_undone(up: Cluster) -> None:
    """Routes, VXLAN's entries, the device and the table; and what was added in our name goes."""
    await up.set_pool("default", encapsulation="vxlan")
    one, two = await up.add("n1", "d1"), await up.add("n2", "d2")
    node = up.nodes["n1"]
    with listening(two.netns, PORT):
        await reached(one, two)

        def remotes() -> set[str]:
            return set(node.run("bridge", "fdb", "show", "dev", "vxlan.muslin", check=False).splitlines())

        routes, fdb = node.ways(), remotes()

        def as_before() -> bool:
            return (node.ways(), remotes()) == (routes, fdb) and "VXLAN from" in node.run("nft", "list", "ruleset")

        assert as_before()
        mac = mac_of("n2")
        for damage in (
                # Some at once, as long as one does not hide another.
                ["ip route flush proto 109", f"bridge fdb del {mac} dev vxlan.muslin dst 198.18.2.2",
                 "ip neigh flush nud permanent dev vxlan.muslin", "nft delete table inet muslin-nodes",
                 "ip route add blackhole 10.98.0.0/26 proto 109 metric 2048"],
                ["ip link set vxlan.muslin down", "nft flush chain inet muslin-nodes tunnel",
                 "bridge fdb add 02:00:00:00:00:99 dev vxlan.muslin dst 198.18.2.99"],
                ["ip link del vxlan.muslin"]):
            for line in damage:
                node.run(*line.split())
            await until(as_before, f"not undone: {damage}: {node.ways()} {routes}")
            await reached(one, two)
    for pod in (one, two):
        await up.delete(pod)


@contextmanager
def stranger(up: Cluster) -> Iterator[str]:
    """A host on the nodes' link that is no node; the name of its namespace."""
    with namespace("stranger") as path:
        command(up.fabric.router, "ip", "link", "add", "p-s", "type", "veth", "peer", "eth0", "netns", path.name)
        command(up.fabric.router, "ip", "link", "set", "p-s", "master", "lan", "up")
        command(path, "ip", "address", "add", "198.18.2.66/24", "dev", "eth0")
        command(path, "ip", "link", "set", "eth0", "up")
        yield path.name


def vxlan_packet(source: str, target: str, mac: str, vni: int = 4096) -> bytes:
    """A datagram to a pod, in VXLAN."""
    payload = b"forged"
    udp = struct.pack(">HHHH", 9, PORT, 8 + len(payload), 0) + payload
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source),
                         socket.inet_aton(target))
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
    frame = bytes.fromhex(mac.replace(":", "")) + b"\2\0\0\0\0\1" + b"\x08\0" + header + udp
    return struct.pack(">II", 0x08000000, vni << 8) + frame


async def test_vxlan_is_taken_from_nodes_only(up: Cluster) -> None:
    """Not from a stranger on the link, and not from a pod, whose packets would leave with its node's own address."""
    await up.set_pool("default", encapsulation="vxlan")
    friend, target = await up.add("n1", "friend"), await up.add("n2", "victim")
    with listening(target.netns, PORT + 1):
        await reached(friend, target, PORT + 1)
    packet = vxlan_packet(friend.v4, target.v4, mac_of("n2"))
    with netns.open_socket(target.netns, socket.AF_INET, socket.SOCK_DGRAM) as server, stranger(up) as name:
        server.bind((target.v4, PORT))
        server.settimeout(0.5)
        places = {"stranger": netns.path_of(name), "pod": friend.netns, "node": up.nodes["n1"].netns}
        for place, let_in in (("stranger", False), ("pod", False), ("node", True)):
            with netns.open_socket(places[place], socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(packet, ("198.18.2.2", VXLAN))
            try:
                server.recv(64)
            except TimeoutError:
                assert not let_in, f"from a {place} nothing arrives; the test can not tell"
            else:
                assert let_in, f"what a {place} forged arrives"
    for pod in (friend, target):
        await up.delete(pod)


async def test_a_pods_address_comes_from_where_the_pod_is(up: Cluster) -> None:
    """A stranger that sends with a pod's source is dropped where that pod is elsewhere: here, in VXLAN."""
    await up.set_pool("default", encapsulation="vxlan")
    friend, target = await up.add("n1", "real"), await up.add("n2", "aim")
    with listening(target.netns, PORT + 1):
        await reached(friend, target, PORT + 1)
    with netns.open_socket(target.netns, socket.AF_INET, socket.SOCK_DGRAM) as server, stranger(up) as name:
        path = netns.path_of(name)
        command(path, "ip", "address", "add", f"{friend.v4}/32", "dev", "lo")
        command(path, "ip", "route", "add", f"{target.v4}/32", "via", "198.18.2.2")
        server.bind((target.v4, PORT))
        server.settimeout(0.5)
        for place, let_in in ((path, False), (friend.netns, True)):
            with netns.open_socket(place, socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((friend.v4, 0))
                client.sendto(b"?", (target.v4, PORT))
            try:
                server.recv(64)
            except TimeoutError:
                assert not let_in
            else:
                assert let_in, "a packet with a pod's source came from elsewhere"
    for pod in (friend, target):
        await up.delete(pod)


async def test_cleaning_up_leaves_nothing(up: Cluster) -> None:
    """And whoever starts again makes it anew."""
    await up.set_pool("default", encapsulation="vxlan")
    node = up.nodes["n1"]
    assert node.run("cat", "/proc/sys/net/ipv4/conf/eth0/forwarding") == "1\n"
    await node.stop()
    done = await asyncio.create_subprocess_exec("nsenter", f"--net={node.netns}", sys.executable, "-m",
                                                "services.node.cleanup", stdout=asyncio.subprocess.PIPE)
    output, _ = await done.communicate()
    assert done.returncode == 0
    assert b"vxlan.muslin" in output
    assert not node.ways() | node.ways(6)
    assert "vxlan.muslin" not in links(node.netns)
    assert "muslin" not in node.run("nft", "list", "tables")
    assert node.run("cat", "/proc/sys/net/ipv4/conf/eth0/forwarding") == "0\n"
    await node.start()
    await until(lambda: "vxlan.muslin" in links(node.netns), "nothing is made anew")
