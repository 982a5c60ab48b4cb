"""STATUS."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.runtime import Runtime, error_of, settled, silent
from tests.conformance.table import must
from tests.support.stack import Stack

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

NOT_AVAILABLE = 50


@must("STATUS", "ready for ADD: exits with 0, prints nothing, needs nothing but CNI_COMMAND", "2, STATUS",
      since="1.1.0")
async def test_ready(runtime: Runtime) -> None:
    silent(await runtime.call("STATUS"))


@must("STATUS", "a configuration from before 1.1.0 has no STATUS: an error", "1.1.0, STATUS", until="1.0.0")
async def test_of_old_versions(runtime: Runtime) -> None:
    error_of(await runtime.call("STATUS"))


@must("STATUS", "changes nothing", "2, STATUS", since="1.1.0")
async def test_changes_nothing(runtime: Runtime) -> None:
    await runtime.add(runtime.sandbox())
    before = runtime.plugin.traces()
    silent(await runtime.call("STATUS"))
    await settled(runtime.plugin, before)


@must("STATUS", "the daemon behind the plugin is not there: code 50", "2, STATUS", since="1.1.0")
async def test_no_daemon(runtime: Runtime, tmp_path: Path) -> None:
    _stack(runtime)
    own = {**runtime.plugin.network["muslin"], "socket": str(tmp_path / "nobody")}
    error_of(await runtime.call("STATUS", None, runtime.config(muslin=own)), NOT_AVAILABLE)


@pytest.mark.parametrize("service", ["ipam", "policy", "endpoint"])
@must("STATUS", "a service that ADD needs does not answer: code 50; and 0 when it does again", "2, STATUS",
      since="1.1.0")
async def test_service_is_down(runtime: Runtime, service: str) -> None:
    stack = _stack(runtime)
    silent(await runtime.call("STATUS"))
    own = {**runtime.plugin.network["muslin"], "timeout": 1}
    with _frozen(stack.pid(service)):
        error_of(await runtime.call("STATUS", None, runtime.config(muslin=own)), NOT_AVAILABLE)
    async with asyncio.timeout(30):
        while (await runtime.call("STATUS")).status:  # noqa: ASYNC110 - it is the plugin that is asked
            await asyncio.sleep(0.1)


def _stack(runtime: Runtime) -> Stack:
    if not runtime.plugin.stack:
        pytest.skip("how to take down what is behind another plugin is not known here")
    return runtime.plugin.stack


@contextmanager
def _frozen(process: int) -> Iterator[None]:
    """A process that stands still."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
