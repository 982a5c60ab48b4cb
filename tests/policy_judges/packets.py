"""Thousands of flows as real packets, all at once: which of them arrive.

Nobody waits for a packet that is dropped. What is expected to arrive is waited for, as long as it takes; what is not
is given up once a fence has arrived: a packet that was sent after all others, on the same processor and over as many
hops. The kernel keeps the packets of one processor in order from veth to veth (its backlog is a queue), so what was
to arrive has arrived by then. A wrong expectation is therefore seen either way; a slow machine makes it only slower.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from muslin import netns

_SCTP = 132  # the kernel has no sockets for it: packets are written and read raw
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, and keep nothing


class Probe(NamedTuple):
    """A flow between addresses."""

    source: str
    destination: str
    protocol: str
    port: int


class Prober:
    """Sockets in the namespaces of all addresses."""

    def __init__(self, stack: ExitStack, places: Mapping[str, Path], ports: Collection[int],
                 fence: tuple[str, str]) -> None:
        """`places` are the namespaces by address, of both families; `fence` is a pair that always reach each other."""
        self.patience = 30.0
        """Seconds that an expected packet may take. Only where it never comes is it waited for so long."""
        self._places = places
        self._fence = fence
        self._ports = sorted(ports)
        self._tcp: list[socket.socket] = []
        self._udp: list[tuple[str, int, socket.socket]] = []
        self._sctp: dict[str, socket.socket] = {}
        self._next = 0
        for address, path in places.items():
            family = _family(address)
            with netns.entered(path):
                for port in self._ports:
                    self._udp.append((address, port, stack.enter_context(_bound(family, socket.SOCK_DGRAM, port))))
                    self._tcp.append(stack.enter_context(_bound(family, socket.SOCK_STREAM, port)))
                raw = socket.socket(family, socket.SOCK_RAW, _SCTP)
                self._sctp[address] = stack.enter_context(raw)
                raw.setblocking(False)
                _roomy(raw)

    def arrived(self, probes: Collection[Probe], expected: Collection[Probe]) -> set[Probe]:
        """Which of the flows came about: all of what is expected, if it does, and of the rest what did too."""
        found: set[Probe] = set()
        wanted = set(expected)
        with _on_one_processor():
            for protocol, method in (("TCP", self._connect), ("UDP", self._send), ("SCTP", self._send)):
                mine = [probe for probe in probes if probe.protocol == protocol]
                if mine:
                    found |= method(mine, wanted.intersection(mine))
        return found

    def _connect(self, probes: Collection[Probe], wanted: set[Probe]) -> set[Probe]:
        found: set[Probe] = set()
        with ExitStack() as stack:
            clients: dict[int, tuple[Probe, socket.socket]] = {}
            poll = stack.enter_context(select.epoll())
            for source, part in _by_source(probes).items():
                with netns.entered(self._places[source]):
                    for probe in part:
                        client = stack.enter_context(socket.socket(_family(source), socket.SOCK_STREAM))
                        client.setblocking(False)
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        client.connect_ex((probe.destination, probe.port))
                        clients[client.fileno()] = probe, client
                        poll.register(client, select.EPOLLOUT)

            def gather(seconds: float) -> None:
                for number, _ in poll.poll(seconds):
                    probe, client = clients[number]
                    error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    assert error == 0, f"{probe}: {os.strerror(error)}"
                    found.add(probe)
                    poll.unregister(client)

            deadline = time.monotonic() + self.patience
            while not wanted <= found and time.monotonic() < deadline:
                gather(1.0)  # a lost SYN is sent again by the kernel
            self._pass_fence(socket.SOCK_STREAM)
            for _ in range(len(probes)):
                before = len(found)
                gather(0)
                if len(found) == before:
                    break
        for listener in self._tcp:
            _drain(listener)
        return found

    def _send(self, probes: Collection[Probe], wanted: set[Probe]) -> set[Probe]:
        """Datagrams that bear a number each; those expected are sent again until they arrive."""
        numbers = dict(enumerate(probes, self._next))
        self._next += len(numbers)
        found: set[Probe] = set()
        deadline = time.monotonic() + self.patience
        missing: Collection[Probe] = probes
        with ExitStack() as stack:
            senders = {source: stack.enter_context(_sender(self._places[source], _family(source)))
                       for source in _by_source(probes)}
            while missing and time.monotonic() < deadline:
                for number, probe in numbers.items():
                    if probe in missing:
                        self._emit(number, probe, senders[probe.source])
                self._pass_fence(socket.SOCK_DGRAM)
                found |= {numbers[number] for number in self._received(numbers)}
                missing = wanted - found
        return found

    def _emit(self, number: int, probe: Probe, sender: socket.socket) -> None:
        if probe.protocol == "UDP":
            sender.sendto(number.to_bytes(4, "big"), (probe.destination, probe.port))
        else:
            self._sctp[probe.source].sendto(_init(number, sender.getsockname()[1], probe.port), (probe.destination, 0))

    def _received(self, numbers: Mapping[int, Probe]) -> Iterator[int]:
        """Numbers that have arrived, where they were sent to."""
        for address, port, receiver in self._udp:
            for data in _datagrams(receiver):
                number = int.from_bytes(data, "big")
                probe = numbers.get(number)
                if probe is not None:  # else a fence, or of a call before
                    assert (probe.destination, probe.port, probe.protocol) == (address, port, "UDP"), probe
                    yield number
        for address, receiver in self._sctp.items():
            for data in _datagrams(receiver):
                header = 0 if ":" in address else (data[0] & 0xF) * 4  # IPv6 gives none
                port, = struct.unpack_from(">H", data, header + 2)
                number, = struct.unpack_from(">I", data, header + 16)
                probe = numbers.get(number - 1)
                if probe is not None:
                    assert (probe.destination, probe.port, probe.protocol) == (address, port, "SCTP"), probe
                    yield number - 1

    def _pass_fence(self, kind: socket.SocketKind) -> None:
        source, destination = self._fence
        with netns.open_socket(self._places[source], socket.AF_INET, kind) as client, \
                netns.open_socket(self._places[destination], socket.AF_INET, kind) as server:
            server.bind((destination, 0))
            for each in (client, server):
                each.settimeout(30.0)
            if kind == socket.SOCK_STREAM:
                server.listen()
            client.connect(server.getsockname())
            if kind == socket.SOCK_DGRAM:
                client.send(b"fence")
                assert server.recv(16) == b"fence"


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _by_source(probes: Collection[Probe]) -> dict[str, list[Probe]]:
    result: dict[str, list[Probe]] = {}
    for probe in probes:
        result.setdefault(probe.source, []).append(probe)
    return result


@contextmanager
def _bound(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> Iterator[socket.socket]:
    with socket.socket(family, kind) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind(("", port))
        server.setblocking(False)
        if kind == socket.SOCK_STREAM:
            server.listen(4096)
        else:
            _roomy(server)
        yield server


@contextmanager
def _sender(where: Path, family: socket.AddressFamily) -> Iterator[socket.socket]:
    """A socket with a port of its own; that port is new, so no connection of before is meant."""
    with netns.open_socket(where, family, socket.SOCK_DGRAM) as client:
        client.bind(("", 0))
        yield client


def _roomy(receiver: socket.socket) -> None:
    """Room for a whole batch."""
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)


@contextmanager
def _on_one_processor() -> Iterator[None]:
    """Keep this thread where it is: the fence's order holds on one processor."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {random.choice(sorted(allowed))})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _datagrams(receiver: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield receiver.recv(2048)
        except BlockingIOError:
            return


def _drain(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return


def _init(number: int, source: int, destination: int) -> bytes:
    """An SCTP packet that asks for an association (RFC 9260, 3.3.2); `number` is in its initiate tag."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, number + 1, 65536, 1, 1, number + 1)
    head = struct.pack(">HHI", source, destination, 0)
    return head + struct.pack("<I", _crc32c(head + bytes(4) + chunk)) + chunk


def _crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
