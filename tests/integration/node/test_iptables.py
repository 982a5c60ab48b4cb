"""Docker's FORWARD chain, which drops what nobody lets through, in both kinds of tables and both families.

The rules are made and listed by iptables itself, so they are what its users see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from muslin import netns
from muslin.errors import IOFailure
from services.node.cleanup import clean
from services.node.enforce.program import Policy
from services.node.iptables import Iptables
from tests.integration.node import daemon
from tests.integration.node.daemon import call, endpoint, policy_service
from tests.integration.node.world import PREFIXES, World, reaches, world
from tests.support.arena import until
from tests.support.netns import command, namespace

pytestmark = pytest.mark.root

KINDS = pytest.mark.parametrize("program", ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"])


@pytest.fixture
def made() -> Iterator[World]:
    with world("a", "b", ipv6=True) as built:
        a, b = built.pods.values()
        b.listen(80)
        built.enforce(a.endpoint(), b.endpoint())
        yield built


def passes(made: World, program: str, *, timeout: float = 0.5) -> bool:
    a, b = made.pods.values()
    return reaches(a.netns, b.address6 if "ip6" in program else b.address, 80, timeout=timeout)


def listed(made: World, program: str) -> list[str]:
    return command(made.host, program, "-S").splitlines()


def opened(made: World) -> list[str]:
    return netns.run(made.host, Iptables(made.nft, PREFIXES).open)


@KINDS
def test_a_chain_that_drops_lets_pods_through_and_all_else_in_it_stays(made: World, program: str) -> None:
    rules = [["-P", "FORWARD", "DROP"], ["-N", "DOCKER-USER"], ["-A", "FORWARD", "-j", "DOCKER-USER"],
             ["-A", "DOCKER-USER", "-p", "tcp", "--dport", "25", "-j", "DROP"],
             ["-A", "FORWARD", "-i", "docker0", "-o", "eth9", "-j", "ACCEPT"]]
    for rule in rules:
        command(made.host, program, *rule)
    before = listed(made, program)
    assert not passes(made, program)
    assert len(opened(made)) == 1
    assert passes(made, program, timeout=5)
    after = listed(made, program)
    ours = [line for line in after if "muslin" in line]
    assert [line for line in after if line not in ours] == before
    assert [line.split()[2:4] for line in ours] == [[option, f"{prefix}+"] for prefix in PREFIXES
                                                    for option in ("-i", "-o")]
    assert opened(made) == [], "what is there is not made again"
    assert len(netns.run(made.host, Iptables(made.nft, PREFIXES).close)) == 1
    assert listed(made, program) == before
    assert not passes(made, program)


@KINDS
def test_what_is_before_them_decides_first_and_our_policy_decides_as_well(made: World, program: str) -> None:
    command(made.host, program, "-P", "FORWARD", "DROP")
    opened(made)
    a, b = made.pods.values()
    made.enforce(a.endpoint(), b.endpoint(ingress=[["t/none"]]), policies=[Policy("t/none")])
    assert not passes(made, program)
    made.enforce(a.endpoint(), b.endpoint())
    assert passes(made, program, timeout=5)
    command(made.host, program, "-I", "FORWARD", "-o", b.interface, "-j", "DROP")
    assert not passes(made, program)


def test_a_chain_that_drops_nothing_is_left_alone(made: World) -> None:
    for program in ("iptables-nft", "iptables-legacy"):
        command(made.host, program, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
    before = command(made.host, "iptables-nft-save"), command(made.host, "iptables-legacy-save")
    assert opened(made) == []
    assert [[line for line in text.splitlines() if line[0] == "-"] for text in before] == [
        [line for line in command(made.host, f"{program}-save").splitlines() if line[0] == "-"]
        for program in ("iptables-nft", "iptables-legacy")]


def test_no_table_of_iptables_is_made_where_there_is_none(made: World) -> None:
    assert opened(made) == []
    assert command(made.host, "nft", "list", "tables").splitlines() == ["table inet muslin"]
    assert netns.run(made.host, lambda: Path("/proc/thread-self/net/ip_tables_names").read_text()) == ""


def test_a_legacy_table_without_its_program_is_an_error_that_says_what_to_do(
        made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """But no obstacle to cleaning up."""
    command(made.host, "iptables-legacy", "-P", "FORWARD", "DROP")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(IOFailure, match="iptables-legacy, and that program is not installed: install it"):
        opened(made)
    assert netns.run(made.host, Iptables(made.nft, PREFIXES).close) == []


def test_a_rule_that_somebody_deleted_comes_again(made: World) -> None:
    for program in ("iptables-nft", "iptables-legacy"):
        command(made.host, program, "-P", "FORWARD", "DROP")
        opened(made)
        whole = listed(made, program)
        command(made.host, program, "-D", "FORWARD", "1" if "nft" in program else "2")
        assert len(opened(made)) == 1
        assert sorted(listed(made, program)) == sorted(whole)
        command(made.host, program, "-P", "FORWARD", "ACCEPT")


async def test_the_daemon_keeps_it_open_and_cleaning_up_closes_it(tmp_path: Path) -> None:
    """Docker starts after the daemon, and its chain is flushed later; pods reach each other again each time."""
    with namespace("host") as host, namespace("a") as a, namespace("b") as b:
        async with policy_service(tmp_path) as programs:
            programs.snapshot.policies.append(daemon.allow_all())
            programs.snapshot.endpoints.extend([endpoint("a", "10.5.0.1", "musa"), endpoint("b", "10.5.0.2", "musb")])
            node = await daemon.spawn(host, tmp_path)
            try:
                await node.ready()
                await node.add(call("a", a, "10.5.0.1", "musa"))
                await node.add(call("b", b, "10.5.0.2", "musb"))
                command(host, "iptables-nft", "-P", "FORWARD", "DROP")
                await asyncio.to_thread(until, lambda: reaches(a, "10.5.0.2", 80))
                command(host, "iptables-nft", "-F", "FORWARD")
                await asyncio.to_thread(until, lambda: reaches(a, "10.5.0.2", 80))
            finally:
                await node.stop()
        assert "rules of ours in chain FORWARD of table ip filter" in netns.run(host, clean)
        assert command(host, "iptables-nft", "-S").splitlines() == [
            "-P INPUT ACCEPT", "-P FORWARD DROP", "-P OUTPUT ACCEPT"]
