"""What the plugin writes to its log: one line a command, under the request's id, and no secrets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.support.chain import ATTACHMENT, Chain, configuration, invoke, serving

REQUEST = "4bf92f3577b34da6a3ce929d0e0e4736"
ENVIRONMENT = {**ATTACHMENT, "TRACEPARENT": f"00-{REQUEST}-00f067aa0ba902b7-01",
               "CNI_ARGS": "K8S_POD_NAMESPACE=web;K8S_POD_NAME=p1;TOKEN=a-secret"}


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "muslin.sock"


@pytest.fixture
async def chain(socket: Path) -> AsyncIterator[Chain]:
    services = Chain()
    async with serving(services, socket):
        yield services


def lines(socket: Path) -> list[str]:
    """Without the time."""
    path = socket.parent / "log"
    return [line.split(" ", 1)[1] for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_line_for_each_command(plugin: Path, chain: Chain, socket: Path) -> None:
    for command in ("ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"):
        done = await invoke(plugin, command, configuration(socket, password="a-secret"), ENVIRONMENT)
        assert (done.status, done.stderr) == (0, "")
    add, check, delete, collect = lines(socket)
    for line, command in ((add, "ADD"), (check, "CHECK"), (delete, "DEL")):
        assert line.startswith(f"info shim req={REQUEST} {command} net/c1/eth0 pod=web/p1 took ")
    assert f"req={REQUEST} GC net took " in collect
    assert "secret" not in "".join(lines(socket))


async def test_an_error_is_there_and_on_stderr_with_the_id_that_services_log(
        plugin: Path, chain: Chain, socket: Path) -> None:
    chain.fails("endpoint.Add", grpc.StatusCode.INTERNAL, "broken\nbadly")
    done = await invoke(plugin, "ADD", configuration(socket, log_level="error"), ATTACHMENT)
    line, = lines(socket)
    request = chain.asked[0].metadata["traceparent"].split("-")[1]
    assert line.startswith(f"error shim req={request} ADD net/c1/eth0 failed after ")
    assert "code 5: endpoint: broken\\nbadly (endpoint answered INTERNAL; rolled back endpoint, policy, ipam)" in line
    assert request in done.stderr
    assert request in done.error["details"]
    assert done.stderr.count("\n") == 1


async def test_debug_tells_each_step(script: Path, chain: Chain, socket: Path) -> None:
    await invoke(script, "ADD", configuration(socket, log_level="DEBUG"), ATTACHMENT)
    assert [line.split(" ", 3)[3].split(":")[0] for line in lines(socket)[:3]] == [
        "ipam Add, policy Add", "endpoint Add", "node Add"]


async def test_a_warning_when_a_deletion_is_put_off(script: Path, socket: Path) -> None:
    await invoke(script, "DEL", configuration(socket, log_level="warning"), ATTACHMENT)
    line, = lines(socket)
    assert line.startswith("warning shim req=")
    assert "DEL is put off until it can be done: node: can not connect to" in line


async def test_thirty_at_once_rotate(plugin: Path, chain: Chain, socket: Path) -> None:
    config = configuration(socket, log_file_max_size=0.001, log_file_max_count=20)
    done = await asyncio.gather(*(
        invoke(plugin, "ADD", config, {**ATTACHMENT, "CNI_CONTAINERID": f"c{n}"}) for n in range(30)))
    assert [each.status for each in done] == [0] * 30
    text = "".join(path.read_text() for path in socket.parent.glob("log*"))
    assert all(text.count(f" net/c{n}/eth0 ") == 1 for n in range(30))
    assert len(list(socket.parent.glob("log*"))) > 1


async def test_no_log_is_no_reason_to_fail(plugin: Path, chain: Chain, socket: Path) -> None:
    done = await invoke(plugin, "ADD", configuration(socket, log_file_path="/nowhere/at/all"))
    assert (done.status, done.stderr) == (0, "")
    assert json.loads(done.stdout)
