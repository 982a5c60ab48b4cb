"""The plugin under examination, by default Muslin's own with all its services, and the report at the end.

Run `pytest tests/conformance [--plugin PATH --conf FILE]`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conformance import schema
from tests.conformance.runtime import Runtime
from tests.conformance.subject import Attachment, Subject, network_of
from tests.conformance.table import Report
from tests.support.netns import namespace
from tests.support.plugin import build, has_toolchain
from tests.support.stack import running

_ROW = "conformance"
_report = Report()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "the plugin that tests/conformance examines; Muslin's own if none is named")
    group.addoption("--plugin", dest="cni_plugin", type=Path, help="a CNI plugin")
    group.addoption("--conf", dest="cni_conf", type=Path, help="its network configuration, or a list it is first in")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "must(verb, text, section): the rule of the CNI specification that a row holds")
    if (config.getoption("cni_plugin", None) is None) != (config.getoption("cni_conf", None) is None):
        raise pytest.UsageError("--plugin and --conf go together")


@pytest.fixture(scope="session")
def _options(request: pytest.FixtureRequest) -> tuple[Path, Path] | None:
    path, conf = (request.config.getoption(name, None) for name in ("cni_plugin", "cni_conf"))
    return (path.resolve(), conf.resolve()) if path and conf else None


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plugin(_options: tuple[Path, Path] | None,
                 tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    """The plugin, on a node where it has added and deleted once: what it makes once for all stays."""
    directory = tmp_path_factory.mktemp("conformance")
    async with AsyncExitStack() as stack:
        if _options is None:
            shim = directory / "muslin"
            build("static" if has_toolchain() else "script", shim).check_returncode()
            services = await stack.enter_async_context(running(directory))
            network = services.configuration()
            del network["cniVersion"]
            subject = Subject(shim, network, services.node, services)
        else:
            path, conf = _options
            network = network_of(json.loads(conf.read_text()))
            if network.get("ipam", {}).get("type") == "host-local":  # its store is to be ours, and empty
                network["ipam"] = {"dataDir": str(directory / "host-local"), **network["ipam"]}
            subject = Subject(path, network, stack.enter_context(namespace("node")))
        subject = replace(subject, versions=await _versions(subject))
        await _first_use(subject)
        yield subject


async def _versions(subject: Subject) -> tuple[str, ...]:
    done = await subject.call("VERSION", {"cniVersion": "1.0.0"}, {})
    answer: dict[str, Any] = json.loads(done.stdout)
    assert schema.faults_of_versions(answer) == []
    return tuple(answer["supportedVersions"])


async def _first_use(subject: Subject) -> None:
    with namespace("first") as path:
        attachment = Attachment("first", path)
        for verb in ("ADD", "DEL"):
            done = await subject.call(verb, subject.config(subject.versions[-1]), attachment.environment)
            assert done.status == 0, f"{subject.path} does not work with this configuration: {verb}: {done}"


@pytest.fixture
def version(request: pytest.FixtureRequest, plugin: Subject) -> str:
    """The version of a row: the newest of those it is for that the plugin lists."""
    for version in reversed(request.param):
        if version in plugin.versions:
            return str(version)
    pytest.skip(f"{plugin.path.name} does not list {' or '.join(request.param)}")


@pytest_asyncio.fixture(loop_scope="session")
async def runtime(plugin: Subject, version: str) -> AsyncIterator[Runtime]:
    runtime = Runtime(plugin, version)
    yield runtime
    await runtime.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if row := item.get_closest_marker("must"):
            item.user_properties.append((_ROW, row.args))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> Iterator[None]:
    decided = report.when == "call" or report.outcome != "passed"
    for name, row in report.user_properties if decided else ():
        if name == _ROW and isinstance(row, tuple):
            _report.add(row, report.outcome, report.nodeid.partition("[")[2].removesuffix("]"))
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _report.counts:
        terminalreporter.section("conformance to the CNI specification")
        for line in _report.lines():
            terminalreporter.write_line(line)
