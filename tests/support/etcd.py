"""Real etcd processes for tests: one server, or a cluster of several, that can be killed, frozen and wiped.

>>> with EtcdServer() as server:
...     client = Etcd([server.endpoint])
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from muslin import netns
from muslin.etcd.binary import etcd_version, find_etcd
from muslin.tls import Files

__all__ = ["EtcdServer", "EtcdCluster", "free_ports"]

T = TypeVar("T")

_START = 20.0  # seconds that etcd may take to serve


@cache
def _flags(program: Path) -> tuple[str, ...]:
    """Short elections, few log lines and, where etcd can, no waiting for the disk."""
    fast = ("--heartbeat-interval=100", "--election-timeout=500", "--logger=zap", "--log-level=warn")
    return (*fast, "--unsafe-no-fsync") if etcd_version(program) >= (3, 5, 0) else fast


def _tls_flags(files: Files) -> Iterator[str]:
    for side in ("", "peer-"):
        yield f"--{side}cert-file={files.certificate}"
        yield f"--{side}key-file={files.key}"
        yield f"--{side}trusted-ca-file={files.authority}"
        yield f"--{side}client-cert-auth=true"


def _within(namespace: Path | None, function: Callable[[], T]) -> T:
    return function() if namespace is None else netns.run(namespace, function)


def free_ports(count: int) -> list[int]:
    """TCP ports of this host that nobody has at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class EtcdServer:
    """One etcd on free loopback ports, with its data in a temporary directory that goes with it.

    `namespace` is the path of a network namespace to run in (its `lo` must be up); clients must then be in there too.
    `program` is the etcd to run, by default the one that `muslin up` would find. Starts when entered as a context
    manager or by `start()`; `stop()` ends it and removes the data.
    """

    def __init__(self, *, namespace: Path | None = None, program: Path | None = None, name: str = "default",
                 arguments: Sequence[str] = (), tls: Files | None = None) -> None:
        """With `tls` clients and peers must show certificates of the same authority."""
        self.name = name
        self.tls = tls
        self.program = program or find_etcd()
        self.directory = Path(tempfile.mkdtemp(prefix="muslin-etcd-"))
        self.log = self.directory / "log"
        self.initial_cluster = ""
        self._namespace = namespace
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self.pick_ports()

    def pick_ports(self) -> None:
        """Take two ports that are free now."""
        self.port, self.peer_port = _within(self._namespace, lambda: free_ports(2))
        self.peer = f"{self.name}={self._scheme}://127.0.0.1:{self.peer_port}"

    @property
    def _scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def endpoint(self) -> str:
        """Where clients connect: "127.0.0.1:port"."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether there is a process, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process; raises if it does not run."""
        if self._process is None:
            raise RuntimeError(f"etcd {self.name} does not run")
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, on the data that is there, and wait until it serves."""
        for attempt in range(3):
            self.launch()
            try:
                return self.wait()
            except RuntimeError:
                # Somebody took the port between our choice and etcd's start; in a cluster the others know it already.
                if attempt == 2 or self.initial_cluster or "address already in use" not in self.log.read_text():
                    raise
                self.wipe()
                self.pick_ports()
        raise AssertionError("unreachable: the last attempt returns or raises")

    def launch(self) -> None:
        """Start the process and do not wait for it."""
        client, peer = f"{self._scheme}://{self.endpoint}", f"{self._scheme}://127.0.0.1:{self.peer_port}"
        command = [str(self.program), f"--name={self.name}", f"--data-dir={self.directory / 'data'}",
                   f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
                   f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                   f"--initial-cluster={self.initial_cluster or self.peer}", *_flags(self.program), *self._arguments,
                   *(_tls_flags(self.tls) if self.tls else ())]
        with self.log.open("wb") as log:
            self._process = _within(self._namespace, lambda: subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))

    def wait(self, timeout: float = _START) -> None:
        """Wait until it serves. Raises RuntimeError with its log if it exits, TimeoutError if it takes too long."""
        deadline = time.monotonic() + timeout
        while not self.healthy():
            if not self.running:
                self._process = None
                raise RuntimeError(f"etcd {self.name} has exited:\n{self.log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"etcd {self.name} does not serve after {timeout} s:\n"
                                   f"{self.log.read_text()[-2000:]}")
            time.sleep(0.02)  # etcd offers no event that could be awaited

    def healthy(self) -> bool:
        """Whether it serves reads, for which it needs a leader."""
        try:
            return bool(self._http("GET", "/health")["health"] == "true")
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False

    def compact(self, revision: int = 0) -> int:
        """Compact the history up to a revision (0: all of it); the revision."""
        key = base64.b64encode(b"\0").decode()
        latest = int(self._http("POST", "/v3/kv/range", {"key": key})["header"]["revision"])
        revision = revision or latest
        self._http("POST", "/v3/kv/compaction", {"revision": revision, "physical": True})
        return revision

    def metric(self, name: str) -> float:
        """The value of one of etcd's own metrics (Prometheus text format)."""
        lines = self._http("GET", "/metrics", parse=str).splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def _http(self, method: str, path: str, body: object = None, *, parse: Callable[[str], Any] = json.loads) -> Any:
        def ask() -> Any:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            if self.tls:
                context = ssl.create_default_context(cafile=self.tls.authority)
                context.load_cert_chain(self.tls.certificate, self.tls.key)
                connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)
            try:
                connection.request(method, path, None if body is None else json.dumps(body))
                return parse(connection.getresponse().read().decode())
            finally:
                connection.close()

        return _within(self._namespace, ask)

    def kill(self) -> None:
        """End it without a chance to say good-bye; the data stays."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end and wait until it has; the data stays."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def freeze(self) -> None:
        """Stop it where it stands, all its threads: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def revive(self) -> None:
        """Thaw it if it is frozen, start it if it is not there; does not wait."""
        if self.running:
            self.thaw()
        else:
            self.launch()

    def restart(self) -> None:
        """Kill it and start it again on the same data and ports."""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """Kill it and forget its data: the next start begins with an empty store."""
        self.kill()
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def stop(self) -> None:
        """Kill it and remove everything."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class EtcdCluster:
    """Several servers that form one cluster; use as a context manager."""

    def __init__(self, size: int = 3, tls: Sequence[Files] = ()) -> None:
        """`tls` are those of each member."""
        self.members = [EtcdServer(name=f"member{number}", tls=tls[number] if tls else None)
                        for number in range(size)]
        for member in self.members:
            member.initial_cluster = ",".join(each.peer for each in self.members)

    @property
    def endpoints(self) -> list[str]:
        """Where clients connect."""
        return [member.endpoint for member in self.members]

    def __getitem__(self, endpoint: str) -> EtcdServer:
        return next(member for member in self.members if member.endpoint == endpoint)

    def __enter__(self) -> Self:
        try:
            for member in self.members:
                member.launch()
            for member in self.members:
                member.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self.stop()

    def heal(self) -> None:
        """Thaw who is frozen, start who is not there, and wait until all serve."""
        for member in self.members:
            member.revive()
        for member in self.members:
            member.wait()

    def stop(self) -> None:
        """Kill all of them and remove their data."""
        for member in self.members:
            member.stop()
