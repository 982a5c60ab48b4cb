"""Probes and listeners on a plain link with rules of the test's own: what passes, what is lost, what is neither."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muslin.cli.play import listeners
from muslin.cli.play.flows import Flow, Observation, Packet, PlayedPort
from muslin.cli.play.probes import Route, probe
from tests.support.netns import command, namespaces

pytestmark = pytest.mark.root

OPEN, SHUT = PlayedPort("TCP", 8001), PlayedPort("TCP", 8002)
UDP_OPEN, UDP_SHUT = PlayedPort("UDP", 8001), PlayedPort("UDP", 8002)
PORTS = [OPEN, SHUT, UDP_OPEN, UDP_SHUT]
RULES = "table inet test { chain in { type filter hook input priority 0; tcp dport 8002 drop; udp dport 8002 drop; }; }"


@pytest.fixture
def link() -> Iterator[tuple[Path, Path]]:
    """Two namespaces that a veth joins: 10.9.0.1 sends, 10.9.0.2 receives behind RULES."""
    with namespaces(2, "probe") as (one, two):
        command(one, *f"ip link add v0 type veth peer name v0 netns {two.name}".split())
        for path, address in ((one, "10.9.0.1/24"), (two, "10.9.0.2/24")):
            command(path, "ip", "address", "add", address, "dev", "v0")
            command(path, "ip", "link", "set", "v0", "up")
        command(two, "nft", RULES)
        yield one, two


def listen(namespace: Path, pod: str, ports: list[PlayedPort]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-m", listeners.__name__], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, cwd="/")
    assert process.stdin
    assert process.stdout
    process.stdin.write(listeners.request([(pod, str(namespace), ports)]))
    process.stdin.flush()
    assert process.stdout.readline() == b"ready\n"
    return process


def observe(link: tuple[Path, Path], ports: list[PlayedPort], timeout: float = 0.5) -> dict[PlayedPort, Observation]:
    routes = [Route(Flow("t/a", "t/b", port), str(link[0]), "10.9.0.2") for port in ports]
    return {flow.port: seen for flow, seen in probe(routes, timeout).items()}


def test_passed_and_lost(link: tuple[Path, Path]) -> None:
    with listen(link[1], "t/b", PORTS) as process:
        seen = observe(link, PORTS)
        assert process.stdin
        process.stdin.close()
    assert seen == {
        OPEN: Observation(Packet.PASSED), SHUT: Observation(Packet.LOST, "timed out"),
        UDP_OPEN: Observation(Packet.PASSED), UDP_SHUT: Observation(Packet.LOST, "timed out")}
    assert process.returncode == 0  # it ends with its standard input


def test_refused_and_answered_by_another(link: tuple[Path, Path]) -> None:
    """Packets that arrive where nobody listens, or at somebody else, were not denied: they are a finding."""
    with listen(link[1], "t/other", [UDP_OPEN, OPEN]) as process:
        seen = observe(link, [UDP_OPEN, OPEN, PlayedPort("TCP", 9), PlayedPort("UDP", 9)])
        process.terminate()
    assert seen == {
        OPEN: Observation(Packet.BROKEN, "answered by 't/other TCP/8001'"),
        PlayedPort("TCP", 9): Observation(Packet.BROKEN, "connection refused"),
        PlayedPort("UDP", 9): Observation(Packet.BROKEN, "connection refused"),
        UDP_OPEN: seen[UDP_OPEN]}
    assert seen[UDP_OPEN].packet is Packet.BROKEN


def test_a_connection_without_a_greeting_still_passed(link: tuple[Path, Path]) -> None:
    """A listener that hangs must not make a hole look shut: packets went both ways."""
    with listen(link[1], "t/b", [OPEN]) as process:
        process.send_signal(signal.SIGSTOP)  # the kernel completes the handshake by itself
        seen = observe(link, [OPEN])
        process.kill()
    assert seen == {OPEN: Observation(Packet.PASSED, "connected, and no greeting came")}


def test_a_sender_without_a_route_is_cut_off(link: tuple[Path, Path]) -> None:
    routes = [Route(Flow("t/a", "t/b", OPEN), str(link[0]), "192.0.2.1")]
    assert probe(routes, 0.5) == {routes[0].flow: Observation(Packet.LOST, "network is unreachable")}


def test_many_flows_at_once(link: tuple[Path, Path]) -> None:
    """More flows than are in flight at a time, half of them lost, and none mixed up."""
    ports = [PlayedPort("TCP", 10_000 + number) for number in range(800)]
    with listen(link[1], "t/b", [*ports, SHUT]) as process:
        routes = [Route(Flow("t/a", "t/b", port), str(link[0]), "10.9.0.2") for port in ports]
        routes += [Route(Flow(f"t/a{number}", "t/b", SHUT), str(link[0]), "10.9.0.2")
                   for number in range(800)]
        told: list[int] = []
        seen = probe(routes, 0.5, progress=told.append)
        process.terminate()
    assert {flow.port != SHUT: seen[flow].packet for flow in seen} == {True: Packet.PASSED, False: Packet.LOST}
    assert told[-1] == len(seen) == 1600
    assert sum(item.packet is Packet.PASSED for item in seen.values()) == 800


def test_kept_listeners_outlive_their_standard_input(link: tuple[Path, Path]) -> None:
    with listen(link[1], "t/b", [OPEN]) as process:
        assert process.stdin
        process.stdin.write(b"keep\n")
        process.stdin.close()
        assert observe(link, [OPEN]) == {OPEN: Observation(Packet.PASSED)}
        process.terminate()
    assert process.returncode == 0


def test_a_port_that_is_taken_is_an_error_in_words(link: tuple[Path, Path]) -> None:
    with listen(link[1], "t/b", [OPEN]) as process, subprocess.Popen(
            [sys.executable, "-m", listeners.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as second:
        output, _ = second.communicate(listeners.request([("t/c", str(link[1]), [OPEN])]), timeout=10)
        process.terminate()
    assert output == b"can not listen for t/c: [Errno 98] Address already in use\n"
    assert second.returncode == 1
