"""Pods of three nodes reach each other by real packets: over the link, in VXLAN, and whoever holds which address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from muslin import netns, rpc
from muslin.api.ipam.v1 import ipam_pb2
from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from tests.integration.node.world import family_of, listening, reaches
from tests.support.fabric import NODES, OUTSIDE, Cluster, Pod, links, listing, until
from tests.support.netns import command

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="package")]

PORT = 7000
OPEN = policy_pb2.Object(kind="GlobalNetworkPolicy", name="open", manifest=b'''{"apiVersion": "projectcalico.org/v3",
    "kind": "GlobalNetworkPolicy", "metadata": {"name": "open"}, "spec": {"ingress": [{"action": "Allow"}],
    "egress": [{"action": "Allow"}]}}''')
"""Pods of a network that Kubernetes has nothing to do with let in nobody but each other otherwise."""
PATIENCE = 3.0


def connects(source: Pod, address: str, timeout: float = PATIENCE) -> bool:
    try:
        return reaches(source.netns, address, PORT, timeout=timeout)
    except OSError:
        return False  # there is no way, and it was said


def connects_from(place: Path, address: str) -> bool:
    try:
        return reaches(place, address, PORT, timeout=1.0)
    except OSError:
        return False  # as above


async def reached(source: Pod, target: Pod) -> None:
    """Wait until both families get there: what was assigned a moment ago is known elsewhere a moment later."""
    for address in target.addresses:
        await until(lambda: asyncio.to_thread(connects, source, address, 1.0), f"{source} does not reach {address}")  # noqa: B023


def seen_source(target: Pod | str, source: Pod, address: str, up: Cluster) -> str:
    """The source address that a datagram to `address` arrives with."""
    where = up.fabric.outside if isinstance(target, str) else target.netns
    with (netns.open_socket(where, family_of(address), socket.SOCK_DGRAM) as server,
          netns.open_socket(source.netns, family_of(address), socket.SOCK_DGRAM) as client):
        server.bind((address, 0))
        server.settimeout(PATIENCE)
        client.sendto(b"?", (address, server.getsockname()[1]))
        return str(server.recvfrom(16)[1][0])


def tunnelled(up: Cluster, node: str) -> set[str]:
    """Nodes that VXLAN of a node goes to, by their address."""
    name = "vxlan.muslin"
    if name not in links(up.nodes[node].netns):
        return set()
    lines = up.nodes[node].run("bridge", "fdb", "show", "dev", name).splitlines()
    return {words[words.index("dst") + 1] for words in map(str.split, lines)}


async def test_pods_of_all_nodes_reach_each_other(up: Cluster) -> None:
    """Each mode in turn, both families, and whoever answers sees the pod's own address."""
    pods = [await up.add(node, f"{node}-a", ipv6=True) for node in NODES]
    sockets = [listening(pod.netns, PORT, ipv6=True) for pod in pods]
    try:
        for mode, vxlan in (("cross-subnet", {"n1": {"198.51.100.3"}, "n3": {"198.18.2.1", "198.18.2.2"}}),
                            ("vxlan", {"n1": {"198.18.2.2", "198.51.100.3"}, "n3": {"198.18.2.1", "198.18.2.2"}})):
            for pool in ("default", "six"):
                await up.set_pool(pool, encapsulation=mode)
            for node, remotes in vxlan.items():
                await until(lambda: tunnelled(up, node) == remotes,  # noqa: B023
                            f"{mode}: {node}: {listing(up.nodes[node].netns)}")
            for source in pods:
                for target in pods:
                    if source is not target:
                        await reached(source, target)
                        for address, own in zip(target.addresses, source.addresses, strict=True):
                            assert seen_source(target, source, address, up) == own
        # Over the link alone: the third, behind a router that knows no pods, is out of reach, and nothing else.
        for pool in ("default", "six"):
            await up.set_pool(pool, encapsulation="none")
        await until(lambda: "vxlan.muslin" not in links(up.nodes["n1"].netns), "VXLAN is there still")
        await reached(pods[0], pods[1])
        await reached(pods[1], pods[0])
        assert not connects(pods[0], pods[2].v4, 0.3)
        problems = "\n".join((await up.nodes["n1"].status()).problems)
        assert "node n3" in problems
        assert "cross-subnet" in problems
    finally:
        for each in sockets:
            each.close()
        for pod in pods:
            await up.delete(pod)


@pytest.mark.parametrize("mode", ["cross-subnet", "vxlan"])
async def test_hosts_and_pods_of_other_nodes_reach_each_other_in_vxlan(up: Cluster, mode: str) -> None:
    """Both ways go in VXLAN: what joins nodes need not carry a packet with a pod's address."""
    channel = rpc.channel(up.services["policy"].target)
    policies: policy_pb2_grpc.PoliciesAsyncStub = policy_pb2_grpc.PoliciesStub(channel)
    await policies.Apply(policy_pb2.ApplyRequest(objects=[OPEN]), timeout=20)
    pods = [await up.add(node, f"{node}-h", ipv6=True) for node in NODES]
    for pool in ("default", "six"):
        await up.set_pool(pool, encapsulation=mode)
    far = [(pod, node) for pod in pods for node in NODES
           if node != pod.node and (mode == "vxlan" or "n3" in (node, pod.node))]
    with ExitStack() as sockets:
        for pod in pods:
            sockets.enter_context(listening(pod.netns, PORT, ipv6=True))
        for node in up.nodes.values():
            sockets.enter_context(listening(node.netns, PORT, ipv6=True))
        # Nothing but VXLAN, and what finds neighbours, passes between nodes.
        neighbours = ("ether type arp", "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }")
        for table, more in (("bridge strict", neighbours), ("inet strict", ())):
            command(up.fabric.router, "nft", "; ".join((
                f"add table {table}",
                f"add chain {table} passed {{ type filter hook forward priority 0; policy drop; }}",
                *(f"add rule {table} passed {match} accept" for match in ("udp dport 4789", *more)))))
        try:
            for pod, name in far:
                place = up.nodes[name].netns
                for address, host in zip(sorted(pod.addresses, key=family_of), NODES[name][1:], strict=True):
                    await until(lambda: asyncio.to_thread(connects_from, place, address),  # noqa: B023
                                f"{name} does not reach {pod}: {listing(place)}")
                    await until(lambda: asyncio.to_thread(connects, pod, host, 1.0),  # noqa: B023
                                f"{pod} does not reach {name}: {listing(up.nodes[pod.node].netns)}")
        finally:
            command(up.fabric.router, "nft", "delete table bridge strict; delete table inet strict")
    for pool in ("default", "six"):
        await up.set_pool(pool, encapsulation="none")
    await until(lambda: all("109" not in node.run("ip", "rule") and "vxlan.muslin" not in links(node.netns)
                            for node in up.nodes.values()), "rules stay")
    for pod in pods:
        await up.delete(pod)
    await policies.Delete(policy_pb2.DeleteRequest(objects=[policy_pb2.ObjectRef(kind=OPEN.kind, name=OPEN.name)]),
                          timeout=20)
    await channel.close()


async def test_an_address_that_nobody_has_does_not_come_back(up: Cluster) -> None:
    """The default route would send it to the router, whose own route may lead here again."""
    pod = await up.add("n1", "lone")
    block = next(block.cidr for block in (await up.ipam.ListBlocks(ipam_pb2.ListBlocksRequest(), timeout=10)).blocks
                 if block.node == "n1" and ":" not in block.cidr)
    await until(lambda: up.nodes["n1"].ways().get(block) == "blackhole", "there is no blackhole")
    assert "via" not in up.nodes["n1"].run("ip", "route", "get", str(ipaddress.ip_network(block)[-1]), check=False)
    await until(lambda: block in up.nodes["n2"].ways(), "n2 has no way")
    assert up.nodes["n2"].ways()[block] == "via 198.18.2.1 dev eth0"
    await up.delete(pod)


async def test_a_borrowed_address_is_reached_where_its_pod_is(up: Cluster) -> None:
    """Two blocks of two addresses: the third pod of a node has an address of the other's block."""
    async with up.pool("small", "10.10.0.0/30", block_size=31, cool_down_seconds=0):
        chosen: dict[str, Any] = {"ipam": {"type": "calico-ipam", "ipv4_pools": ["small"]}}
        one = await up.add("n2", "b1", **chosen)
        others = [await up.add("n1", f"b{number}", **chosen) for number in (2, 3, 4)]
        watcher = await up.add("n3", "watcher")
        blocks = {block.cidr: block.node for block in
                  (await up.ipam.ListBlocks(ipam_pb2.ListBlocksRequest(), timeout=10)).blocks if block.pool == "small"}
        assert sorted(blocks.values()) == ["n1", "n2"]
        await up.set_pool("small", encapsulation="cross-subnet")
        await up.set_pool("default", encapsulation="cross-subnet")
        with listening(one.netns, PORT):
            sockets = [listening(pod.netns, PORT) for pod in others]
            for pod in others:
                await reached(one, pod)
                await reached(pod, one)
                await reached(watcher, pod)
            theirs = ipaddress.ip_network(next(cidr for cidr, node in blocks.items() if node == "n2"))
            borrowed, = (pod.v4 for pod in others if ipaddress.ip_address(pod.v4) in theirs)
            assert up.nodes["n2"].ways()[f"{borrowed}/32"] == "via 198.18.2.1 dev eth0"
            for each in sockets:
                each.close()
        # Once it is given back it is nobody's: the route goes, and its block leads to its own node again.
        await up.delete(next(pod for pod in others if pod.v4 == borrowed))
        await until(lambda: f"{borrowed}/32" not in up.nodes["n2"].ways() | up.nodes["n3"].ways(), "the route stays")
        for pod in [one, watcher, *(pod for pod in others if pod.v4 != borrowed)]:
            await up.delete(pod)


async def test_blocks_are_followed_when_they_change_hands(up: Cluster) -> None:
    """A block whose node gives it up, and which another claims, is there at once."""
    async with up.pool("one", "10.11.0.0/31", block_size=31, cool_down_seconds=0):
        chosen: dict[str, Any] = {"ipam": {"type": "calico-ipam", "ipv4_pools": ["one"]}}
        pod = await up.add("n1", "first", **chosen)
        await until(lambda: up.nodes["n2"].ways().get("10.11.0.0/31") == "via 198.18.2.1 dev eth0", "n2 does not know")
        # What the pod holds stays with it, though its block is nobody's.
        await up.ipam.ReleaseAffinity(ipam_pb2.ReleaseAffinityRequest(node="n1"), timeout=10)
        await until(lambda: up.nodes["n2"].ways().get(f"{pod.v4}/32") == "via 198.18.2.1 dev eth0"
                    and "10.11.0.0/31" not in up.nodes["n2"].ways(), "n2 does not follow")
        await up.delete(pod)
        other = await up.add("n2", "second", **chosen)
        await until(lambda: up.nodes["n1"].ways().get("10.11.0.0/31") == "via 198.18.2.2 dev eth0"
                    and up.nodes["n2"].ways().get("10.11.0.0/31") == "blackhole", "n1 does not follow")
        await up.delete(other)


async def test_the_size_of_packets_leaves_room_for_vxlan(up: Cluster) -> None:
    """A pod's largest packets go through whole, and its interface allows none that would not."""
    await up.set_pool("default", encapsulation="vxlan")
    await until(lambda: all("vxlan.muslin" in links(node.netns) for node in up.nodes.values()), "there is no VXLAN")
    one, two = await up.add("n1", "big1"), await up.add("n3", "big2")
    assert links(one.netns)["eth0"]["mtu"] == links(two.netns)["eth0"]["mtu"] == 1450
    assert links(up.nodes["n1"].netns)["vxlan.muslin"]["mtu"] == 1450
    with listening(two.netns, PORT):
        await reached(one, two)
    with (netns.open_socket(two.netns, socket.AF_INET, socket.SOCK_DGRAM) as server,
          netns.open_socket(one.netns, socket.AF_INET, socket.SOCK_DGRAM) as client):
        server.bind((two.v4, PORT))
        server.settimeout(PATIENCE)
        client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: never in pieces
        client.sendto(bytes(1450 - 28), (two.v4, PORT))
        assert len(server.recv(2000)) == 1450 - 28
        with pytest.raises(OSError, match="too long"):
            client.sendto(bytes(1450 - 27), (two.v4, PORT))
    for pod in (one, two):
        await up.delete(pod)


async def test_policy_judges_what_comes_from_other_nodes(up: Cluster) -> None:
    """Pods of another network are not let in, in whatever way they come."""
    target = await up.add("n2", "target")
    friends = [await up.add(node, f"friend-{node}") for node in ("n1", "n3")]
    strangers = [await up.add(node, f"stranger-{node}", network="other") for node in ("n1", "n3")]
    with listening(target.netns, PORT):
        for mode in ("cross-subnet", "vxlan"):
            await up.set_pool("default", encapsulation=mode)
            for friend in friends:
                await reached(friend, target)
            for stranger in strangers:
                assert not connects(stranger, target.v4, 0.3)
    for pod in [target, *friends, *strangers]:
        await up.delete(pod)


async def test_what_leaves_the_pools_has_the_nodes_address(up: Cluster) -> None:
    """The host outside knows no pods: without masquerade its answer would get lost."""
    pods = [await up.add(node, f"out-{node}", ipv6=True) for node in ("n1", "n3")]
    for pod in pods:
        _, v4, v6 = NODES[pod.node]
        assert seen_source("outside", pod, OUTSIDE[0], up) == v4
        assert seen_source("outside", pod, OUTSIDE[1], up) == v6
        assert seen_source("outside", pod, OUTSIDE[0], up) != pod.v4
    with listening(up.fabric.outside, PORT, ipv6=True):
        assert connects(pods[0], OUTSIDE[0])
        assert connects(pods[0], OUTSIDE[1])
    await up.set_pool("default", masquerade=False)
    pod = pods[0]
    await until(lambda: seen_source("outside", pod, OUTSIDE[0], up) == pod.v4, "it is masqueraded still")
    await up.set_pool("default", masquerade=True)
    for each in pods:
        await up.delete(each)


async def test_others_are_told_of_a_node_that_moves(up: Cluster) -> None:
    """Its address is the source of its default route, whatever that is now."""
    pod = await up.add("n2", "mover")
    await up.set_pool("default", encapsulation="none")
    node = up.nodes["n2"]
    command(node.netns, "ip", "address", "add", "198.18.2.77/24", "dev", "eth0")
    command(node.netns, "ip", "route", "replace", "default", "via", "198.18.2.254", "src", "198.18.2.77")
    await until(lambda: "via 198.18.2.77 dev eth0" in up.nodes["n1"].ways().values(), "n1 does not follow")
    command(node.netns, "ip", "route", "replace", "default", "via", "198.18.2.254")
    await until(lambda: "via 198.18.2.2 dev eth0" in up.nodes["n1"].ways().values(), "n1 does not follow back")
    command(node.netns, "ip", "address", "del", "198.18.2.77/24", "dev", "eth0")
    await up.delete(pod)
