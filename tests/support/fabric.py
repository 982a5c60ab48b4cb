"""Several nodes as namespaces: two on one link, one behind a router, and a host outside that knows no pods.

    n1 --+
         +-- lan (198.18.2.0/24, 2001:db8:2::/64) -- router -- far (198.51.100.0/24, 2001:db8:3::/64) -- n3
    n2 --+                                            |
                                                   outside (203.0.113.0/24, 2001:db8:4::/64)

The services run where the tests do; each node's daemon reaches them over their unix sockets.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.api.node.v1 import node_pb2, node_pb2_grpc
from muslin.cni import result as results
from tests.support.chain import invoke
from tests.support.etcd import EtcdServer
from tests.support.netns import command, namespace
from tests.support.service import Service

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "build/cni/muslin"

_numbers = itertools.count(1)

NODES = {"n1": ("lan", "198.18.2.1", "2001:db8:2::1"), "n2": ("lan", "198.18.2.2", "2001:db8:2::2"),
         "n3": ("far", "198.51.100.3", "2001:db8:3::3")}
"""Segment and addresses of each node."""
OUTSIDE = ("203.0.113.9", "2001:db8:4::9")
ROUTER = {"lan": ("198.18.2.254", "2001:db8:2::fe"), "far": ("198.51.100.254", "2001:db8:3::fe"),
          "out": ("203.0.113.254", "2001:db8:4::fe")}


@dataclass
class Fabric:
    """The namespaces, by name."""

    nodes: dict[str, Path]
    router: Path
    outside: Path


@contextmanager
def fabric() -> Iterator[Fabric]:
    """The network, without any of Muslin's."""
    with ExitStack() as stack:
        made = Fabric({name: stack.enter_context(namespace(name)) for name in NODES},
                      stack.enter_context(namespace("router")), stack.enter_context(namespace("outside")))
        _script(made.router, [
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0",
            *(line for segment, (v4, v6) in ROUTER.items() for line in (
                f"ip link add {segment} type bridge", f"ip link set {segment} up",
                f"ip address add {v4}/24 dev {segment}", f"ip address add {v6}/64 dev {segment} nodad"))])
        for name, (segment, v4, v6) in NODES.items():
            _plug(made.router, segment, made.nodes[name], name, v4, v6)
        _plug(made.router, "out", made.outside, "outside", *OUTSIDE)
        yield made


def _plug(router: Path, segment: str, host: Path, name: str, v4: str, v6: str) -> None:
    """Put a host on a segment of the router's."""
    command(router, "ip", "link", "add", f"p-{name}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
    command(router, "ip", "link", "set", f"p-{name}", "master", segment, "up")
    _script(host, [f"ip address add {v4}/24 dev eth0", f"ip address add {v6}/64 dev eth0 nodad",
                   "ip link set eth0 up", f"ip route add default via {ROUTER[segment][0]}",
                   f"ip -6 route add default via {ROUTER[segment][1]}"])


def _script(path: Path, lines: Sequence[str]) -> None:
    command(path, "sh", "-ec", "\n".join(lines))


@dataclass
class Pod:
    """A pod that was added."""

    name: str
    node: str
    netns: Path
    addresses: tuple[str, ...]
    """IPv4 first."""
    environment: dict[str, str]
    config: dict[str, Any]

    @property
    def v4(self) -> str:
        return next(address for address in self.addresses if ":" not in address)

    @property
    def v6(self) -> str:
        return next(address for address in self.addresses if ":" in address)


@dataclass
class Node:
    """A node and its daemon."""

    name: str
    netns: Path
    directory: Path
    arguments: list[str]
    process: asyncio.subprocess.Process | None = None
    pods: list[Pod] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"unix:{self.directory}/muslin.sock"

    async def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                "nsenter", f"--net={self.netns}", sys.executable, "-m", "services.node", "--node", self.name,
                "--listen", self.target, "--state", str(self.directory / "state"), *self.arguments,
                env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
        await until(self.ready, f"{self.name} is not ready")

    async def ready(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.log()
        try:
            return all(part.ready for part in (await self.status()).parts)
        except grpc.aio.AioRpcError:
            return False

    async def status(self) -> node_pb2.GetStatusResponse:
        async with rpc.channel(self.target) as channel:
            stub: node_pb2_grpc.NodeAsyncStub = node_pb2_grpc.NodeStub(channel)
            return await stub.GetStatus(node_pb2.GetStatusRequest(), timeout=5)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            process.send_signal(number)
            await asyncio.wait_for(process.wait(), 20)

    def log(self) -> str:
        return (self.directory / "log").read_text()[-6000:]

    def run(self, *argv: str, check: bool = True) -> str:
        return command(self.netns, *argv, check=check)

    def ways(self, family: int = 4) -> dict[str, str]:
        """Our routes: what `ip route` says of each destination, without the source that this host's own packets get."""
        lines = self.run("ip", f"-{family}", "route", "show", "proto", "109").splitlines()
        found = {}
        for line in lines:
            words = re.sub(r" src \S+", "", line).split()
            kind = words.pop(0) if words[0] in ("blackhole", "unreachable") else ""
            found[words[0] if "/" in words[0] else f"{words[0]}/{32 if family == 4 else 128}"] = (
                kind or " ".join(words[1:words.index("metric")]))
        return found


class Cluster:
    """Services, and the nodes of a fabric."""

    def __init__(self, made: Fabric, directory: Path, stack: AsyncExitStack) -> None:
        self.fabric, self.directory, self._stack = made, directory, stack
        self.nodes: dict[str, Node] = {}
        self.services: dict[str, Service] = {}

    async def start(self, *, pool: str, nodes: Sequence[str] = tuple(NODES), more: Sequence[str] = ()) -> None:
        """Start everything; `more` are arguments of the nodes."""
        server = self._stack.enter_context(EtcdServer())
        endpoint = Service("endpoint", "--etcd", server.endpoint)
        ipam = Service("ipam", "--etcd", server.endpoint, "--pool", pool, "--endpoint", endpoint.target)
        policy = Service("policy", "--etcd", server.endpoint, "--endpoint", endpoint.target)
        self.services = {"endpoint": endpoint, "ipam": ipam, "policy": policy}
        for service in self.services.values():
            self._stack.callback(service.stop)
            service.launch()
        for service in self.services.values():
            await asyncio.to_thread(service.wait, 40.0)
        targets = [word for name, service in self.services.items() for word in (f"--{name}", service.target)]
        for name in nodes:
            place = self.directory / name
            place.mkdir(mode=0o700)
            self.nodes[name] = Node(name, self.fabric.nodes[name], place, [*targets, *more])
        channel = await self._stack.enter_async_context(rpc.channel(ipam.target))
        self.ipam: ipam_pb2_grpc.IpamAsyncStub = ipam_pb2_grpc.IpamStub(channel)
        channel = await self._stack.enter_async_context(rpc.channel(endpoint.target))
        self.endpoint: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(channel)
        await asyncio.gather(*(node.start() for node in self.nodes.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(node.stop() for node in self.nodes.values()))

    async def add(self, node: str, name: str, *, ipv6: bool = False, network: str = "net", **more: Any) -> Pod:
        """A pod on a node, by the plugin, as a runtime adds it."""
        place, on = self._stack.enter_context(namespace(name)), self.nodes[node]
        ipam = {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": str(ipv6).lower()}
        config = {"cniVersion": "1.0.0", "name": network, "type": "muslin", "ipam": ipam, "muslin": {
            "socket": f"{on.directory}/muslin.sock", "state_dir": f"{on.directory}/state"}, **more}
        environment = {"CNI_CONTAINERID": f"{name}{next(_numbers)}", "CNI_NETNS": str(place), "CNI_IFNAME": "eth0",
                       "CNI_PATH": str(SHIM.parent), "CNI_ARGS": ""}
        done = await invoke(SHIM, "ADD", config, environment, timeout=60)
        assert done.status == 0, (done, on.log())
        addresses = tuple(sorted((ip.address.partition("/")[0] for ip in results.parse(done.stdout).ips),
                                 key=lambda address: ":" in address))
        pod = Pod(name, node, place, addresses, environment, config)
        on.pods.append(pod)
        return pod

    async def delete(self, pod: Pod) -> None:
        done = await invoke(SHIM, "DEL", pod.config, pod.environment, timeout=60)
        assert done.status == 0, done
        self.nodes[pod.node].pods.remove(pod)

    @asynccontextmanager
    async def pool(self, name: str, cidr: str, **fields: Any) -> AsyncIterator[None]:
        """A pool more, while something runs that has deleted its pods when it ends.

        While it is there it serves all pods of its family, as every pool does: no other test can tell then which pool
        a pod's address is of.
        """
        pool = ipam_pb2.Pool(name=name, cidr=cidr, **fields)
        await self.ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=pool), timeout=10)
        yield
        with rpc.translated("delete"):
            await self.ipam.DeletePool(ipam_pb2.DeletePoolRequest(name=name), timeout=10)

    async def set_pool(self, name: str, **fields: Any) -> None:
        with rpc.translated("update"):
            await self.ipam.UpdatePool(ipam_pb2.UpdatePoolRequest(name=name, **fields), timeout=10)


@asynccontextmanager
async def cluster(**options: Any) -> AsyncIterator[Cluster]:
    """A cluster that runs; all of it is gone at the end."""
    async with AsyncExitStack() as stack:
        made = stack.enter_context(fabric())
        directory = Path(tempfile.mkdtemp(prefix="muslin-across-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        running = Cluster(made, directory, stack)
        stack.push_async_callback(running.stop)
        await running.start(**options)
        yield running


async def until(condition: Any, what: str, seconds: float = 40.0) -> None:
    """Wait for what has no event: the state of another process or of the kernel."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = condition()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(what) from None


def listing(path: Path) -> str:
    """All that the kernel has between nodes; for messages of failed tests."""
    return "\n".join(subprocess.run(
        ["ip", "netns", "exec", path.name, *argv], capture_output=True, text=True, check=False, timeout=20).stdout
        for argv in (["ip", "route"], ["ip", "-6", "route"], ["bridge", "fdb"],
                     ["nft", "list", "table", "inet", "muslin-nodes"]))


def links(path: Path) -> dict[str, dict[str, Any]]:
    """Links by name, with details."""
    return {link["ifname"]: link for link in json.loads(command(path, "ip", "-j", "-d", "link"))}
