"""Muslin on one machine: an embedded etcd and the four services, from the first process to all of them healthy."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from muslin.cli import health
from muslin.cli.lock import UpLock
from muslin.cli.places import SERVICES, Places
from muslin.cli.supervisor import Program, Supervisor, tail
from muslin.errors import IOFailure, Unavailable
from muslin.etcd.binary import find_etcd

__all__ = ["Options", "Up", "up"]

START_SECONDS = 60.0
"""Patience until everything is healthy: ten times what a loaded machine of two cores takes."""
ATTEMPTS = 3
"""Ends of one program before everything was healthy, after which starting is given up."""
STOP_SECONDS = 10.0
"""Patience for the services to finish requests, and for etcd to close its files."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `muslin up` can be told."""

    node: str
    pool: str = ""
    """CIDR of the default pool, made if there is none; empty leaves it to the address manager."""
    log_level: str = "info"
    temporary: bool = False
    """The state directory goes with `muslin down`."""
    kubeconfig: str = ""
    """Absolute path of the file whose API server is followed; empty for none."""


@dataclass(slots=True)
class Up:
    """What is up: seconds until each part was healthy, counted from the start."""

    etcd: str
    supervisor: Supervisor
    timings: dict[str, float] = field(default_factory=dict)


class _Ports(msgspec.Struct):
    client: int
    peer: int


@asynccontextmanager
async def up(places: Places, options: Options, report: Callable[[str], None]) -> AsyncIterator[Up]:
    """Everything running and healthy inside the block; stopped in order after it, services first and etcd last.

    Raises:
        FailedPrecondition: another `muslin up` has the directories.
        NotFound: there is no etcd to run.
        Unavailable: something did not become healthy; the message has the end of its log.
    """
    binary = find_etcd()
    lock = UpLock(places)
    try:
        ports = _etcd_ports(places)
        running = Up(f"127.0.0.1:{ports.client}", Supervisor(report))
        lock.describe(options.node, running.etcd, temporary=options.temporary)
        began = time.monotonic()
        try:
            async with asyncio.timeout(START_SECONDS):
                await running.supervisor.start(_etcd_program(places, str(binary), ports))
                await _patiently("etcd", places, running.supervisor, health.etcd_serving(running.etcd))
                running.timings["etcd"] = time.monotonic() - began
                for service in SERVICES:
                    await running.supervisor.start(_service_program(service, places, options, running.etcd))
                await asyncio.gather(*(_healthy(service, places, running, began) for service in SERVICES))
            yield running
        except TimeoutError:
            waiting = [name for name in SERVICES if name not in running.timings] or ["etcd"]
            raise Unavailable(f"{', '.join(waiting)} not healthy after {START_SECONDS:.0f} s; log: "
                              f"{places.log(waiting[0])}\n{tail(places.log(waiting[0]))}") from None
        finally:
            await running.supervisor.stop(SERVICES, STOP_SECONDS)
            await running.supervisor.stop(["etcd"], STOP_SECONDS)
    finally:
        lock.close()


def _etcd_ports(places: Places) -> _Ports:
    """The ports etcd had before if they are free, else free ones."""
    try:
        before = msgspec.json.decode(places.etcd_ports.read_bytes(), type=_Ports)
        if _free([before.client, before.peer]):
            return before
    except (OSError, msgspec.DecodeError):
        pass  # the first start, or a file that was cut short: new ports do as well
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = _Ports(one.getsockname()[1], two.getsockname()[1])
    places.etcd_ports.write_bytes(msgspec.json.encode(ports))
    return ports


def _free(ports: Iterable[int]) -> bool:
    try:
        for port in ports:
            socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _etcd_program(places: Places, binary: str, ports: _Ports) -> Program:
    client, peer = f"http://127.0.0.1:{ports.client}", f"http://127.0.0.1:{ports.peer}"
    return Program("etcd", (
        binary, "--name=muslin", f"--data-dir={places.etcd}", f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=muslin={peer}", "--auto-compaction-mode=periodic", "--auto-compaction-retention=1h",
        "--logger=zap", "--log-level=warn",
    ), places.log("etcd"))


def _service_program(service: str, places: Places, options: Options, etcd: str) -> Program:
    flags = [f"--listen={places.target(service)}", f"--log-level={options.log_level}"]
    if options.kubeconfig and service in ("endpoint", "policy"):
        flags += [f"--kubeconfig={options.kubeconfig}"]
    match service:
        case "node":
            flags += [f"--node={options.node}"]
            flags += [f"--{other}={places.target(other)}" for other in SERVICES if other != "node"]
            flags += [f"--run-dir={places.run}", f"--state={places.state}"]
        case "policy":
            flags += [f"--etcd={etcd}", f"--endpoint={places.target('endpoint')}"]
        case "ipam":
            flags += [f"--etcd={etcd}", f"--endpoint={places.target('endpoint')}"]
            flags += [f"--pool={options.pool}"] if options.pool else []
        case _:
            flags += [f"--etcd={etcd}"]
    return Program(service, (sys.executable, "-P", "-m", f"services.{service}", *flags), places.log(service))


async def _healthy(service: str, places: Places, running: Up, began: float) -> None:
    await _patiently(service, places, running.supervisor, health.serving(places.socket(service)))
    running.timings[service] = time.monotonic() - began


async def _patiently(name: str, places: Places, supervisor: Supervisor,
                     condition: Coroutine[Any, Any, None]) -> None:
    """Wait for the condition unless the program dies too often. Raises Unavailable with the end of its log."""
    waiting = asyncio.create_task(condition, name=f"wait for {name}")
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=0.1)
            if supervisor.failed.done():
                raise IOFailure(str(supervisor.failed.result()))
            if not waiting.done() and supervisor.failures.get(name, 0) >= ATTEMPTS:
                raise Unavailable(f"{name} does not start; log: {places.log(name)}\n{tail(places.log(name))}")
        waiting.result()
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
