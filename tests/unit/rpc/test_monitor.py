"""What is told by HTTP of a service that starts, serves, waits, stops, or is stuck."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from muslin.errors import InvalidArgument
from muslin.rpc import monitor
from muslin.rpc.app import Readiness
from muslin.rpc.monitor import Monitor


def ask(watched: Monitor, path: str) -> tuple[int, str]:
    """Status and text of an answer."""
    said: list[Any] = []
    body = b"".join(watched({"PATH_INFO": path, "REQUEST_METHOD": "GET"}, lambda *head: said.append(head)))  # type: ignore[arg-type]  # as much of PEP 3333 as is used
    return int(said[0][0].split()[0]), body.decode()


async def asked(watched: Monitor, path: str) -> tuple[int, str]:
    """The same from another thread, as requests come."""
    return await asyncio.to_thread(ask, watched, path)


async def test_it_is_ready_when_it_serves_and_all_its_parts_are() -> None:
    readiness = Readiness()
    watched = Monitor(readiness)
    assert await asked(watched, "/readyz") == (503, "starting\n")
    assert await asked(watched, "/livez") == (200, "starting\n")
    part = readiness.part("etcd")
    watched.phase = ""
    assert await asked(watched, "/readyz") == (503, "serving\netcd: not ready (starting)\n")
    assert (await asked(watched, "/livez"))[0] == 200, "what waits for etcd is not ill"
    part.set(True)
    assert await asked(watched, "/readyz") == (200, "serving\netcd: ready\n")
    watched.phase = "stopping"
    assert (await asked(watched, "/readyz"))[0] == 503
    assert (await asked(watched, "/livez"))[0] == 200


async def test_a_loop_that_is_stuck_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that answers is not: so this can be said at all."""
    monkeypatch.setattr(monitor, "_PATIENCE", 0.05)
    watched, answers = Monitor(Readiness()), list[tuple[int, str]]()
    watched.phase = ""
    asking = threading.Thread(target=lambda: answers.append(ask(watched, "/livez")))
    asking.start()
    asking.join(20)  # meanwhile the loop does nothing
    [(status, text)] = answers
    assert status == 503
    assert "does not answer" in text
    assert (await asked(watched, "/livez"))[0] == 200, "well again"


async def test_metrics_are_there_and_other_paths_are_not() -> None:
    watched = Monitor(Readiness())
    assert "muslin_rpc_total" in (await asked(watched, "/metrics"))[1]
    assert (await asked(watched, "/metrix"))[0] == 404


@pytest.mark.parametrize("address", ["localhost:", "localhost:http", "localhost:0", "localhost:65536"])
async def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(InvalidArgument, match=address):
        Monitor(Readiness()).listen(address)
