"""DEL."""

from __future__ import annotations

import json

import pytest

from tests.conformance import kernel
from tests.conformance.runtime import Runtime, gone, settled, silent
from tests.conformance.table import must
from tests.conformance.truth import lies
from tests.support.netns import namespace

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]


@must("DEL", "undoes ADD, prints nothing and exits with 0", "2, DEL")
async def test_undoes_add(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    before = runtime.plugin.traces()
    await runtime.add(attachment)
    assert set(kernel.links(attachment.netns)) == {attachment.ifname}
    assert runtime.plugin.traces() != before
    await runtime.delete(attachment)
    assert kernel.links(attachment.netns) == {}
    await settled(runtime.plugin, before)


@must("DEL", "succeeds when it is repeated", "2, DEL")
async def test_repeated(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    before = runtime.plugin.traces()
    result = await runtime.add(attachment)
    for _ in range(3):
        await runtime.delete(attachment)
    silent(await runtime.call("DEL", attachment, runtime.config(prevResult=result)))
    await settled(runtime.plugin, before)


@must("DEL", "succeeds for what was never added", "2, DEL")
async def test_never_added(runtime: Runtime) -> None:
    before = runtime.plugin.traces()
    await runtime.delete(runtime.sandbox())
    await runtime.delete(gone(runtime.sandbox()))
    await settled(runtime.plugin, before)


@must("DEL", "without prevResult it cleans up as much as it can, and succeeds", "2, DEL", since="0.4.0")
async def test_without_previous_result(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    before = runtime.plugin.traces()
    await runtime.add(attachment)
    silent(await runtime.call("DEL", attachment))
    assert kernel.links(attachment.netns) == {}
    await settled(runtime.plugin, before)


@pytest.mark.parametrize("netns", [None, ""], ids=["missing", "empty"])
@must("DEL", "without CNI_NETNS it cleans up as much as it can, and succeeds", "2, DEL", since="0.4.0")
async def test_without_namespace(runtime: Runtime, netns: str | None) -> None:
    attachment = runtime.sandbox()
    before = runtime.plugin.held()
    result = await runtime.add(attachment)
    silent(await runtime.call("DEL", attachment, runtime.config(prevResult=result), CNI_NETNS=netns))
    assert runtime.plugin.held() == before
    silent(await runtime.call("DEL", attachment, CNI_NETNS=netns))


@must("DEL", "succeeds when the namespace is gone, and frees all", "2, DEL")
async def test_namespace_is_gone(runtime: Runtime) -> None:
    before = runtime.plugin.traces()
    with namespace("pod") as path:
        attachment = type(runtime.sandbox())("gone", path)
        await runtime.add(attachment)
    await runtime.delete(attachment)
    await settled(runtime.plugin, before)


@must("DEL", "succeeds when the interface is gone, and frees all", "2, DEL")
async def test_interface_is_gone(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    before = runtime.plugin.traces()
    await runtime.add(attachment)
    kernel.ip(attachment.netns, "link", "delete", attachment.ifname)
    await runtime.delete(attachment)
    await settled(runtime.plugin, before)


@must("DEL", "leaves another container's attachment alone", "2, DEL", each=False)
async def test_leaves_others(runtime: Runtime) -> None:
    stays, goes = runtime.sandbox(), runtime.sandbox()
    result = await runtime.add(stays)
    before = runtime.plugin.traces()
    await runtime.add(goes)
    await runtime.delete(goes)
    await settled(runtime.plugin, before)
    assert lies(result, runtime.version, stays, runtime.plugin.node) == []


@must("DEL", "after it the attachment may be added again", "2, DEL", each=False)
async def test_added_again(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    for _ in range(2):
        result = await runtime.add(attachment)
        assert lies(result, runtime.version, attachment, runtime.plugin.node) == []
        await runtime.delete(attachment)


@must("DEL", "the configuration may be in another version than at ADD: a runtime is upgraded under its containers",
      "3, Deleting attachments")
async def test_of_another_version(runtime: Runtime) -> None:
    before = runtime.plugin.traces()
    for other in (runtime.plugin.versions[0], runtime.plugin.versions[-1]):
        attachment = runtime.sandbox()
        done = await runtime.call("ADD", attachment, runtime.config(cniVersion=other))
        assert done.status == 0, done
        result = json.loads(done.stdout)
        for config in (runtime.config(prevResult=result), runtime.config()):
            silent(await runtime.call("DEL", attachment, config))
        await settled(runtime.plugin, before)
