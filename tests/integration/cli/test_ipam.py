"""`muslin ipam` with everything real: etcd, the services, pods; what it shows, changes and repairs."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.etcd import keys
from muslin.rpc import channel
from tests.support.arena import Arena

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
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
"""


DAMAGE = """
import asyncio, sys
from muslin.etcd import Etcd
async def main(endpoint, *damaged):
    etcd = Etcd([endpoint])
    for key in damaged:
        await etcd.put(key, b'{"half')
    await etcd.aclose()
asyncio.run(main(*sys.argv[1:]))
"""


class Machine(Arena):
    """A machine with two pods, and shorthands."""

    def ipam(self, *argv: str, code: int = 0) -> str:
        return self.muslin("ipam", *argv, code=code)

    def shown(self, *argv: str, code: int = 0) -> Any:
        return json.loads(self.ipam(*argv, "-o", "json", code=code))

    def answered(self, answer: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command that asks, and answer it."""
        return subprocess.run(self.command("sh", "-c", f"{self.muslin_command} ipam \"$@\"", "sh", *argv), input=answer,
                              capture_output=True, text=True, check=False, timeout=60)

    def damage(self, damaged: Sequence[str]) -> None:
        """Make records unreadable, in etcd itself."""
        self.run(sys.executable, "-c", DAMAGE, self.json("status")["etcd"], *damaged)

    @property
    def target(self) -> str:
        """The address manager's socket as seen from outside."""
        return f"unix:{self.namespace('any').parents[1]}/muslin/ipam.sock"

    def assign(self, container: str, node: str = "node1") -> str:
        """Give an address to an attachment that no endpoint record is of: a leak, if it stays."""
        async def ask() -> str:
            async with channel(self.target) as connection:
                answer = await ipam_pb2_grpc.IpamStub(connection).Assign(ipam_pb2.AssignRequest(
                    attachment=cni_pb2.Attachment(network="muslin", container_id=container, ifname="eth0"), node=node),
                    timeout=10)
            [address] = answer.handle.addresses
            return address
        return asyncio.run(ask())

    def addresses(self) -> dict[str, str]:
        """Address by pod, as the address manager has it."""
        return {f"{handle['namespace']}/{handle['pod']}": handle["addresses"][0]
                for handle in self.shown("show", "--handles")["handles"]}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Tests leave its two pods as they are, and one pool."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "pods.yaml").write_text(PODS)
    made = Machine(folder / "state")
    try:
        # What is not in use is not taken for an ADD under way, however young; and nobody else collects it.
        made.run("env", "MUSLIN_COLLECT_GRACE=0", "MUSLIN_COLLECT_INTERVAL=0", *made.muslin_command.split(), "up",
                 "--detach", "--state", str(made.state), "--node", "node1")
        made.muslin("play", str(folder / "pods.yaml"), "--keep")
        yield made
        made.muslin("down")
        assert made.left() == {}
    finally:
        made.close()


def test_show_counts_what_there_is(machine: Machine) -> None:
    """In each form the same; every address of the pool is used, cooling, reserved or free."""
    shown = machine.shown("show", "--blocks", "--nodes", "--handles")
    [pool], [node], blocks = shown["pools"], shown["nodes"], shown["blocks"]
    assert (pool["name"], pool["used"], node["node"], node["used"]) == ("default", 2, "node1", 2)
    assert sum(block["used"] for block in blocks) == 2
    assert pool["used"] + pool["cooling"] + pool["reserved"] + pool["free"] == pool["size"] == 65536
    assert {(handle["namespace"], handle["pod"], handle["node"]) for handle in shown["handles"]} == {
        ("default", "one", "node1"), ("default", "two", "node1")}
    assert yaml.safe_load(machine.ipam("show", "--blocks", "--nodes", "--handles", "-o", "yaml")).keys() == shown.keys()
    table = machine.ipam("show", "--blocks", "--nodes").splitlines()
    assert table[1].split()[:3] == ["default", "192.168.0.0/16", str(pool["blocks"])]
    assert [line for line in table if line.startswith(f"{blocks[0]['cidr']} ")]
    assert machine.shown("show", "--node", "node1").keys() == {"blocks"}
    assert machine.shown("show", "--node", "other") == {"blocks": []}


def test_show_ip_of_a_pod_and_of_nobody(machine: Machine) -> None:
    address = machine.addresses()["default/one"]
    lines = machine.ipam("show", "--ip", address).splitlines()
    assert [line.split() for line in lines[:3]] == [["address", address], ["state", "in", "use"], ["pool", "default"]]
    assert ["pod", "default/one"] in [line.split() for line in lines]
    assert machine.shown("show", "--ip", address)["handle"]["pod"] == "one"
    assert "outside all pools" in machine.ipam("show", "--ip", "203.0.113.1")
    assert machine.shown("show", "--ip", "203.0.113.1")["handle"] is None
    error = machine.ipam("show", "--ip", "nonsense", code=1)
    assert error.startswith("Error: ipam: look up: ")
    assert error.count("\n") == 1


def test_a_pool_is_made_changed_and_deleted(machine: Machine) -> None:
    assert machine.ipam("pool", "create", "v6", "fd00:10::/48", "--cool-down", "5", "--disabled").startswith(
        "pool v6 created: fd00:10::/48, blocks of /122, ")
    made = machine.shown("pool", "list")["pools"][1]
    assert (made["name"], made["block_size"], made["cool_down_seconds"], made["disabled"]) == ("v6", 122, 5, True)
    changed = machine.shown("pool", "update", "v6", "--node-selector", "zone == 'a'", "--cool-down", "0")
    assert (changed["node_selector"], changed["cool_down_seconds"], changed["disabled"]) == ("zone == 'a'", 0, True)
    assert machine.shown("pool", "enable", "v6")["disabled"] is False
    assert machine.ipam("pool", "disable", "v6").rstrip().endswith(", disabled")
    assert machine.shown("pool", "update", "v6", "--node-selector", "")["node_selector"] == ""
    assert machine.ipam("pool", "delete", "v6") == "pool v6 deleted\n"
    assert [pool["name"] for pool in machine.shown("pool", "list")["pools"]] == ["default"]


@pytest.mark.parametrize(("arguments", "says"), [
    (["pool", "create", "a", "10.1.0.1/16"], "10.1.0.1/16"), (["pool", "create", "a", "192.168.7.0/24"], "default"),
    (["pool", "create", "default", "10.0.0.0/16"], "default"), (["pool", "delete", "default"], "in use"),
    (["pool", "update", "none", "--cool-down", "1"], "none"), (["reserve", "delete", "none"], "none"),
    (["reserve", "create", "r", "10.0.0.1/8"], "10.0.0.1/8"), (["release", "203.0.113.1"], "not held by anybody"),
    (["pool", "update", "default", "--node-selector", "zone =="], "node_selector"), (["release", "a/b"], "NETWORK/"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_what_can_not_be_is_one_line_that_says_why(machine: Machine, arguments: list[str], says: str) -> None:
    error = machine.ipam(*arguments, code=1)
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert says in error


def test_reservations_name_what_is_held_and_are_counted(machine: Machine) -> None:
    """A range around a pod's address: the pod keeps it, and it is not counted twice."""
    address = machine.addresses()["default/one"]
    answer = machine.shown("reserve", "create", "around", f"{address}/32", "192.168.255.0/30")
    assert (answer["reservation"]["name"], answer["held"]) == ("around", [address])
    try:
        listed = machine.shown("reserve", "list")["reservations"]
        assert [(item["name"], len(item["cidrs"])) for item in listed] == [("around", 2)]
        [pool] = machine.shown("show")["pools"]
        assert pool["used"] + pool["cooling"] + pool["free"] == pool["size"] - 4
        assert machine.shown("show", "--ip", "192.168.255.1")["reservation"] == "around"
        assert ["state", "reserved"] in [line.split() for line in
                                         machine.ipam("show", "--ip", "192.168.255.1").splitlines()]
    finally:
        assert machine.ipam("reserve", "delete", "around") == "reservation around deleted\n"
    assert machine.ipam("reserve", "list") == "there are no reservations\n"


def test_settings_are_changed_one_by_one(machine: Machine) -> None:
    assert machine.shown("configure", "--max-blocks", "3", "--strict-affinity") == {
        "strict_affinity": True, "max_blocks_per_node": 3, "no_automatic_blocks": False}
    assert machine.shown("configure", "--no-strict-affinity")["max_blocks_per_node"] == 3
    assert machine.ipam("configure").splitlines()[1] == "max blocks a node  3"
    assert machine.ipam("configure", "--max-blocks", "0").splitlines()[1] == "max blocks a node  20"


def test_a_clean_store_has_no_problems(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    assert machine.ipam("check", "--output", str(file)).splitlines() == ["2 allocated, 2 in use, no problems"]
    assert json.loads(file.read_text())["problems"] == []
    assert machine.ipam("release", "--from-report", str(file)) == "nothing was freed\n"
    assert machine.ipam("rebuild") == "there is nothing to rebuild\n"


def test_a_leak_is_reported_and_released_from_the_report(machine: Machine, tmp_path: Path) -> None:
    """Then it cools down; the same report again frees nothing."""
    address = machine.assign("leaked")
    file = tmp_path / "report.json"
    output = machine.ipam("check", "--output", str(file), code=1)
    assert [line for line in output.splitlines() if line.startswith(f"not in use: {address}: ")]
    assert "3 allocated, 2 in use, 1 problem\n" in output
    assert machine.ipam("release", "--from-report", str(file)).startswith(f"freed {address}")
    found = machine.ipam("show", "--ip", address)
    assert "cooling down" in found
    assert "muslin/leaked/eth0" in found
    again = subprocess.run(machine.command("sh", "-c", f"{machine.muslin_command} ipam release --from-report {file}"),
                           capture_output=True, text=True, check=False)
    assert address not in again.stdout
    assert machine.ipam("check").endswith("no problems\n")


def test_collect_shows_a_leak_and_a_dry_run_frees_nothing(machine: Machine) -> None:
    address = machine.assign("collected")
    for _ in range(2):
        [finding] = machine.shown("collect", "--dry-run")["findings"]
        assert (finding["handle"]["addresses"], finding["block"]) == ([address], "")
    assert machine.ipam("collect", "--dry-run").splitlines()[1].split()[:3] == [
        "muslin/collected/eth0", address, "node1"]
    assert "in use" in machine.ipam("show", "--ip", address)
    machine.ipam("release", "--yes", address)
    assert machine.ipam("collect") == "nothing is left over\n"


def test_release_says_what_is_at_stake_and_asks(machine: Machine) -> None:
    """No is no; an attachment can be named itself; what nobody uses is called so."""
    address = machine.addresses()["default/one"]
    asked = machine.answered("n\n", "release", address)
    assert asked.returncode == 1
    assert "ALTHOUGH pod default/one on node node1 USES" in asked.stderr
    assert machine.addresses()["default/one"] == address
    leaked = machine.assign("asked")
    asked = machine.answered("y\n", "release", "muslin/asked/eth0")
    assert (asked.returncode, asked.stdout) == (0, f"freed {leaked}\n"), asked.stderr
    assert "no endpoint uses them" in asked.stderr
    assert machine.ipam("release", "--yes", "muslin/asked/eth0").startswith("nothing was freed")


def test_what_was_released_in_use_is_reported_and_rebuilt(machine: Machine) -> None:
    """A dry run says what it would do and does not; afterwards the pod has its address again."""
    before = machine.addresses()
    machine.ipam("release", "--yes", before["default/two"])
    output = machine.ipam("check", code=1)
    assert f"not allocated: {before['default/two']}: " in output
    planned = machine.ipam("rebuild").splitlines()
    assert planned[-1].endswith("nothing is changed yet; do it with --apply")
    assert machine.ipam("check", code=1)
    done = machine.ipam("rebuild", "--apply").splitlines()
    assert done[:-1] == planned[:-1]
    assert machine.ipam("check").endswith("2 allocated, 2 in use, no problems\n")
    assert machine.addresses() == before


def test_a_damaged_store_is_reported_line_by_line_and_rebuilt(machine: Machine) -> None:
    """A handle and its block that do not decode: a line each; then all is as before."""
    before = machine.addresses()
    [handle] = [item for item in machine.shown("show", "--handles")["handles"] if item["pod"] == "two"]
    block = handle["held"][0]["block"]
    attachment = handle["attachment"]
    damaged = [keys.handle(attachment["network"], attachment["container_id"], attachment["ifname"]), keys.block(block)]
    machine.damage(damaged)
    lines = machine.ipam("check", code=1).splitlines()
    for key in damaged:
        assert [line for line in lines if line.startswith(f"undecodable: {key}: ")], lines
    assert lines[-1].endswith(" problems")
    machine.ipam("rebuild", "--apply")
    assert machine.ipam("check").endswith("2 allocated, 2 in use, no problems\n")
    assert machine.addresses() == before


def test_nodes_give_up_blocks_and_are_removed(machine: Machine) -> None:
    address = machine.assign("gone", "ghost")
    [block] = machine.shown("show", "--node", "ghost")["blocks"]
    given = machine.shown("release-affinity", "ghost", block["cidr"])
    assert (given["deleted"], given["orphaned"]) == ([], [block["cidr"]])
    assert machine.shown("remove-node", "ghost")["addresses"] == [address]
    assert machine.ipam("remove-node", "ghost") == "node ghost held nothing\n"
    assert "node1" in machine.ipam("remove-node", "node1", code=1)
    assert machine.ipam("check").endswith("no problems\n")


def test_nodes_are_listed_shown_and_drained(machine: Machine) -> None:
    def node(*argv: str, code: int = 0) -> Any:
        return json.loads(machine.muslin("node", *argv, "-o", "json", code=code))

    def listed() -> dict[str, Any]:
        return {each["node"]: each for each in node("list")["nodes"]}

    deadline = time.monotonic() + 60
    while not (listed()["node1"]["host"] or {}).get("present"):  # its daemon says so when it has looked around
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert listed()["node1"]["host"]["trouble"] == ""
    assert listed()["node1"]["use"] == {"node": "node1", "blocks": 1, "addresses": 2, "draining": False}
    assert re.search(r"^node1 +ready +1 +2 ", machine.muslin("node", "list"), re.MULTILINE)
    shown = machine.muslin("node", "show", "node1")
    assert "state:      ready\n" in shown
    assert "2 of 64 used" in shown
    assert "node nowhere has not announced itself" in machine.muslin("node", "show", "nowhere", code=1)

    address = machine.assign("drained", "ghost")
    answer = node("drain-ipam", "ghost", "--wait", "--timeout", "1", code=3)
    assert answer["left"] == {"node": "ghost", "blocks": 1, "addresses": 1, "draining": True}
    with pytest.raises(grpc.aio.AioRpcError, match="node ghost is drained of addresses"):
        machine.assign("another", "ghost")
    assert re.search(r"^ghost +unknown, drained +1 +1 ", machine.muslin("node", "list"), re.MULTILINE)
    assert machine.muslin("node", "drain-ipam", "ghost", "--undo") == (
        "node ghost gets addresses again; it has 1 address and 1 block\n")
    assert machine.assign("drained", "ghost") == address
    assert machine.shown("remove-node", "ghost")["addresses"] == [address]


def test_a_terminal_gets_colour_in_its_width_and_a_pipe_neither(machine: Machine) -> None:
    """Of 80 columns; NO_COLOR is honoured."""
    colour = re.compile(r"\033\[[0-9;]*m")
    command = machine.command(sys.executable, "-m", "muslin.cli.main", "ipam", "show", "--blocks", "--handles")
    shown = on_terminal(command, {"TERM": "xterm"})
    assert colour.search(shown)
    assert max(map(len, colour.sub("", shown).splitlines())) <= 80
    assert not colour.search(on_terminal(command, {"TERM": "xterm", "NO_COLOR": "1"}))
    piped = machine.ipam("show", "--blocks", "--handles")
    assert not colour.search(piped)
    assert max(map(len, piped.splitlines())) > 80


def on_terminal(command: list[str], environment: dict[str, str]) -> str:
    """What a program prints on a terminal of 80 columns."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "TERM")}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, env=variables | environment)
    os.close(theirs)
    found = b""
    try:
        while part := os.read(ours, 65536):
            found += part
    except OSError as error:
        if error.errno != errno.EIO:  # what a terminal says once nobody has its other end
            raise
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    return found.decode()


def test_names_are_completed(machine: Machine) -> None:
    def completed(words: str, number: int) -> list[str]:
        return machine.run("env", "_MUSLIN_COMPLETE=bash_complete", f"COMP_WORDS={words}", f"COMP_CWORD={number}",
                           *machine.muslin_command.split()).split()

    assert completed("muslin ipam pool delete ", 4) == ["plain,default"]
    assert completed("muslin ipam pool delete x", 4) == []
    assert completed("muslin ipam remove-node ", 3) == ["plain,node1"]
    assert completed("muslin ipam pool delete --run-dir /nowhere ", 6) == []


def test_it_is_found_by_its_address_too(machine: Machine) -> None:
    """And through the node daemon, as on a node without `muslin up`."""
    for socket in ("ipam.sock", "muslin.sock"):
        assert machine.shown("pool", "list", "--ipam", f"unix:/run/muslin/{socket}")["pools"][0]["name"] == "default"
