"""A host and its pods for tests: namespaces wired by the node's own code, and probes with real packets."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from muslin import netns
from services.node import actual
from services.node.attachment import Attachment
from services.node.enforce import table
from services.node.enforce.parts import Owner
from services.node.enforce.program import Action, Endpoint, Group, Kind, Policy, Rule, Update, member
from services.node.enforce.state import Claim, Event, State, applied
from services.node.netlink.connection import Connection
from services.node.netlink.network import IPAddress
from services.node.nft.connection import Nftables
from services.node.wiring import Wiring, wire
from tests.support.netns import command, namespace

PREFIXES = ("cali", "mus")
NETWORK = ipaddress.IPv4Address("192.168.7.0")
NETWORK_6 = ipaddress.IPv6Address("fd00:7::")
ALLOW_ALL = Policy("profile/all", "all", ingress=(Rule(Action.ALLOW),), egress=(Rule(Action.ALLOW),))


@dataclass
class Pod:
    """A wired pod."""

    name: str
    netns: Path
    attachment: Attachment
    interface: str
    address: str
    address6: str = ""
    mac: str = ""
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Its addresses, as values."""
        return tuple(ipaddress.ip_address(each) for each in (self.address, self.address6) if each)

    @property
    def wiring(self) -> Wiring:
        """How it is wired."""
        return Wiring(self.attachment, str(self.netns), self.interface, self.mac, self.addresses)

    def endpoint(self, *, ingress: Iterable[Iterable[str]] = (), egress: Iterable[Iterable[str]] = (),
                 profiles: Iterable[str] = ("profile/all",)) -> Endpoint:
        """Its endpoint in a program."""
        return Endpoint(self.attachment, self.interface, self.addresses,
                        tuple(map(tuple, ingress)), tuple(map(tuple, egress)), tuple(profiles), f"test/{self.name}")

    def listen(self, port: int, kind: int = socket.SOCK_STREAM) -> None:
        """Answer on a port until the world ends: accept TCP, echo UDP."""
        self.sockets.append(listening(self.netns, port, kind, ipv6=bool(self.address6)))


def listening(where: Path, port: int, kind: int = socket.SOCK_STREAM, *, ipv6: bool = False) -> socket.socket:
    """A socket in a namespace that accepts TCP or echoes UDP until it is closed; with `ipv6` of both families."""
    server = netns.open_socket(where, socket.AF_INET6 if ipv6 else socket.AF_INET, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("::" if ipv6 else "0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        server.listen(64)
    else:
        threading.Thread(target=_echo, args=(server, server.dup()), daemon=True).start()
    return server


def _echo(server: socket.socket, mine: socket.socket) -> None:
    """Until the server is closed. With a descriptor of its own: that of a closed one may be another's at once."""
    with mine:
        mine.settimeout(0.1)
        while server.fileno() >= 0:
            try:
                data, peer = mine.recvfrom(2048)
                mine.sendto(data, peer)
            except OSError:
                continue  # nothing came, or whoever sent it is gone


@dataclass
class World:
    """A namespace that stands for the host, its pods, and what is enforced."""

    host: Path
    links: Connection
    nft: Nftables
    pods: dict[str, Pod]
    state: State = field(default_factory=State)
    claim: bool = True

    def apply(self, *events: Event) -> None:
        """Take events and commit the difference, as the daemon does."""
        old = self.state
        changed: set[Owner] = set()
        for event in events:
            self.state, owners = applied(self.state, event)
            changed |= owners
        for messages in table.transition((old.parts[o] for o in changed if o in old.parts),
                                         (self.state.parts[o] for o in changed if o in self.state.parts)):
            self.nft.commit(messages)

    def replace(self) -> None:
        """Commit the whole table anew."""
        self.nft.commit(table.replacement(self.state.parts.values(), PREFIXES))

    def repair(self) -> None:
        """Read the table and put it in order, as the daemon does when it starts."""
        there = actual.read(self.nft)
        assert there is not None
        for messages in table.repair(there, self.state.parts.values(), PREFIXES):
            self.nft.commit(messages)

    def enforce(self, *endpoints: Endpoint, policies: Iterable[Policy] = (), groups: Iterable[Group] = ()) -> None:
        """Put a snapshot in force."""
        self.apply(Update(self.state.program.revision + 1, snapshot=True, groups=tuple(groups),
                          policies=(ALLOW_ALL, *policies), endpoints=endpoints))

    def listing(self) -> str:
        """What nft(8) prints."""
        return command(self.host, "nft", "list", "table", "inet", "muslin")


@contextmanager
def world(*pods: str, ipv6: bool = False, network: ipaddress.IPv4Address = NETWORK) -> Iterator[World]:
    """A host with these pods wired, and a table that knows them and allows them nothing yet.

    Pods have the addresses behind `network`, in their order.
    """
    with ExitStack() as stack:
        host = stack.enter_context(namespace("host"))
        links = stack.enter_context(Connection(host))
        nft = stack.enter_context(Nftables(host))
        made = World(host, links, nft, {})
        made.replace()
        for number, name in enumerate(pods, 1):
            path = stack.enter_context(namespace(name))
            pod = Pod(name, path, Attachment("net", f"container-{name}", "eth0"), f"mus{name}", str(network + number),
                      str(NETWORK_6 + number) if ipv6 else "", f"02:00:00:00:00:{number:02x}")
            wire(links, pod.wiring)
            made.pods[name] = pod
            made.apply(Claim(pod.attachment, pod.interface))
        try:
            yield made
        finally:
            for pod in made.pods.values():
                for each in pod.sockets:
                    each.close()


def family_of(address: str) -> socket.AddressFamily:
    """The family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def reaches(source: Path, address: str, port: int, *, timeout: float = 0.5, bind: str = "") -> bool:
    """Whether a TCP connection from that namespace comes about in time. A refusal counts: it came from there."""
    with netns.open_socket(source, family_of(address), socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        if bind:
            client.bind((bind, 0))
        try:
            client.connect((address, port))
        except TimeoutError:
            return False
        except ConnectionRefusedError:
            return True
        return True


def echoes(source: Path, address: str, port: int, *, timeout: float = 0.5) -> bool:
    """Whether a UDP datagram from that namespace is answered in time."""
    with netns.open_socket(source, family_of(address), socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect((address, port))
        try:
            client.send(b"?")
            return client.recv(16) == b"?"
        except (TimeoutError, ConnectionRefusedError):
            return False


def group(name: str, kind: Kind, *members: str) -> Group:
    """A group of these members."""
    return Group(name, kind).altered(frozenset(map(member, members)), frozenset())
