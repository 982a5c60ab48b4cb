"""One cluster for all tests here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import pytest
import pytest_asyncio

from muslin.api.ipam.v1 import ipam_pb2
from tests.support.fabric import Cluster, cluster, listing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure show what the daemons logged and what their kernels have: both are gone at the end."""
    report = yield
    running = getattr(item, "funcargs", {}).get("up")
    if report.failed and isinstance(running, Cluster):
        for name, node in running.nodes.items():
            report.sections += [(f"log of {name}", node.log()), (f"kernel of {name}", listing(node.netns))]
    return report


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def up() -> AsyncIterator[Cluster]:
    """Three nodes; pools of both families, in blocks of four and of sixteen addresses."""
    async with cluster(pool="10.9.0.0/24", more=["--absent-after", "2"]) as running:
        pool = ipam_pb2.Pool(name="six", cidr="fd09::/112", block_size=124)
        await running.ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=pool), timeout=10)
        yield running
