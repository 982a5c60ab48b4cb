"""Starting, dying, stopping: no process, namespace, link or table is left that nobody owns."""

from __future__ import annotations

import json
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
    """A machine on which nothing runs yet."""
    machine = Arena(tmp_path / "state")
    try:
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A machine with `muslin up` and no pods; tests leave it so."""
    machine = Arena(tmp_path_factory.mktemp("state"))
    try:
        machine.up()
        yield machine
        machine.muslin("down")
        assert machine.left() == {}
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
    for command in (["play", pods], ["status"]):
        assert "muslin is not up on /run/muslin; start it with: muslin up" in arena.muslin(*command, code=1)
    assert "there was nothing to stop" in arena.muslin("down")
    assert arena.left() == {}


def test_play_removes_what_it_made(idle: Arena, pods: str) -> None:
    """In the default namespace, with a port that is not probed; afterwards only the services are there."""
    before = set(idle.processes())
    output = idle.muslin("play", pods)
    assert output.splitlines()[-1] == "2 flows probed, 2 allowed, 0 denied, 0 disagree with Explain"
    assert "1 SCTP flows are shown as Explain has them" in output
    assert_idle(idle, before)


def test_ctrl_c_in_the_middle_of_a_play_removes_everything(idle: Arena) -> None:
    before = set(idle.processes())
    player = idle.start("play", "examples/three-tier")
    until(lambda: "muslin-" in idle.run("ip", "netns"))
    player.send_signal(signal.SIGINT)
    output, _ = player.communicate(timeout=60)
    assert player.returncode == 130, output
    assert_idle(idle, before)


def test_a_killed_play_is_cleaned_up_by_the_next(idle: Arena, pods: str) -> None:
    before = set(idle.processes())
    player = idle.start("play", "examples/three-tier")
    until(lambda: "muslin-" in idle.run("ip", "netns"))
    player.kill()
    player.communicate()
    output = idle.run("sh", "-c", f"{idle.muslin_command} play {pods} 2>&1")
    assert "removing 12 pods of a play that was killed" in output
    assert_idle(idle, before)


CLUSTER = """
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {zone: a}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {note: x}}
"""


def test_nodes_and_namespaces_come_and_go(idle: Arena, pods: str, tmp_path: Path) -> None:
    """Applied by hand they outlive a play that names them, too; a play takes away only what it brought."""
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER)
    assert idle.muslin("apply", "-f", str(file)).splitlines() == ["Node node-1 applied", "Namespace shop applied"]
    idle.muslin("play", pods, str(file))
    changed = tmp_path / "changed.yaml"
    changed.write_text(CLUSTER.replace("zone: a", "zone: b"))
    assert "Node node-1 is stored already and differs" in idle.muslin("play", pods, str(changed), code=1)
    assert idle.muslin("delete", "-f", str(file)).splitlines() == ["Node node-1 deleted", "Namespace shop deleted"]
    idle.muslin("play", pods, str(file))
    assert idle.muslin("delete", "-f", str(file)).splitlines() == ["Node node-1 is not there",
                                                                   "Namespace shop is not there"]


def test_a_pod_is_played_with_the_address_it_asks_for(idle: Arena, tmp_path: Path) -> None:
    """Its annotation is honoured though its ADD follows at once; sticky, it comes back to the next pod of the name."""
    file = tmp_path / "pod.yaml"
    text = PODS.split("---")[0]
    named = ("{name: one, annotations: {cni.projectcalico.org/ipAddrs: '[\"192.168.77.7\"]', "
             "muslin.dev/sticky-addresses: 5m}}")
    for metadata in (named, "{name: one}"):
        file.write_text(text.replace("{name: one}", metadata))
        idle.muslin("play", str(file), "--keep")
        shown = json.loads(idle.run("ip", "netns", "exec", "muslin-default.one", "ip", "-j", "-4", "address"))
        assert [a["local"] for link in shown for a in link["addr_info"] if link["ifname"] == "eth0"] == ["192.168.77.7"]
        idle.muslin("delete", "-f", str(file))


def assert_idle(machine: Arena, before: set[int]) -> None:
    """Nothing is left of pods, in the kernel or in the store; the same processes run as before."""
    assert set(machine.processes()) == before
    assert set(machine.left()) <= {"processes", "tables"}
    status = machine.json("status")
    assert (status["attachments"], status["pods"]) == (0, 0)


def test_ctrl_c_stops_everything_in_order(arena: Arena) -> None:
    up = arena.start("up", "--state", str(arena.state))
    until(lambda: arena.run("sh", "-c", "ls /run/muslin; true").count(".sock") and _healthy(arena))
    up.send_signal(signal.SIGINT)
    output, _ = up.communicate(timeout=60)
    assert up.returncode == 0
    assert re.search(r"^muslin is up in \d+\.\d s \(node ", output, re.MULTILINE)
    assert "stopped by SIGINT, everything is stopped" in output
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


def test_killed_services_are_started_again(arena: Arena, pods: str) -> None:
    """Each of them once, with pods that stay as they are; then everything works as before."""
    arena.up()
    arena.muslin("play", pods, "--keep")
    for service in ("services.ipam", "services.endpoint", "services.policy", "services.node", "etcd "):
        before = pid_of(arena, service)
        os.kill(before, signal.SIGKILL)
        until(lambda: [pid for pid, line in arena.processes().items() if service in line and pid != before])  # noqa: B023
        until(lambda: _healthy(arena))
        assert arena.json("probe")["allowed"] == 2
    assert arena.json("status")["attachments"] == 2
    arena.muslin("down")
    assert arena.left() == {}


def test_the_demo_leaves_nothing(arena: Arena) -> None:
    """And begins with removing what one before it left that was killed."""
    killed = arena.start("demo")
    until(lambda: "muslin-" in arena.run("ip", "netns"))
    killed.kill()
    killed.communicate()
    output = arena.run("sh", "-c", f"{arena.muslin_command} demo 2>&1")
    assert "an earlier demo did not end well: removing what it left" in output
    assert output.splitlines()[-1] == "198 flows probed, 43 allowed, 155 denied, 0 disagree with Explain"
    assert arena.left() == {}
