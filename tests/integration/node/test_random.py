"""Random programs against real packets: each datagram arrives or is counted as dropped, as the program says."""

from __future__ import annotations

import ipaddress
import random
import selectors
import socket
from collections.abc import Iterator

import pytest

from muslin import netns
from services.node.counters import drops_of
from services.node.enforce.judge import Flow, Judge
from services.node.enforce.program import Action, Endpoint, Group, Kind, Policy, Rule
from tests.integration.node.world import Pod, World, group, world
from tests.support.arena import until
from tests.support.netns import command

pytestmark = pytest.mark.root

PORTS = (80, 443)
NETS = ("192.168.7.0/31", "192.168.7.2/31", "192.168.7.3/32", "0.0.0.0/0", "fd00:7::/126", "fd00:7::2/127", "::/0")


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("a", "b", "c", ipv6=True) as built:
        command(built.host, "sysctl", "-q", "net.ipv6.conf.all.forwarding=1")
        yield built


class Chance:
    """Random pieces of a program for these pods."""

    def __init__(self, seed: int, pods: list[Pod]) -> None:
        self._random = random.Random(seed)
        self._pods = pods
        self._addresses = [address for pod in pods for address in (pod.address, pod.address6)]

    def _some(self, values: list[str], most: int) -> list[str]:
        return self._random.sample(values, self._random.randint(0, min(most, len(values))))

    def groups(self) -> list[Group]:
        named = [f"{address},17,{port}" for address in self._addresses for port in PORTS]
        return [group("peers", Kind.ADDRESS, *self._some(self._addresses, 4)),
                group("ports", Kind.PORT, *self._some(named, 6))]

    def rule(self) -> Rule:
        pick = self._random.choice
        return Rule(
            pick((Action.ALLOW, Action.ALLOW, Action.ALLOW, Action.DENY, Action.PASS, Action.LOG)),
            protocol=pick((0, 17, 17, 6)), peer_group=pick(("", "", "peers")), port_group=pick(("", "", "", "ports")),
            nets=tuple(map(ipaddress.ip_network, self._some(list(NETS), 2))),
            not_nets=tuple(map(ipaddress.ip_network, self._some(list(NETS), 1))),
            ports=pick(((), (), ((80, 80),), ((81, 500),), ((80, 80), (440, 450)))), path="spec.x[0]")

    def policy(self, name: str) -> Policy:
        ingress, egress = (tuple(self.rule() for _ in range(self._random.randint(0, 4))) for _ in range(2))
        return Policy(name, name, ingress=ingress, egress=egress)

    def endpoint(self, pod: Pod) -> Endpoint:
        def tiers() -> list[list[str]]:
            return [tier for tier in (self._some(["t/1", "t/2"], 2), self._some(["u/3", "u/4"], 2)) if tier]
        profiles = self._random.choice((("profile/all",), ("profile/all",), ("profile/gone",), ()))
        return pod.endpoint(ingress=tiers(), egress=tiers(), profiles=profiles)


@pytest.mark.parametrize("seed", range(12))
def test_each_datagram_does_what_the_program_says(made: World, seed: int) -> None:
    """Tiers, Pass, Deny, Log, groups, named ports, nets and exceptions; both families, between all pods."""
    pods = list(made.pods.values())
    chance = Chance(seed, pods)
    policies = [chance.policy(name) for name in ("t/1", "t/2", "u/3", "u/4")]
    made.enforce(*map(chance.endpoint, pods), policies=policies, groups=chance.groups())
    judge = Judge(made.state, frozenset())
    flows = [(source, target, address, own, port) for source in pods for target in pods if source is not target
             for address, own in ((target.address, source.address), (target.address6, source.address6))
             for port in PORTS]
    with selectors.DefaultSelector() as listening:
        try:
            for pod in pods:
                for port in PORTS:
                    receiver = netns.open_socket(pod.netns, socket.AF_INET6, socket.SOCK_DGRAM)
                    receiver.bind(("::", port))
                    receiver.setblocking(False)
                    listening.register(receiver, selectors.EVENT_READ)
            before = dropped(made)
            for number, (source, _, address, _, port) in enumerate(flows):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with netns.open_socket(source.netns, family, socket.SOCK_DGRAM) as sender:
                    sender.sendto(number.to_bytes(2, "big"), (address, port))
            arrived: set[int] = set()

            def all_told() -> bool:
                for key, _ in listening.select(0):
                    while True:
                        try:
                            arrived.add(int.from_bytes(key.fileobj.recv(8), "big"))  # type: ignore[union-attr]  # a socket
                        except BlockingIOError:
                            break
                return len(arrived) + dropped(made) - before == len(flows)

            until(all_told)
        finally:
            for key in list(listening.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]  # a socket
    expected = {number for number, (_, _, address, own, port) in enumerate(flows) if judge.allows(Flow(
        ipaddress.ip_address(own).packed, ipaddress.ip_address(address).packed, 17, port))}
    assert arrived == expected, f"seed {seed}"


def dropped(made: World) -> int:
    return sum(each.packets for each in drops_of(made.state, made.nft.tallies("muslin", "drops")))
