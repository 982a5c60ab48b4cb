"""Servers and clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from muslin.etcd import Etcd
from muslin.etcd.binary import find_etcd, find_etcd_in_wheel
from tests.support.etcd import EtcdCluster, EtcdServer

PROGRAMS = sorted({find_etcd(), find_etcd_in_wheel()})
_numbers = count()


@pytest.fixture(scope="session", params=PROGRAMS, ids=str)
def shared(request: pytest.FixtureRequest) -> Iterator[EtcdServer]:
    """A server for tests that leave it as it is; every etcd that is installed takes its turn."""
    program: Path = request.param
    with EtcdServer(program=program) as server:
        yield server


@pytest.fixture(scope="module")
def patient() -> Iterator[EtcdServer]:
    """A server."""
    with EtcdServer() as server:
        yield server


@pytest.fixture
def server(patient: EtcdServer) -> EtcdServer:
    """A server that is well, to be maltreated."""
    patient.revive()
    patient.wait()
    return patient


@pytest.fixture(scope="module")
def members() -> Iterator[EtcdCluster]:
    """Three members."""
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(members: EtcdCluster) -> EtcdCluster:
    """Three members, all well, to be maltreated."""
    members.heal()
    return members


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"/test/{next(_numbers)}/"


@pytest.fixture
async def etcd(shared: EtcdServer) -> AsyncIterator[Etcd]:
    """A client of the shared server."""
    async with Etcd([shared.endpoint]) as client:
        yield client
