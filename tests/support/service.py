"""Services as real processes: started, killed, restarted, and reached over their socket."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_START = 20.0  # seconds that a service may take to be ready
_REPOSITORY = Path(__file__).parents[2]


class Service:
    """`python -m services.NAME` on a unix socket of its own, started when entered as a context manager.

    `environment` is added to this process' own; `namespace` is the path of a network namespace to run in.
    """

    def __init__(self, name: str, *arguments: str, environment: Mapping[str, str] = MappingProxyType({}),
                 namespace: Path | None = None) -> None:
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f"muslin-{name}-"))
        self.target = f"unix:{self.directory}/{name}.sock"
        self.log = self.directory / "log"
        enter = ("nsenter", f"--net={namespace}") if namespace else ()
        self._command: Sequence[str] = (*enter, sys.executable, "-m", f"services.{name}", "--listen", self.target,
                                        *arguments)
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        """Likewise, while the event loop goes on: what the service waits for may run in it."""
        try:
            self.launch()
            await asyncio.to_thread(self.wait)
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None,
                        trace: TracebackType | None) -> None:
        self.stop()

    def launch(self) -> None:
        """Start the process and do not wait for it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             cwd=_REPOSITORY, env=self._environment)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        self.wait()

    def wait(self, timeout: float = _START) -> None:
        """Wait until health says SERVING. Raises RuntimeError with its log if it exits, TimeoutError if it is late."""
        deadline = time.monotonic() + timeout
        while not (self._listens() and self._serves()):
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} has exited:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is not ready after {timeout} s:\n{self.tail()}")
            time.sleep(0.02)  # a process that is starting sends no event

    def _listens(self) -> bool:
        """Whether it takes connections; a gRPC channel that tried too early would wait before it tries again."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            return probe.connect_ex(self.target.removeprefix("unix:")) == 0

    def _serves(self) -> bool:
        with grpc.insecure_channel(self.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)  # type: ignore[attr-defined]  # set late
            except grpc.RpcError:
                return False  # it has just been killed, or frozen
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def tail(self, size: int = 4000) -> str:
        """The end of its log."""
        return self.log.read_text()[-size:] if self.log.exists() else ""

    @property
    def pid(self) -> int:
        """The process; raises if it does not run."""
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def freeze(self) -> None:
        """Stop it where it stands: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it without a chance to say good-bye."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """Ask it to end, and return its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def stop(self) -> None:
        """Kill it and remove everything."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
