"""A node whose services are elsewhere: ADD and DEL by the shim, over TLS, while replicas freeze and die."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apart import Apart, apart
from tests.support.netns import namespaces
from tests.support.stack import Pod

pytestmark = pytest.mark.root

PATIENCE = 60.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    with apart(tmp_path_factory.mktemp("chain")) as running:
        yield running


@pytest.fixture
def pods() -> Iterator[list[Path]]:
    with namespaces(4, "pod") as paths:
        yield list(paths)


async def ask(world: Apart, verb: str, number: int, pods: list[Path]) -> dict[str, Any]:
    """As a runtime, that asks again until it is done."""
    async with asyncio.timeout(PATIENCE):
        while True:
            done = await world.invoke(verb, Pod(f"c{number}", pods[number], name=f"pod{number}"))
            if done.status == 0:
                return json.loads(done.stdout) if done.stdout else {}
            await asyncio.sleep(0.1)


async def test_pods_come_and_go_though_one_replica_of_each_service_is_gone(world: Apart, pods: list[Path]) -> None:
    """Frozen or killed, first or second: the node goes on with the other, and with both when they are back."""
    given = {(await ask(world, "ADD", 0, pods))["ips"][0]["address"]}
    for number, (place, fault) in enumerate([(0, "freeze"), (1, "freeze"), (0, "kill")], 1):
        for name in ("endpoint", "policy", "ipam"):
            service = world.replicas[name][place]
            service.freeze() if fault == "freeze" else service.kill()
        given.add((await ask(world, "ADD", number, pods))["ips"][0]["address"])
        await ask(world, "DEL", number - 1, pods)
        for name in ("endpoint", "policy", "ipam"):
            service = world.replicas[name][place]
            service.thaw() if fault == "freeze" else service.start()
            await asyncio.to_thread(service.wait, PATIENCE)
    assert len(given) == 4
    await ask(world, "DEL", 3, pods)


async def test_the_node_daemon_does_not_lend_its_name_to_what_is_the_operators(world: Apart) -> None:
    """What comes over its socket goes on with its certificate: pools are not a node's to change."""
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "muslin.cli.main", "ipam", "pool", "list", "--ipam", world.node.target,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    _, error = await asyncio.wait_for(done.communicate(), PATIENCE)
    assert done.returncode == 1
    assert b"node:n1 does not allow /muslin.ipam.v1.Ipam/ListPools: it is for operator" in error
