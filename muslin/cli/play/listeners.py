"""One process that listens on the declared ports of all pods of a play.

A socket stays in the network namespace that it was made in, so one process serves them all. TCP: accept, greet, close.
UDP: greet and echo. It reads what to listen on from standard input, one JSON line, answers with one line (`ready`, or
what failed) and then serves until standard input ends; after the line `keep` it serves until it is terminated.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from muslin import netns
from muslin.cli.play.flows import UNPROBED_PROTOCOLS, PlayedPort
from muslin.cli.play.greeting import MOST, greeting
from muslin.errors import MuslinError

__all__ = ["request", "serve", "raise_file_limit"]

BACKLOG = 1024


def request(pods: Iterable[tuple[str, str, Sequence[PlayedPort]]]) -> bytes:
    """The line that tells the process what to do: (pod, path of its namespace, ports) for each pod."""
    return json.dumps([{"pod": pod, "netns": path, "ports": [[port.protocol, port.port] for port in ports]}
                       for pod, path, ports in pods]).encode() + b"\n"


def raise_file_limit() -> int:
    """Let this process have as many open files as it may; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _listen(pod: str, path: str, ports: Iterable[PlayedPort]) -> list[tuple[socket.socket, bytes]]:
    """Sockets in a pod's namespace, each with what it says."""
    def opened() -> list[tuple[socket.socket, bytes]]:
        found = []
        for port in ports:
            if port.protocol in UNPROBED_PROTOCOLS:
                continue
            stream = port.protocol == "TCP"
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("0.0.0.0", port.port))
            if stream:
                listener.listen(BACKLOG)
            found.append((listener, greeting(pod, port)))
        return found

    return netns.run(path, opened)


def _answer(listener: socket.socket, words: bytes) -> None:
    """Answer one caller; one who has gone again is no trouble of the listener's."""
    try:
        if listener.type == socket.SOCK_STREAM:
            caller, _ = listener.accept()
            with caller:
                caller.send(words)  # a new connection's buffer takes it at once
        else:
            data, sender = listener.recvfrom(MOST)
            listener.sendto(words + data, sender)
    except OSError:
        pass


def serve() -> int:
    """The process; returns its exit code."""
    raise_file_limit()
    wanted: list[dict[str, Any]] = json.loads(sys.stdin.buffer.readline())
    chosen = selectors.DefaultSelector()
    try:
        for entry in wanted:
            ports = [PlayedPort(protocol, port) for protocol, port in entry["ports"]]
            for listener, words in _listen(entry["pod"], entry["netns"], ports):
                chosen.register(listener, selectors.EVENT_READ, words)
    except (MuslinError, OSError) as problem:
        print(f"can not listen for {entry['pod']}: {problem}", flush=True)
        return 1
    chosen.register(sys.stdin, selectors.EVENT_READ, None)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print("ready", flush=True)
    while True:
        for key, _ in chosen.select():
            if key.data is not None:
                _answer(key.fileobj, key.data)  # type: ignore[arg-type]  # all but standard input are sockets
            elif os.read(sys.stdin.fileno(), 16) == b"keep\n":
                chosen.unregister(sys.stdin)
            else:
                return 0


if __name__ == "__main__":
    sys.exit(serve())
