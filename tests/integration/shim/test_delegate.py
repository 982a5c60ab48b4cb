"""Addresses from other plugins: Debian's host-local and static, and plugins of our own that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.chain import ATTACHMENT, Chain, configuration, extended, invoke, serving

DEBIAN = Path("/usr/lib/cni")

debian = pytest.mark.skipif(not (DEBIAN / "host-local").exists(), reason="needs containernetworking-plugins")

PLUGIN = """#!/bin/sh
cat >"{0}/stdin.$CNI_COMMAND"
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $CNI_PATH" >>"{0}/ran"
{1}
"""
RESULT = '{"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.2/24"}]}'


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "muslin.sock"


@pytest.fixture
async def chain(socket: Path) -> AsyncIterator[Chain]:
    services = Chain()
    async with serving(services, socket):
        yield services


class Addresses:
    """A plugin written for a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def does(self, script: str) -> None:
        path = self.folder / "addresses"
        path.write_text(PLUGIN.format(self.folder, script))
        path.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {**ATTACHMENT, "CNI_PATH": f"/nowhere::{self.folder}", "PATH": "/usr/bin:/bin"}

    @property
    def ran(self) -> list[str]:
        """The commands that it was run with."""
        log = self.folder / "ran"
        lines = log.read_text().splitlines() if log.exists() else []
        given = self.environment
        tail = [given[name] for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH")]
        commands = [line.split(" ", 1)[0] for line in lines]
        assert lines == [" ".join([command, *tail]) for command in commands]
        return commands


@pytest.fixture
def addresses(tmp_path: Path) -> Addresses:
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Addresses(folder)
    made.does(f"[ $CNI_COMMAND != ADD ] || echo '{RESULT}'")
    return made


def config(socket: Path, **more: Any) -> dict[str, Any]:
    return configuration(socket, **{"ipam": {"type": "addresses"}, **more})


def services(chain: Chain) -> list[str]:
    """Who was asked, in order, without policy, which is asked at any time."""
    return [step for step in chain.steps if not step.startswith("policy.")]


async def test_its_result_takes_the_place_of_ours(
        plugin: Path, chain: Chain, socket: Path, addresses: Addresses) -> None:
    raw = json.dumps(config(socket, runtimeConfig={"ips": ["10.7.0.9"]}), indent=2).encode()
    done = await invoke(plugin, "ADD", raw, addresses.environment)
    assert (done.status, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {**json.loads(RESULT), "steps": ["endpoint", "node"]}
    assert services(chain) == ["endpoint.Add", "node.Add"]
    assert addresses.ran == ["ADD"]
    assert (addresses.folder / "stdin.ADD").read_bytes() == raw


@pytest.mark.parametrize(("command", "verb"), [("DEL", "Del"), ("CHECK", "Check")])
async def test_the_other_commands_reach_it(
        script: Path, chain: Chain, socket: Path, addresses: Addresses, command: str, verb: str) -> None:
    assert (await invoke(script, command, config(socket), addresses.environment)).status == 0
    assert sorted(services(chain)) == [f"endpoint.{verb}", f"node.{verb}"]
    assert addresses.ran == [command]


@pytest.mark.parametrize(("command", "verb"), [("GC", "GC"), ("STATUS", "Status")])
async def test_what_is_about_no_attachment_reaches_it(
        script: Path, chain: Chain, socket: Path, addresses: Addresses, command: str, verb: str) -> None:
    environment = {name: addresses.environment[name] for name in ("CNI_PATH", "PATH")}
    assert (await invoke(script, command, config(socket), environment)).status == 0
    assert sorted(services(chain)) == [f"endpoint.{verb}", f"node.{verb}"]
    assert (addresses.folder / "ran").read_text().split()[0] == command


async def test_it_runs_while_policy_is_asked(
        plugin: Path, chain: Chain, socket: Path, addresses: Addresses) -> None:
    """Each waits for the other."""
    async def policy(request: Any, _: object) -> Any:
        (addresses.folder / "asked").touch()
        while not (addresses.folder / "begun").exists():  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(0.01)
        return extended("policy", request.call)

    chain.behaviours["policy.Add"] = policy
    addresses.does(f"cd {addresses.folder}; touch begun; until [ -e asked ]; do sleep 0.01; done; echo '{RESULT}'")
    assert (await invoke(plugin, "ADD", config(socket), addresses.environment)).status == 0


async def test_its_error_is_passed_on(plugin: Path, chain: Chain, socket: Path, addresses: Addresses) -> None:
    addresses.does("""[ $CNI_COMMAND != ADD ] || {
        echo '{"cniVersion": "1.1.0", "code": 142, "msg": "no address left in “a”", "details": "of 254"}'; exit 3; }""")
    error = (await invoke(plugin, "ADD", config(socket), addresses.environment)).error
    assert (error["code"], error["msg"]) == (142, "ipam: addresses: no address left in “a”")
    assert "of 254" in error["details"]
    assert addresses.ran == ["ADD", "DEL"], "CNI 1.1, section 4: DEL after an ADD that failed"
    assert services(chain) == []


async def test_the_address_of_a_pod_that_runs_is_left_when_it_is_added_again(
        plugin: Path, chain: Chain, socket: Path, addresses: Addresses) -> None:
    chain.records.add(("net", "c1", "eth0"))
    addresses.does("""[ $CNI_COMMAND != ADD ] || { echo '{"code": 999, "msg": "allocated already"}'; exit 1; }""")
    error = (await invoke(plugin, "ADD", config(socket), addresses.environment)).error
    assert (error["code"], error["msg"]) == (999, "ipam: addresses: allocated already")
    assert "the address is left: there is a record of this attachment" in error["details"]
    assert addresses.ran == ["ADD"]


@pytest.mark.parametrize(("script_", "why"), [
    ("echo oops; exit 7", "ended with exit code 7 and no CNI error but 'oops\\n'"),
    ("kill -9 $$", "ended with signal 9 and no CNI error but nothing"),
    ("echo '[]'", "printed no result but '[]\\n'"),
    ("exit 0", "printed no result but nothing"),
])
async def test_what_it_should_not_do_is_told(
        script: Path, chain: Chain, socket: Path, addresses: Addresses, script_: str, why: str) -> None:
    addresses.does(f"[ $CNI_COMMAND != ADD ] || {{ {script_}; }}")
    error = (await invoke(script, "ADD", config(socket), addresses.environment)).error
    assert (error["code"], error["msg"]) == (5, f"ipam: addresses {why}")
    assert addresses.ran == ["ADD", "DEL"]


async def test_one_that_hangs_is_killed_and_undone_in_time(
        plugin: Path, chain: Chain, socket: Path, addresses: Addresses) -> None:
    addresses.does("[ $CNI_COMMAND != ADD ] || exec sleep 60")
    began = time.monotonic()
    error = (await invoke(plugin, "ADD", config(socket, muslin={"timeout": 2}), addresses.environment)).error
    assert time.monotonic() - began < 20
    assert error["code"] == 11
    assert re.fullmatch(r"ipam: addresses did not end within [01]\.[0-9] s, and was killed", error["msg"]), error
    assert addresses.ran == ["ADD", "DEL"]


async def test_large_input_and_output_and_a_daemon_that_stays(
        plugin: Path, chain: Chain, socket: Path, addresses: Addresses) -> None:
    fill = "x" * 1_000_000
    addresses.does(f"""[ $CNI_COMMAND != ADD ] || {{ sleep 60 2>/dev/null & echo $! >{addresses.folder}/daemon
        printf '{{"ips": [], "steps": [], "fill": "'; head -c 1000000 /dev/zero | tr '\\0' x; echo '"}}'; }}""")
    try:
        done = await invoke(plugin, "ADD", config(socket, fill=fill), addresses.environment, timeout=50)
    finally:
        os.kill(int((addresses.folder / "daemon").read_text()), signal.SIGKILL)
    assert done.status == 0
    assert len(json.loads(done.stdout)["fill"]) == 1_000_000
    assert json.loads((addresses.folder / "stdin.ADD").read_bytes())["fill"] == fill


async def test_one_that_is_missing_is_said(plugin: Path, chain: Chain, socket: Path, addresses: Addresses) -> None:
    (addresses.folder / "addresses").chmod(0o644)
    for command in ("ADD", "DEL"):
        error = (await invoke(plugin, command, config(socket), addresses.environment)).error
        assert error["code"] == 7
        assert error["msg"] == ("ipam: ipam.type 'addresses': there is no such plugin in CNI_PATH "
                                f"'/nowhere::{addresses.folder}'")


@pytest.mark.parametrize("kind", ["../addresses", "muslin", "."])
async def test_a_type_that_is_no_plugin_for_addresses(script: Path, socket: Path, kind: str) -> None:
    error = (await invoke(script, "ADD", config(socket, ipam={"type": kind}))).error
    assert error["code"] == 7
    assert error["msg"].startswith(f"ipam.type {kind!r} is not the name of a plugin for addresses")


@pytest.mark.parametrize("kind", ["calico-ipam", "muslin-ipam", ""])
async def test_our_own_is_meant(script: Path, chain: Chain, socket: Path, kind: str) -> None:
    assert (await invoke(script, "ADD", config(socket, ipam={"type": kind}))).status == 0
    assert set(chain.steps[:2]) == {"ipam.Add", "policy.Add"}


@pytest.mark.parametrize("failing", ["policy.Add", "endpoint.Add", "node.Add"])
async def test_a_failure_of_a_service_is_rolled_back(
        script: Path, chain: Chain, socket: Path, addresses: Addresses, failing: str) -> None:
    chain.fails(failing, grpc.StatusCode.INTERNAL, "broken")
    error = (await invoke(script, "ADD", config(socket), addresses.environment)).error
    assert error["msg"] == f"{failing.split('.')[0]}: broken"
    assert addresses.ran == ["ADD", "DEL"]


async def test_what_is_put_off_does_not_keep_the_address(
        plugin: Path, socket: Path, addresses: Addresses) -> None:
    """The node daemon, which does the rest later, runs no plugins."""
    done = await invoke(plugin, "DEL", config(socket), addresses.environment)
    assert (done.status, done.stdout) == (0, b"")
    assert addresses.ran == ["DEL"]
    assert len(list((socket.parent / "state/deletions").iterdir())) == 1


async def test_an_address_is_not_freed_under_a_veth_that_can_not_be_removed(
        script: Path, chain: Chain, socket: Path, addresses: Addresses) -> None:
    chain.fails("node.Del", grpc.StatusCode.INTERNAL, "busy")
    assert (await invoke(script, "DEL", config(socket), addresses.environment)).error["code"] == 5
    assert addresses.ran == []


@debian
async def test_host_local_and_its_rollback(plugin: Path, chain: Chain, socket: Path, tmp_path: Path) -> None:
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "data"), "subnet": "10.99.0.0/24"}
    conf = configuration(socket, cniVersion="1.0.0", ipam=ipam)
    environment = {**ATTACHMENT, "CNI_ARGS": "", "CNI_PATH": str(DEBIAN)}
    def held() -> list[str]:
        return [path.name for path in (tmp_path / "data/net").iterdir() if path.name.startswith("10.")]

    done = await invoke(plugin, "ADD", conf, environment)
    assert json.loads(done.stdout)["ips"] == [{"address": "10.99.0.2/24", "gateway": "10.99.0.1"}]
    assert held() == ["10.99.0.2"]
    chain.records.add(("net", "c1", "eth0"))
    again = (await invoke(plugin, "ADD", conf, environment)).error
    assert "host-local: failed to allocate for range 0: 10.99.0.2 has been allocated to c1" in again["msg"]
    assert held() == ["10.99.0.2"], "the address of the pod that runs"
    assert (await invoke(plugin, "DEL", conf, environment)).status == 0
    assert held() == []
    chain.fails("node.Add", grpc.StatusCode.INTERNAL, "broken")
    assert (await invoke(plugin, "ADD", conf, environment)).error["code"] == 5
    assert held() == []


@debian
async def test_static(script: Path, chain: Chain, socket: Path) -> None:
    conf = configuration(socket, cniVersion="0.4.0",
                         ipam={"type": "static", "addresses": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}]})
    done = await invoke(script, "ADD", conf, {**ATTACHMENT, "CNI_ARGS": "", "CNI_PATH": str(DEBIAN)})
    assert json.loads(done.stdout)["ips"] == [
        {"version": "4", "address": "10.10.0.1/24", "gateway": "10.10.0.254"}]


def ranges(*subnets: str) -> dict[str, Any]:
    return {"type": "host-local", "ranges": [[{"subnet": subnet, "x": [1, True, None, 1.5]}] for subnet in subnets]}


@pytest.mark.parametrize(("ipam", "cidrs", "expected"), [
    ({"type": "host-local", "subnet": "usePodCidr"}, ("10.1.0.0/24", "fd00::/64"),
     {"type": "host-local", "subnet": "10.1.0.0/24"}),
    (ranges("usePodCidr", "usePodCidrIPv6"), ("fd00::/64", "10.1.0.0/24"), ranges("10.1.0.0/24", "fd00::/64")),
    (ranges("usePodCidr", "10.9.0.0/24"), ("fd00::/64",), ranges("fd00::/64", "10.9.0.0/24")),
])
async def test_the_nodes_pod_cidrs_are_filled_in(script: Path, chain: Chain, socket: Path, addresses: Addresses,
                                                 ipam: Any, cidrs: tuple[str, ...], expected: Any) -> None:
    (addresses.folder / "addresses").rename(addresses.folder / "host-local")
    chain.pod_cidrs = cidrs
    conf = config(socket, ipam=ipam, note="“”\n", number=0.25)
    chain.fails("node.Add", grpc.StatusCode.INTERNAL, "so that there is a DEL too")
    assert (await invoke(script, "ADD", conf, addresses.environment)).status == 1
    assert json.loads((addresses.folder / "stdin.ADD").read_bytes()) == {**conf, "ipam": expected}
    given = json.loads((addresses.folder / "stdin.DEL").read_bytes())["ipam"]
    assert "usePodCidr" not in json.dumps(given)


@pytest.mark.parametrize(("cidrs", "code", "why"), [
    (None, 3, "ipam: usePodCidr: node \"n1\" is not known"),
    ((), 104, "ipam: ipam asks for usePodCidr, and the node's podCIDRs are none")])
async def test_pod_cidrs_that_are_not_there(script: Path, chain: Chain, socket: Path, addresses: Addresses,
                                            cidrs: tuple[str, ...] | None, code: int, why: str) -> None:
    (addresses.folder / "addresses").rename(addresses.folder / "host-local")
    chain.pod_cidrs = cidrs
    conf = config(socket, ipam={"type": "host-local", "subnet": "usePodCidr"})
    error = (await invoke(script, "ADD", conf, addresses.environment)).error
    assert (error["code"], error["msg"]) == (code, why)
    assert addresses.ran == []


@debian
async def test_host_local_frees_without_the_services(plugin: Path, socket: Path, tmp_path: Path) -> None:
    """What CIDRs the node has can not be asked then, and need not."""
    conf = configuration(socket, cniVersion="1.0.0",
                         ipam={"type": "host-local", "dataDir": str(tmp_path / "data"), "subnet": "usePodCidr"})
    environment = {**ATTACHMENT, "CNI_ARGS": "", "CNI_PATH": str(DEBIAN)}
    chain = Chain(pod_cidrs=("10.99.0.0/24",))
    async with serving(chain, socket):
        assert (await invoke(plugin, "ADD", conf, environment)).status == 0
    assert (tmp_path / "data/net/10.99.0.2").exists()
    assert (await invoke(plugin, "DEL", conf, environment)).status == 0
    assert not (tmp_path / "data/net/10.99.0.2").exists()
