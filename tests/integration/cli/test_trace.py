"""`muslin trace` with everything real: what is dropped of a played pod, and what it is connected to."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from muslin import netns
from tests.support.arena import Arena, until

pytestmark = pytest.mark.root

CLUSTER = """
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-80}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{ports: [{port: 80}]}]
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    tmp_path = tmp_path_factory.mktemp("trace")
    arena = Arena(tmp_path / "state")
    try:
        (tmp_path / "cluster.yaml").write_text(CLUSTER)
        arena.up()
        arena.muslin("play", str(tmp_path / "cluster.yaml"), "--keep")
        yield arena
        arena.muslin("down")
    finally:
        arena.close()


def client_and_server(machine: Arena) -> tuple[Path, str]:
    """Where the client is, and the server's address."""
    places = {}
    for name in (each.split()[0] for each in machine.run("ip", "netns").splitlines()):
        links = json.loads(machine.run("ip", "-n", name, "-j", "-4", "address", "show", "dev", "eth0"))
        places[links[0]["addr_info"][0]["local"]] = machine.namespace(name)
    listed = machine.muslin("endpoint", "list").splitlines()
    address = next(each for each in places if any("default/server" in line and each in line.split() for line in listed))
    return next(place for each, place in places.items() if each != address), address


def test_what_a_pod_is_connected_to_is_shown(machine: Arena) -> None:
    client, address = client_and_server(machine)
    with netns.open_socket(client, socket.AF_INET, socket.SOCK_STREAM) as held:
        held.settimeout(20)
        held.connect((address, 80))
        lines = machine.muslin("trace", "flows", "default/server").splitlines()
        assert lines[0].split()[:3] == ["BEGUN", "BY", "PEER"]
        assert any("80/tcp" in line and "only-80 spec.ingress[0]" in line for line in lines)
        found = machine.json("trace", "flows", "default/client")
    assert any((flow["direction"], flow["port"], flow["protocol"]) == ("DIRECTION_EGRESS", 80, 6)
               and flow["policy"] == "profile/k8s_ns.default" for flow in found["flows"])
    assert "default/nobody" in machine.muslin("trace", "flows", "default/nobody", code=1)


def test_what_is_dropped_of_a_pod_is_shown_and_counted(machine: Arena) -> None:
    """By the policy's name; nothing is left in the kernel when the watcher is told to stop, or is killed."""
    client, address = client_and_server(machine)

    def watched() -> bool:
        return "elements" in machine.run("nft", "list", "set", "inet", "muslin", "watched")

    def knock() -> None:
        with netns.open_socket(client, socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"?", (address, 81))

    for ending in (signal.SIGINT, signal.SIGKILL):
        with machine.start("trace", "pod", "default/server", "-o", "json") as watcher:
            try:
                until(watched)
                knock()
                assert watcher.stdout
                drop = json.loads(next(line for line in watcher.stdout if line.startswith("{")))
                assert (drop["destination"], drop["destination_port"], drop["protocol"]) == (address, 81, 17)
                assert any("only-80" in asked for asked in drop["cause"]["asked"])
                watcher.send_signal(ending)
                watcher.wait(20)
                until(lambda: not watched())
            finally:
                watcher.kill()
    counted = machine.json("trace", "drops", "default/server")
    assert sum(int(each["packets"]) for each in counted if "only-80" in str(each["cause"])) >= 2
    assert "default/nobody" in machine.muslin("trace", "pod", "default/nobody", code=1)
