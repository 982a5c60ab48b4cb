"""Services as they run apart from each other: over TCP with TLS, on an etcd that knows users."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from muslin.etcd import Members
from muslin.etcd.auth import set_up
from tests.support.etcd import EtcdServer, free_ports
from tests.support.service import Service
from tests.support.tls import Certificates

PATIENCE = 60.0
"""Seconds for anything that must come, on the slowest machine."""


@dataclass
class Secure:
    """etcd with TLS and users, and processes that are started by name."""

    certificates: Certificates
    etcd: EtcdServer
    stack: ExitStack

    def members(self, name: str) -> Members:
        """etcd, as one of them reaches it."""
        return Members((self.etcd.endpoint,), self.certificates.files(name))

    def service(self, name: str, *arguments: str) -> tuple[Service, str]:
        """A service that runs, and its host:port."""
        (port,) = free_ports(1)
        target = f"127.0.0.1:{port}"
        etcd = [f"--etcd={self.etcd.endpoint}", *self.certificates.options(name, "etcd")] if name != "node" else []
        service = Service(name, "--listen", target, *self.certificates.options(name), *etcd, *arguments)
        return self.stack.enter_context(service), target

    def channel(self, target: str, name: str, **more: Any) -> grpc.aio.Channel:
        """A plain channel with somebody's certificate."""
        return grpc.aio.secure_channel(target, self.certificates.credentials(name, **more))


def metric(port: int, name: str) -> float:
    """A value that a service shows; 0 if it does not yet."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until it holds: it is another process' business, which tells nobody."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert condition(), what


@contextmanager
def secure(folder: Path) -> Iterator[Secure]:
    """An etcd with TLS and users; what is started with it ends with it."""
    certificates = Certificates(folder / "certs")
    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdServer(name="etcd1", tls=certificates.files("etcd1")))
        found = Secure(certificates, etcd, stack)
        asyncio.run(set_up(found.members("etcd-root")))
        yield found
