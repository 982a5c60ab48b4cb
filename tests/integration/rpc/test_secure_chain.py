"""A node whose services are elsewhere: ADD and DEL by the shim, over TLS, while replicas freeze and die."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from muslin import netns
from tests.support.chain import Done, invoke
from tests.support.etcd import EtcdServer, free_ports
from tests.support.netns import namespace, namespaces
from tests.support.service import Service
from tests.support.stack import SHIM, Pod
from tests.support.tls import Certificates

pytestmark = pytest.mark.root

PATIENCE = 60.0


@dataclass
class World:
    """Two replicas of each service, and a node daemon that calls itself n1; all in one namespace."""

    home: Path
    state: Path
    node: Service
    pods: list[Path]
    replicas: dict[str, list[Service]] = field(default_factory=dict)

    async def invoke(self, verb: str, number: int) -> Done:
        pod = Pod(f"c{number}", self.pods[number], name=f"pod{number}")
        socket = self.node.target.removeprefix("unix:")
        config: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", "type": "muslin", "policy": {"type": "k8s"},
                                  "muslin": {"socket": socket, "state_dir": str(self.state)}}
        return await invoke(SHIM, verb, config, pod.environment, timeout=PATIENCE)

    async def ask(self, verb: str, number: int) -> dict[str, Any]:
        """As a runtime, that asks again until it is done."""
        async with asyncio.timeout(PATIENCE):
            while True:
                done = await self.invoke(verb, number)
                if done.status == 0:
                    return json.loads(done.stdout) if done.stdout else {}
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("chain")
    certificates = Certificates(folder / "certs")
    with ExitStack() as stack:
        home = stack.enter_context(namespace("home"))
        pods = stack.enter_context(namespaces(4, "pod"))
        etcd = stack.enter_context(EtcdServer(name="etcd1", tls=certificates.files("etcd1"), namespace=home))
        subprocess.run(["nsenter", f"--net={home}", sys.executable, "-m", "muslin.cli.main", "etcd-auth",
                        f"--etcd={etcd.endpoint}", *certificates.options("etcd-root", "etcd")], check=True, timeout=60)
        replicas: dict[str, list[Service]] = {}
        targets: dict[str, list[str]] = {}

        def start(name: str, *more: str) -> None:
            for _ in range(2):
                (port,) = netns.run(home, lambda: free_ports(1))
                service = Service(name, f"--listen=127.0.0.1:{port}", f"--etcd={etcd.endpoint}",
                                  *certificates.options(name), *certificates.options(name, "etcd"), *more,
                                  namespace=home)
                replicas.setdefault(name, []).append(stack.enter_context(service))
                targets.setdefault(name, []).append(f"127.0.0.1:{port}")

        start("endpoint")
        at_endpoint = f"--endpoint={','.join(targets['endpoint'])}"
        start("ipam", at_endpoint)
        start("policy", at_endpoint)
        state = folder / "state"
        node = Service("node", "--node=n1", *certificates.options("n1"), at_endpoint,
                       *(f"--{name}={','.join(targets[name])}" for name in ("ipam", "policy")), f"--state={state}",
                       namespace=home)
        yield World(home, state, stack.enter_context(node), pods, replicas)


async def test_pods_come_and_go_though_one_replica_of_each_service_is_gone(world: World) -> None:
    """Frozen or killed, first or second: the node goes on with the other, and with both when they are back."""
    given = {(await world.ask("ADD", 0))["ips"][0]["address"]}
    for number, (place, fault) in enumerate([(0, "freeze"), (1, "freeze"), (0, "kill")], 1):
        for name in ("endpoint", "policy", "ipam"):
            service = world.replicas[name][place]
            service.freeze() if fault == "freeze" else service.kill()
        given.add((await world.ask("ADD", number))["ips"][0]["address"])
        await world.ask("DEL", number - 1)
        for name in ("endpoint", "policy", "ipam"):
            service = world.replicas[name][place]
            service.thaw() if fault == "freeze" else service.start()
            await asyncio.to_thread(service.wait, PATIENCE)
    assert len(given) == 4
    await world.ask("DEL", 3)


async def test_the_node_daemon_does_not_lend_its_name_to_what_is_the_operators(world: World) -> None:
    """What comes over its socket goes on with its certificate: pools are not a node's to change."""
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "muslin.cli.main", "ipam", "pool", "list", "--ipam", world.node.target,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    _, error = await asyncio.wait_for(done.communicate(), PATIENCE)
    assert done.returncode == 1
    assert b"node:n1 does not allow /muslin.ipam.v1.Ipam/ListPools: it is for operator" in error
