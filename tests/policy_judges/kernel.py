"""The third judge: the kernel. A host with pods and two neighbours, and whatever cluster is put in force on it.

The program goes the way that it goes in service: engine, protocol message, the node's state, transactions. From one
cluster to the next it goes as a delta.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.node.enforce.judge import Flow as Connection
from services.node.enforce.judge import Judge
from services.node.enforce.program import from_message
from services.policy import wire
from services.policy.engine import Engine
from services.policy.events import EndpointGone, EndpointPut, Event, ResourceGone
from services.policy.model import PROTOCOLS, Attachment
from tests.integration.node import world
from tests.policy_judges.clusters import OUTSIDE, OUTSIDE_6, PORTS, compiled_pod
from tests.policy_judges.packets import Probe, Prober
from tests.support.netns import command, namespace
from tests.support.oracle import Flow, Pod
from tests.unit.policy import cluster

NODE = "n1"
FENCES = ("fence", "fence-2")


class Kernel:
    """A host whose pods can become any cluster's."""

    def __init__(self, host: world.World, prober: Prober) -> None:
        self.prober = prober
        self._engine = Engine()
        self._host = host
        self._wired = {address: pod for pod in host.pods.values() for address in (pod.address, pod.address6)}
        self._resources: set[str] = set()
        self._revision = 0
        fences = [pod for pod in host.pods.values() if pod.name.startswith("f")]
        self._fences = [Pod(FENCES[0], pod.name, pod.address) for pod in fences]
        self.addresses = tuple(pod.address for pod in host.pods.values() if pod not in fences)
        """Of the pods that clusters may have."""
        self.addresses_6 = tuple(pod.address6 for pod in host.pods.values() if pod not in fences)

    def enforce(self, pods: Iterable[Pod], manifests: Iterable[Mapping[str, Any]]) -> None:
        """Put a cluster in the place of the one before. What leads there must be what is compiled from nothing."""
        puts = [cluster.put(manifest) for manifest in (cluster.namespace(FENCES[0]), *manifests)]
        resources = {event.resource.id for event in puts}
        gone = [ResourceGone(each) for each in sorted(self._resources - resources)]
        endpoints = {self._wired[pod.address].name: EndpointPut(self._endpoint(pod)) for pod in (*pods, *self._fences)}
        left = [EndpointGone(Attachment(*wired.attachment)) for name, wired in self._host.pods.items()
                if name not in endpoints]
        events: list[Event] = [*endpoints.values(), *left, *puts, *gone]
        update = self._engine.handle(events).get(NODE)
        self._resources = resources
        fresh = Engine()
        fresh.handle(events)
        assert fresh.program(NODE) == self._engine.program(NODE)
        if update is not None:
            self._revision += 1
            message = wire.subscribe_response(update, self._revision, snapshot=self._revision == 1, resume="")
            self._host.apply(from_message(type(message).FromString(message.SerializeToString())))

    def _endpoint(self, pod: Pod) -> Any:
        wired = self._wired[pod.address]
        return replace(compiled_pod(pod, NODE).endpoint(), attachment=Attachment(*wired.attachment),
                       interface=wired.interface, addresses=(wired.address, wired.address6))

    def differences(self, verdicts: Mapping[Flow, bool], address: Callable[[str], str]) -> list[str]:
        """Send all flows, and say where the kernel differs from the verdicts; `address` gives that of a side.

        What the node says to connections that are there already, by computing, is held against the verdicts, too.
        """
        probes = {Probe(address(f.source), address(f.destination), f.protocol, f.port): f for f in verdicts}
        expected = {probe for probe, flow in probes.items() if verdicts[flow]}
        command(self._host.host, "conntrack", "-F")  # flows of clusters before count no more
        found = self.prober.arrived(probes, expected)
        judge = Judge(self._host.state, frozenset())
        return ([f"{flow}: connections are judged otherwise" for probe, flow in probes.items()
                 if judge.allows(_connection(probe)) != verdicts[flow]]
                + [f"{probes[probe]}: should pass, and does not" for probe in sorted(expected - found)]
                + [f"{probes[probe]}: should not pass, and does" for probe in sorted(found - expected)])

    def listing(self) -> str:
        """What nft(8) prints of the table."""
        return self._host.listing()


@contextmanager
def kernel(pods: int, network: ipaddress.IPv4Address = world.NETWORK) -> Iterator[Kernel]:
    """A host with that many pods, at the addresses behind `network`, and neighbours at those that no pod has.

    Pods have IPv6 addresses, too.
    """
    with ExitStack() as stack:
        names = (*(f"p{i}" for i in range(pods)), "f1", "f2")
        host = stack.enter_context(world.world(*names, network=network, ipv6=True))
        places = {address: pod.netns for pod in host.pods.values() for address in (pod.address, pod.address6)}
        for i, addresses in enumerate(zip(OUTSIDE, OUTSIDE_6, strict=True)):
            neighbour = stack.enter_context(namespace("outside"))
            _link(host.host, f"up{i}", neighbour)
            for address, gateway in zip(addresses, (f"10.99.0.{i}", f"fd00:99::{i + 1}"), strict=True):
                places[address] = neighbour
                _route(host.host, f"up{i}", gateway, neighbour, address)
        # The host's own, and it has no uplink: what pods need by themselves, other tests look at.
        command(host.host, "sysctl", "-q", "net.ipv6.conf.all.forwarding=1")
        fence = (host.pods["f1"].address, host.pods["f2"].address)
        yield Kernel(host, Prober(stack, places, PORTS, fence))


def _connection(probe: Probe) -> Connection:
    source, destination = (ipaddress.ip_address(each).packed for each in (probe.source, probe.destination))
    return Connection(source, destination, PROTOCOLS[probe.protocol], probe.port)


MACS = ("02:00:00:01:00:01", "02:00:00:01:00:02")
"""Of the host's end and the neighbour's."""


def _link(host: Path, interface: str, neighbour: Path) -> None:
    """A cable between a host and its neighbour."""
    command(host, "ip", "link", "add", interface, "address", MACS[0], "type", "veth", "peer", "name", "eth0",
            "address", MACS[1], "netns", neighbour.name)
    for where, device in ((host, interface), (neighbour, "eth0")):
        command(where, "ip", "link", "set", device, "up")
    command(host, "sysctl", "-q", f"net.ipv4.conf.{interface}.forwarding=1")


def _route(host: Path, interface: str, gateway: str, neighbour: Path, address: str) -> None:
    """The neighbour's address, and its default route. Nobody asks for hardware addresses: that would take its time."""
    for where, device, mine, other, mac in ((host, interface, gateway, address, MACS[1]),
                                            (neighbour, "eth0", address, gateway, MACS[0])):
        options = ("nodad",) if ":" in mine else ()
        command(where, "ip", "address", "add", mine, "dev", device, *options)
        command(where, "ip", "route", "add", other, "dev", device)
        command(where, "ip", "neighbour", "replace", other, "lladdr", mac, "dev", device, "nud", "permanent")
    command(neighbour, "ip", "route", "add", "default", "via", gateway)
