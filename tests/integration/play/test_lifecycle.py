"""Starting, dying, stopping: no process, namespace, link or table is left that nobody owns."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.arena import Arena, until

pytestmark = pytest.mark.root

PODS = """
apiVersion: v1
kind: Pod
metadata: {name: one}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  containers: [{name: c, image: x, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 5, protocol: SCTP}]}]
"""


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    machine = Arena(tmp_path / "state")
    try:
        yield machine
    finally:
        machine.close()


@pytest.fixture
def pods(tmp_path: Path) -> str:
    file = tmp_path / "pods.yaml"
    file.write_text(PODS)
    return str(file)


def pid_of(arena: Arena, part: str) -> int:
    [pid] = [pid for pid, command in arena.processes().items() if part in command]
    return pid


def test_without_up_there_is_advice(arena: Arena, pods: str) -> None:
    for command in (["play", pods], ["probe"], ["apply", "-f", pods], ["status"]):
        assert "muslin is not up on /run/muslin; start it with: muslin up" in arena.muslin(*command, code=1)
    assert "there was nothing to stop" in arena.muslin("down")
    assert arena.left() == {}


def test_play_removes_what_it_made(arena: Arena, pods: str) -> None:
    """In the default namespace, with a port that is not probed; afterwards only the services are there."""
    arena.up()
    before = set(arena.processes())
    output = arena.muslin("play", pods)
    assert output.splitlines()[-1] == "2 flows probed, 2 allowed, 0 denied, 0 disagree with Explain"
    assert "1 SCTP flows are shown as Explain has them" in output
    assert set(arena.processes()) == before
    left = arena.left()
    assert {key for key in left if key not in {"processes", "tables"}} == set()
    assert arena.json("status")["attachments"] == 0
    arena.muslin("down")
    assert arena.left() == {}


def test_ctrl_c_in_the_middle_of_a_play_removes_everything(arena: Arena) -> None:
    arena.up()
    before = set(arena.processes())
    player = arena.start("play", "examples/three-tier")
    until(lambda: "muslin-" in arena.run("ip", "netns"))
    player.send_signal(signal.SIGINT)
    output, _ = player.communicate(timeout=60)
    assert player.returncode == 130, output
    assert set(arena.processes()) == before
    assert not set(arena.left()) & {"links", "namespaces", "routes"}
    assert arena.json("status")["attachments"] == 0


def test_a_killed_play_is_cleaned_up_by_the_next(arena: Arena, pods: str) -> None:
    arena.up()
    player = arena.start("play", "examples/three-tier")
    until(lambda: "muslin-" in arena.run("ip", "netns"))
    player.kill()
    player.communicate()
    output = arena.run("sh", "-c", f"{arena.muslin_command} play {pods} 2>&1")
    assert "removing 12 pods of a play that was killed" in output
    assert not set(arena.left()) & {"links", "namespaces", "routes"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_in_order(arena: Arena, number: signal.Signals) -> None:
    up = arena.start("up", "--state", str(arena.state))
    until(lambda: arena.run("sh", "-c", "ls /run/muslin; true").count(".sock") and _healthy(arena))
    up.send_signal(number)
    output, _ = up.communicate(timeout=60)
    assert up.returncode == 0
    assert re.search(r"^muslin is up in \d+\.\d s \(node ", output, re.MULTILINE)
    assert f"stopped by {number.name}, everything is stopped" in output
    assert "is killed" not in output
    assert arena.processes() == {}


def _healthy(arena: Arena) -> bool:
    done = subprocess.run(arena.command("sh", "-c", f"{arena.muslin_command} status"), capture_output=True, check=False)
    return done.returncode == 0


def test_nothing_outlives_a_killed_supervisor_and_the_state_serves_again(arena: Arena, pods: str) -> None:
    """Killed with pods kept: the next `up` on the same state finds them, still enforced, and `down` removes them."""
    arena.up()
    arena.muslin("play", pods, "--keep")
    before = arena.json("status")
    os.kill(before["process"], signal.SIGKILL)
    until(lambda: not [line for line in arena.processes().values() if "listeners" not in line])
    arena.up()
    after = arena.json("status")
    assert (after["etcd"], after["attachments"]) == (before["etcd"], 2)
    match = arena.json("probe")
    assert (match["allowed"], match["disagree"]) == (2, 0)
    arena.muslin("down")
    assert arena.left() == {}


def test_down_takes_kept_pods_out_of_the_store_of_a_stopped_up(arena: Arena, pods: str) -> None:
    """The addresses are free again afterwards, although no service ran when `down` was called."""
    arena.up()
    arena.muslin("play", pods, "--keep")
    os.kill(arena.json("status")["process"], signal.SIGTERM)
    until(lambda: not [line for line in arena.processes().values() if "listeners" not in line])
    arena.muslin("down")
    assert arena.left() == {}
    arena.up()
    assert arena.json("status")["attachments"] == 0
    assert arena.json("play", pods)["disagree"] == 0
    arena.muslin("down")


@pytest.mark.parametrize("service", ["services.ipam", "services.endpoint", "services.policy", "services.node", "etcd "])
def test_a_killed_service_is_started_again(arena: Arena, pods: str, service: str) -> None:
    arena.up()
    before = pid_of(arena, service)
    os.kill(before, signal.SIGKILL)
    until(lambda: [pid for pid, line in arena.processes().items() if service in line and pid != before])
    until(lambda: _healthy(arena))
    assert arena.json("play", pods)["disagree"] == 0
    arena.muslin("down")
    assert arena.left() == {}


def test_the_demo_leaves_nothing(arena: Arena) -> None:
    output = arena.muslin("demo")
    assert re.fullmatch(r"198 flows probed, \d+ allowed, \d+ denied, 0 disagree with Explain", output.splitlines()[-1])
    assert arena.left() == {}


def test_the_demo_does_not_disturb_what_runs(arena: Arena) -> None:
    arena.up()
    assert "muslin is up already on /run/muslin" in arena.muslin("demo", code=1)
    assert arena.json("status")["healthy"]
    arena.muslin("down")
