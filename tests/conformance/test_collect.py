"""GC."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance import kernel
from tests.conformance.runtime import Runtime, error_of, settled, silent
from tests.conformance.subject import Attachment
from tests.conformance.table import must
from tests.conformance.truth import lies
from tests.support.netns import namespace

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")


@pytest.mark.parametrize("spelled", [_KEYS[:1], _KEYS[1:], _KEYS], ids=["newer", "older", "both"])
@must("GC", "frees what is not among the valid attachments, keeps what is; prints nothing", "2, GC", since="1.1.0")
async def test_frees_and_keeps(runtime: Runtime, spelled: tuple[str, ...]) -> None:
    stays, goes = runtime.sandbox(), runtime.sandbox()
    empty = runtime.plugin.held()
    result = await runtime.add(stays)
    before = runtime.plugin.traces()
    await runtime.add(goes)
    silent(await runtime.collect(stays, spelled=spelled))
    assert runtime.plugin.held() == before["held"], "what is valid stays, and only that"
    await settled(runtime.plugin, before)
    assert lies(result, runtime.version, stays, runtime.plugin.node) == []
    silent(await runtime.check(stays))
    await runtime.delete(goes)
    await runtime.delete(stays)
    assert runtime.plugin.held() == empty


@must("GC", "frees an attachment whose namespace is gone, for which no DEL came", "2, GC", since="1.1.0")
async def test_namespace_is_gone(runtime: Runtime) -> None:
    before = runtime.plugin.traces()
    with namespace("stale") as path:
        await runtime.add(Attachment("stale", path))
    silent(await runtime.collect())
    await settled(runtime.plugin, before)


@must("GC", "an attachment is container and interface: another interface of a valid one's container is freed", "2, GC",
      since="1.1.0")
async def test_identity(runtime: Runtime) -> None:
    first = runtime.sandbox()
    second = Attachment(first.container, first.netns, "net1")
    result = await runtime.add(first)
    before = runtime.plugin.traces()
    await runtime.add(second)
    silent(await runtime.collect(first))
    await settled(runtime.plugin, before)
    assert lies(result, runtime.version, first, runtime.plugin.node) == []
    await runtime.delete(first)


@must("GC", "frees nothing of another network", "2, GC", since="1.1.0")
async def test_other_network(runtime: Runtime) -> None:
    stays = runtime.sandbox()
    other = {"name": f"{runtime.plugin.network['name']}-other"}
    result = await runtime.add(stays, **other)
    before = runtime.plugin.traces()
    silent(await runtime.collect())
    await settled(runtime.plugin, before)
    assert lies(result, runtime.version, stays, runtime.plugin.node) == []
    await runtime.delete(stays, **other)


@must("GC", "without the list nothing is known to be stale, and nothing is freed", "2, GC", since="1.1.0")
async def test_without_the_list(runtime: Runtime) -> None:
    stays = runtime.sandbox()
    result = await runtime.add(stays)
    before = runtime.plugin.traces()
    await runtime.call("GC")  # whether that is an error is not said
    await settled(runtime.plugin, before)
    assert lies(result, runtime.version, stays, runtime.plugin.node) == []


@pytest.mark.parametrize("attachments", [5, "all", {}, [5], [{"ifname": "eth0"}], [{"containerID": 5}]], ids=str)
@must("GC", "a list that is not one is an error, and nothing is freed", "2, GC; 5, Error", since="1.1.0")
async def test_bad_list(runtime: Runtime, attachments: Any) -> None:
    stays = runtime.sandbox()
    await runtime.add(stays)
    before = runtime.plugin.traces()
    error_of(await runtime.call("GC", None, runtime.config(**{_KEYS[0]: attachments})))
    await settled(runtime.plugin, before)
    assert stays.ifname in kernel.links(stays.netns)


@must("GC", "succeeds when nothing is there to free, and when it is repeated", "2, GC", since="1.1.0")
async def test_nothing_to_free(runtime: Runtime) -> None:
    before = runtime.plugin.traces()
    for valid in ((), (), (Attachment("never-heard-of", runtime.sandbox().netns),)):
        silent(await runtime.collect(*valid))
    await settled(runtime.plugin, before)


@must("GC", "a configuration from before 1.1.0 has no GC: an error, and nothing is freed", "1.1.0, GC",
      until="1.0.0")
async def test_of_old_versions(runtime: Runtime) -> None:
    stays = runtime.sandbox()
    await runtime.add(stays)
    before = runtime.plugin.traces()
    error_of(await runtime.collect())
    await settled(runtime.plugin, before)
