"""`muslin play --node`: pods on several nodes, and the matrix across them by real packets."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.fabric import ROOT, SHIM, Cluster, Node, links, until

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="package")]

WORLD = Path(__file__).with_name("world.yaml")


def on(node: Node) -> str:
    """How a node is reached, and how its agent finds its daemon."""
    return f"{node.name}=env MUSLIN_NODE_SOCKET={node.directory}/muslin.sock nsenter --net={node.netns}"


async def play(up: Cluster, *more: str, world: Path = WORLD, nodes: tuple[str, ...] = ("n1", "n2", "n3"),
               agent: str = f"{sys.executable} -m muslin.cli.play.agent") -> asyncio.subprocess.Process:
    named = [word for node in nodes for word in ("--node", on(up.nodes[node]))]
    environment = {"MUSLIN_ENDPOINT": up.services["endpoint"].target, "MUSLIN_POLICY": up.services["policy"].target,
                   "MUSLIN_STATE": str(up.directory / "cli"), "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "muslin.cli.main", "play", str(world), *named, "--bin-dir", str(SHIM.parent), "--agent",
        agent, "-o", "json", *more, env=os.environ | environment, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE)


async def played(up: Cluster, code: int, **options: Any) -> tuple[str, str]:
    process = await play(up, **options)
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == code, (out, err, [node.log() for node in up.nodes.values()])
    return out.decode(), err.decode()


def nothing_left(up: Cluster) -> bool:
    return not any(name.startswith("mus") for node in up.nodes.values() for name in links(node.netns))


async def test_the_matrix_across_nodes(up: Cluster) -> None:
    """Both ways at once: over the link between two nodes, in VXLAN to the third."""
    await up.set_pool("default", encapsulation="cross-subnet")
    out, _ = await played(up, 0)
    found = json.loads(out)
    nodes = {pod["pod"]: pod["node"] for pod in found["pods"]}
    assert nodes == {"bed/client-1": "n1", "bed/client-2": "n1", "bed/server-1": "n3", "bed/server-2": "n2"}
    allowed = {(flow["from"], flow["to"], flow["port"]) for flow in found["flows"] if flow["packets"] == "allowed"}
    assert allowed == {(f"bed/client-{one}", f"bed/server-{two}", 7200) for one in (1, 2) for two in (1, 2)}
    assert found["disagree"] == 0
    assert nothing_left(up)


async def test_a_play_that_is_killed_leaves_nothing_on_the_nodes(up: Cluster) -> None:
    process = await play(up)
    await until(lambda: not nothing_left(up), "no pod comes")
    process.kill()
    await process.communicate()
    await until(lambda: nothing_left(up), "pods stay")
    # What it left in the store the next one finds, and takes over.
    await played(up, 0)


async def test_what_can_not_be_played_is_said(up: Cluster, tmp_path: Path) -> None:
    _, words = await played(up, 1, nodes=("n1", "n2"))
    assert "spec.nodeName 'n3' is none of the nodes n1, n2" in words
    _, words = await played(up, 1, agent="/does/not/exist")
    assert "its agent has ended" in words
    assert "/does/not/exist" in words
