"""Runs inside a node's container: makes pods there by the real plugin, and lets them send and count real packets.

It is piped to the container's Python and speaks JSON, a line for each request ({"id", "do", ...}) and each answer.
A pod that serves echoes UDP and TCP on one port and counts who reached it, by source address: what must not pass is
judged by what arrived, not by what the sender saw. When standard input ends, so does all this; the pods stay.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from muslin import netns
from muslin.cli.play import sandbox

PLUGIN = "/opt/cni/bin/muslin"
CONFIGURATION = b'{"cniVersion": "1.1.0", "name": "muslin", "type": "muslin", "policy": {"type": "k8s"}}'
TICK = 0.05
"""Seconds between two packets of a flow."""
KNOCK = 1.0
"""Seconds between two attempts to connect where no connection stands."""


class Flow:
    """One sender to one address: datagrams, and one TCP connection that is only made anew after its end."""

    def __init__(self, pod: str, place: str, address: str, port: int) -> None:
        self.pod, self.place, self.target = pod, place, (address, port)
        self.datagrams = _socket(place, socket.SOCK_DGRAM)
        self.stream: socket.socket | None = None
        self.connected, self.connections, self.knocked = False, 0, 0.0
        self.sent = 0
        self.clear()

    def clear(self) -> None:
        """Count anew: replies, the longest time without one (seconds, by protocol), and connections lost."""
        self.replies, self.lost = Counter[str](), 0
        self.last = dict.fromkeys(("udp", "tcp"), time.monotonic())
        self.gap = dict.fromkeys(("udp", "tcp"), 0.0)

    def heard(self, protocol: str) -> None:
        now = time.monotonic()
        self.gap[protocol] = max(self.gap[protocol], now - self.last[protocol])
        self.last[protocol] = now
        self.replies[protocol] += 1

    def report(self) -> dict[str, Any]:
        now = time.monotonic()
        gaps = {protocol: round(max(self.gap[protocol], now - self.last[protocol]), 3) for protocol in self.gap}
        return {"pod": self.pod, "target": self.target[0], "sent": self.sent, "replies": dict(self.replies),
                "gap": gaps, "lost": self.lost, "connected": self.connected}


class Traffic(threading.Thread):
    """All sockets of all pods, in one thread."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.selector = selectors.DefaultSelector()
        self.lock = threading.RLock()
        self.flows: list[Flow] = []
        self.reached: dict[str, Counter[str]] = {}

    def serve(self, pod: str, place: str, port: int) -> None:
        with self.lock:
            reached = self.reached.setdefault(pod, Counter())
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                made = _socket(place, kind)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(("", port))
                if kind == socket.SOCK_STREAM:
                    made.listen(64)
                self.selector.register(made, selectors.EVENT_READ, (self.datagram if kind == socket.SOCK_DGRAM
                                                                    else self.accept, reached))

    def send(self, pod: str, place: str, targets: list[str], port: int) -> None:
        with self.lock:
            for target in targets:
                flow = Flow(pod, place, target, port)
                self.selector.register(flow.datagrams, selectors.EVENT_READ, (self.reply, flow))
                self.flows.append(flow)

    def forget(self, pod: str) -> None:
        with self.lock:
            for flow in [flow for flow in self.flows if flow.pod == pod]:
                self.close(flow.datagrams)
                if flow.stream:
                    self.close(flow.stream)
                self.flows.remove(flow)

    def report(self, clear: bool) -> dict[str, Any]:
        with self.lock:
            found = {"flows": [flow.report() for flow in self.flows],
                     "reached": {pod: dict(sources) for pod, sources in self.reached.items()}}
            if clear:
                for flow in self.flows:
                    flow.clear()
                for sources in self.reached.values():
                    sources.clear()
            return found

    def run(self) -> None:
        due = time.monotonic()
        while True:
            for key, _ in self.selector.select(max(0.0, due - time.monotonic())):
                with self.lock:
                    if key.fd in self.selector.get_map():  # else it was closed since
                        handle, about = key.data
                        handle(key.fileobj, about)
            if time.monotonic() >= due:
                due = time.monotonic() + TICK
                with self.lock:
                    for flow in self.flows:
                        self.tick(flow)

    def tick(self, flow: Flow) -> None:
        flow.sent += 1
        try:
            flow.datagrams.sendto(b"?", flow.target)
        except OSError:
            pass  # no way there, which shows as silence
        now = time.monotonic()
        if flow.stream is not None and flow.connected:
            try:
                flow.stream.send(b"?")
            except BlockingIOError:
                pass  # the other side has not read for long, which shows as silence
            except OSError:
                self.end(flow)
        elif flow.stream is None or now - flow.knocked > KNOCK:
            if flow.stream is not None:
                self.close(flow.stream)
            flow.knocked = now
            flow.stream = _socket(flow.place, socket.SOCK_STREAM)
            flow.stream.connect_ex(flow.target)
            self.selector.register(flow.stream, selectors.EVENT_WRITE, (self.connected, flow))

    def connected(self, stream: socket.socket, flow: Flow) -> None:
        if stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close(stream)
            flow.stream = None
            return
        flow.connected = True
        flow.connections += 1
        self.selector.modify(stream, selectors.EVENT_READ, (self.stream_reply, flow))

    def stream_reply(self, stream: socket.socket, flow: Flow) -> None:
        try:
            if stream.recv(4096):
                flow.heard("tcp")
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # reset: the same as its end
        self.end(flow)

    def end(self, flow: Flow) -> None:
        assert flow.stream is not None
        self.close(flow.stream)
        flow.stream, flow.connected = None, False
        flow.lost += 1

    def reply(self, made: socket.socket, flow: Flow) -> None:
        try:
            made.recv(4096)
        except OSError:
            return
        flow.heard("udp")

    def datagram(self, made: socket.socket, reached: Counter[str]) -> None:
        try:
            data, source = made.recvfrom(4096)
            reached[source[0]] += 1
            made.sendto(data, source)
        except OSError:
            pass  # the answer's way is not what is judged here

    def accept(self, made: socket.socket, reached: Counter[str]) -> None:
        try:
            stream, source = made.accept()
        except OSError:
            return
        stream.setblocking(False)
        reached[source[0]] += 1
        self.selector.register(stream, selectors.EVENT_READ, (self.echo, (reached, source[0])))

    def echo(self, stream: socket.socket, about: tuple[Counter[str], str]) -> None:
        reached, source = about
        try:
            if data := stream.recv(4096):
                reached[source] += 1
                stream.send(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # it left
        self.close(stream)

    def close(self, made: socket.socket) -> None:
        try:
            self.selector.unregister(made)
        except (KeyError, ValueError):
            pass  # it was not waited for
        made.close()


def _socket(place: str, kind: int) -> socket.socket:
    made = netns.open_socket(place, socket.AF_INET, kind)
    made.setblocking(False)
    return made


class Pods:
    """What a container runtime knows of the pods here."""

    def __init__(self) -> None:
        self.environments: dict[str, dict[str, str]] = {}

    def add(self, pod: str, namespace: str, uid: str, container: str, timeout: float) -> dict[str, Any]:
        """ADD. Returns the pod's address, and the seconds from the plugin's start to its end."""
        place = str(sandbox.create(f"{container[:12]}-{pod}"))
        self.environments[container] = {
            "CNI_CONTAINERID": container, "CNI_NETNS": place, "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};"
                        f"K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"}
        began = time.monotonic()
        result = json.loads(self.call("ADD", container, timeout))
        return {"address": result["ips"][0]["address"].partition("/")[0], "seconds": time.monotonic() - began}

    def place(self, container: str) -> str:
        return self.environments[container]["CNI_NETNS"]

    def delete(self, container: str, timeout: float) -> None:
        """DEL, and the namespace with it."""
        self.call("DEL", container, timeout)
        netns.delete(Path(self.environments.pop(container)["CNI_NETNS"]).name)

    def call(self, verb: str, container: str, timeout: float) -> bytes:
        done = subprocess.run([PLUGIN], input=CONFIGURATION, capture_output=True, timeout=timeout, check=False,
                              env={"CNI_COMMAND": verb, **self.environments[container]})
        if done.returncode:
            raise RuntimeError(f"{verb}: {done.stdout.decode().strip()} {done.stderr.decode().strip()}")
        return done.stdout


def main() -> None:
    """Answer requests until there are no more."""
    traffic, pods, out = Traffic(), Pods(), threading.Lock()
    traffic.start()

    def do(request: dict[str, Any]) -> Any:
        what = request.pop("do")
        if what == "add":
            return pods.add(**request)
        if what == "delete":
            traffic.forget(request["container"])
            return pods.delete(**request)
        if what == "serve":
            return traffic.serve(request["pod"], pods.place(request["container"]), request["port"])
        if what == "send":
            return traffic.send(request["container"], pods.place(request["container"]), request["targets"],
                                request["port"])
        if what == "report":
            return traffic.report(request["clear"])
        raise ValueError(what)

    def answer(request: dict[str, Any]) -> None:
        number, began = request.pop("id"), time.monotonic()
        try:
            said = {"id": number, "result": do(request)}
        except Exception as problem:  # noqa: BLE001 - said to whom asked
            said = {"id": number, "error": f"{type(problem).__name__}: {problem}"}
        line = json.dumps({**said, "seconds": round(time.monotonic() - began, 3)})
        with out:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    with ThreadPoolExecutor(40) as pool:
        for line in sys.stdin:
            pool.submit(answer, json.loads(line))


main()
