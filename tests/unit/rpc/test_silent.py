"""Connections that never come to a call, as the kernel's list shows them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from muslin import metrics
from muslin.rpc.silent import LOOK, Silent, connections, heard, peer_of


@pytest.mark.parametrize(("host", "peer"), [
    ("10.0.0.1", "ipv4:10.0.0.1:7"), ("::ffff:10.0.0.1", "ipv4:10.0.0.1:7"), ("fd00::1", "ipv6:%5Bfd00::1%5D:7")])
def test_a_peer_is_called_as_grpc_calls_it(host: str, peer: str) -> None:
    assert peer_of(host, 7) == peer


@pytest.mark.parametrize(("host", "family", "table"), [
    ("127.0.0.1", socket.AF_INET, "tcp"), ("::1", socket.AF_INET6, "tcp6")])
def test_the_kernels_list_is_read(host: str, family: socket.AddressFamily, table: str) -> None:
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((host, port)) as client:
            lines = Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
            assert connections(lines, {port}) == {peer_of(host, client.getsockname()[1])}
            assert connections(lines, {1}) == set()


def test_what_is_gone_and_was_never_heard_is_counted_once() -> None:
    now = 100.0
    silent = Silent([1], lambda: now)
    count = metrics.RPC_REFUSED.labels("silent")._value
    before = count.get()
    heard("a caller")
    silent.look({"a caller", "mute", "brief"})
    now += LOOK / 2
    silent.look({"a caller", "mute"})
    assert count.get() == before, "one that was there for a moment may have been a probe"
    now += LOOK
    silent.look({"a caller", "mute"})
    assert count.get() == before, "it is still there"
    silent.look(set())
    assert count.get() == before + 1
    silent.look(set())
    assert count.get() == before + 1


def test_a_port_that_is_used_again_is_another_connection() -> None:
    now = 100.0
    silent = Silent([1], lambda: now)
    count = metrics.RPC_REFUSED.labels("silent")._value
    before = count.get()
    heard("one")
    silent.look({"one"})
    silent.look(set())
    silent.look({"one"})
    now += LOOK
    silent.look({"one"})
    silent.look(set())
    assert count.get() == before + 1
