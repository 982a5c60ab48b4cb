"""Fixtures of the tests in containers. They run by `make test-compose` only: they take the machine for minutes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from muslin import rpc
from muslin.rpc import tls
from muslin.tls import Files
from tests.compose.stack import Stack, missing
from tests.support.skipping import skip_loudly

VARIABLE = "MUSLIN_COMPOSE"
"""Unset leaves all out. `short` is for machines that are busy with other things and have few minutes: some faults, each
of another kind, and nothing that depends on how quick the machine is. Anything else is all."""
SHORT = ("test_stack.py", "endpoint1-killed", "leader-of-etcd-killed", "daemon-of-node1-killed",
         "node1-cut-from-policy")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave these tests out of the others' runs."""
    return None if os.environ.get(VARIABLE) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose; skip all, and say loudly why, where there is no Docker."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    if os.environ.get(VARIABLE) == "short":
        left_out = [item for item in here if not any(part in item.nodeid for part in SHORT)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
        here = [item for item in here if item in items]
    if here and (lacking := missing()):
        skip_loudly(config, here, "of the stack in containers", lacking)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The whole stack, healthy; removed at the end unless MUSLIN_COMPOSE_KEEP is set."""
    made = Stack(f"muslin-test-{os.getpid()}")
    try:
        made.up()
        yield made
    finally:
        if not os.environ.get("MUSLIN_COMPOSE_KEEP"):
            made.down()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def channels(stack: Stack,
                   tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, grpc.aio.Channel]]:
    """The operator's way to the services: the published ports, with the operator's certificate."""
    place = stack.copy_certificates("operator", tmp_path_factory.mktemp("certs"))
    tls.use(Files(place / "tls.crt", place / "tls.key", place / "ca.crt"))
    opened = {service: rpc.channel(f"127.0.0.1:{port}")
              for service, port in stack.ports.items()}
    yield opened
    for channel in opened.values():
        await channel.close()
