"""Fixtures of the tests on a real Kubernetes node. They run by `make test-kubernetes` only: they take minutes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes import leaks
from tests.kubernetes.deployed import Lacking, images_archive, kubectl
from tests.kubernetes.muslin import Muslin, in_calicos_place
from tests.kubernetes.node import Node, missing
from tests.kubernetes.pods import Space
from tests.support.skipping import skip_loudly

VARIABLE = "MUSLIN_KUBERNETES_NODE"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave these tests out of the others' runs."""
    return None if os.environ.get(VARIABLE) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip all, and say loudly why, where there is no Kubernetes to be had."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    if here and (lacking := missing()):
        skip_loudly(config, here, "on a Kubernetes node", lacking)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node where everything runs but a network, for the tests of one file.

    MUSLIN_KUBERNETES_KEEP leaves its logs in /tmp.
    """
    print()  # noqa: T201 - what is done is told from a line of its own on
    made = Node()
    try:
        made.up()
        yield made
    finally:
        made.remove(keep_logs=bool(os.environ.get("MUSLIN_KUBERNETES_KEEP")))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Muslin's images."""
    try:
        kubectl()
        return images_archive(tmp_path_factory.mktemp("images"))
    except Lacking as problem:
        pytest.skip(f"NOT RUN: needs {problem}")


@pytest.fixture(scope="module")
def muslin(node: Node) -> Muslin:
    """What the node is networked by, if a file has no other way."""
    return in_calicos_place(node)


@pytest.fixture
def space(muslin: Muslin, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace of the test's own. When its pods are gone, so must be all that they had.

    `muslin` is what the test's file has the node networked by.
    """
    name = re.sub("[^a-z]+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    muslin.node.report(f"\n{name}")
    made = Space(muslin.node, name)
    made.make()
    yield made
    made.empty()
    muslin.node.report(f"  left: {leaks.none(muslin)}")
