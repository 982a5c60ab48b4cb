"""ADD."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import kernel, schema
from tests.conformance.runtime import Runtime, error_of, settled
from tests.conformance.table import must
from tests.conformance.truth import addresses_of, lies

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

AT_ONCE = 8


@must("ADD", "the result has the shape of the configuration's version", "5, ADD Success")
async def test_shape_of_the_result(runtime: Runtime) -> None:
    assert schema.faults_of_result(await runtime.add(runtime.sandbox()), runtime.version) == []


@must("ADD", "what the result says is so: interfaces, hardware addresses, sandbox, addresses, routes", "5, ADD Success")
async def test_truth_of_the_result(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    result = await runtime.add(attachment)
    assert lies(result, runtime.version, attachment, runtime.plugin.node) == []


@must("ADD", "a configuration without a version is in 0.1.0", "0.2.0, Network Configuration", until="0.1.0")
async def test_configuration_without_version(runtime: Runtime) -> None:
    config = runtime.config()
    del config["cniVersion"]
    done = await runtime.call("ADD", runtime.sandbox(), config)
    assert done.status == 0, done
    result = json.loads(done.stdout)
    assert result.get("cniVersion") in ("0.1.0", "0.2.0"), "both have the same shape"
    assert schema.faults_of_result(result, result["cniVersion"]) == []


@must("ADD", "the interface is there already, from an earlier ADD: an error, and that one stays as it is", "2, ADD")
async def test_again(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    before = runtime.plugin.traces()
    result = await runtime.add(attachment)
    held, inside = runtime.plugin.traces(), _inside(attachment.netns)
    error_of(await runtime.call("ADD", attachment))
    assert _inside(attachment.netns) == inside
    await settled(runtime.plugin, held)
    assert lies(result, runtime.version, attachment, runtime.plugin.node) == []
    await runtime.delete(attachment)
    await settled(runtime.plugin, before)


@must("ADD", "the interface is there already, somebody else's: an error, it stays, and nothing else does", "2, ADD")
async def test_interface_of_somebody_else(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    kernel.ip(attachment.netns, "link", "add", attachment.ifname, "type", "veth", "peer", "name", "other")
    kernel.ip(attachment.netns, "address", "add", "192.0.2.1/24", "dev", attachment.ifname)
    before, inside = runtime.plugin.traces(), _inside(attachment.netns)
    error_of(await runtime.call("ADD", attachment))
    assert _inside(attachment.netns) == inside
    await settled(runtime.plugin, before)


@pytest.mark.parametrize("what", ["nothing", "file", "directory"])
@must("ADD", "CNI_NETNS is no namespace: an error, and nothing is left behind", "2, ADD", each=False)
async def test_no_namespace(runtime: Runtime, what: str, tmp_path: Path) -> None:
    path = {"nothing": tmp_path / "nothing", "file": tmp_path / "file", "directory": tmp_path}[what]
    (tmp_path / "file").touch()
    before = runtime.plugin.traces()
    error_of(await runtime.call("ADD", runtime.sandbox(), CNI_NETNS=str(path)))
    await settled(runtime.plugin, before)


@must("ADD", "a failed ADD does not keep a later one from success", "2, ADD", each=False)
async def test_success_after_failure(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    error_of(await runtime.call("ADD", attachment, CNI_NETNS="/nowhere"))
    result = await runtime.add(attachment)
    assert lies(result, runtime.version, attachment, runtime.plugin.node) == []


@must("ADD", "the namespace may be given by the path of a process", "2, Parameters", each=False)
async def test_namespace_of_a_process(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    async with _living_in(attachment.netns) as path:
        done = await runtime.call("ADD", attachment, CNI_NETNS=str(path))
        assert done.status == 0, done
        result = json.loads(done.stdout)
        if "interfaces" in result:
            assert str(path) in [interface.get("sandbox") for interface in result["interfaces"]]
        address = addresses_of(result)[0]
        assert address in kernel.links(attachment.netns)[attachment.ifname].addresses
        done = await runtime.call("DEL", attachment, CNI_NETNS=str(path))
        assert done.status == 0, done
    assert kernel.links(attachment.netns) == {}


@must("ADD", "a container may be added again under another name; each is an attachment of its own", "2, ADD",
      each=False)
async def test_second_interface(runtime: Runtime) -> None:
    first = runtime.sandbox()
    second = type(first)(first.container, first.netns, "net1")
    before = runtime.plugin.traces()
    results = {attachment: await runtime.add(attachment) for attachment in (first, second)}
    assert set(addresses_of(results[first])).isdisjoint(addresses_of(results[second]))
    inside = kernel.links(first.netns)
    for attachment, result in results.items():
        assert set(addresses_of(result)) <= inside[attachment.ifname].addresses
    await runtime.delete(first)
    assert set(kernel.links(first.netns)) == {"net1"}
    assert runtime.plugin.held() in (set(), {second.identity})
    await runtime.delete(second)
    await settled(runtime.plugin, before)


@must("ADD", "containers may be added in parallel", "3, Lifecycle and Ordering", each=False)
async def test_parallel(runtime: Runtime) -> None:
    attachments = [runtime.sandbox() for _ in range(AT_ONCE)]
    before = runtime.plugin.traces()
    results = await asyncio.gather(*map(runtime.add, attachments))
    for attachment, result in zip(attachments, results, strict=True):
        assert lies(result, runtime.version, attachment, runtime.plugin.node) == []
    given = [address for result in results for address in addresses_of(result)]
    assert len(given) == len(set(given))
    await asyncio.gather(*map(runtime.delete, attachments))
    await settled(runtime.plugin, before)


@pytest.mark.parametrize("more", [
    {"args": {"labels": {"a": "b"}, "example.com/other": [1, None]}}, {"args": {"cni": {"unheard": "of"}}},
    {"runtimeConfig": {"unheardOf": {"a": 1}}}, {"runtimeConfig": {}}, {"capabilities": {"unheardOf": True}},
    {"unheardOf": {"a": [1, 2.5, "\u20ac"]}}], ids=str)
@must("ADD", "what it does not know in args, in runtimeConfig and in the configuration is ignored",
      "1, Plugin configuration objects", each=False)
async def test_unknown_keys(runtime: Runtime, more: dict[str, Any]) -> None:
    attachment = runtime.sandbox()
    result = await runtime.add(attachment, **more)
    assert lies(result, runtime.version, attachment, runtime.plugin.node) == []
    await runtime.delete(attachment, **more)


@pytest.mark.parametrize("arguments", ["IgnoreUnknown=1;UNHEARD=of", "IgnoreUnknown=true;A=", "", None])
@must("ADD", "CNI_ARGS is optional, and unknown keys in it are ignored when it says so", "2, Parameters", each=False)
async def test_arguments(runtime: Runtime, arguments: str | None) -> None:
    attachment = runtime.sandbox()
    done = await runtime.call("ADD", attachment, CNI_ARGS=arguments)
    assert done.status == 0, done
    assert lies(json.loads(done.stdout), runtime.version, attachment, runtime.plugin.node) == []
    done = await runtime.call("DEL", attachment, CNI_ARGS=arguments)
    assert done.status == 0, done


def _earlier(version: str, **more: Any) -> dict[str, Any]:
    """The result of a plugin before this one, that made an interface on the host."""
    return {"cniVersion": version, "interfaces": [{"name": "earlier0", "mac": "02:00:00:00:00:01"}], **more}


@must("ADD", "prevResult, given to the first of a list, is passed through", "2, ADD", since="1.0.0")
async def test_previous_result(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    result = await runtime.add(attachment, prevResult=_earlier(runtime.version))
    assert schema.faults_of_result(result, runtime.version) == []
    assert "earlier0" in [interface["name"] for interface in result["interfaces"]]
    own = next(number for number, interface in enumerate(result["interfaces"])
               if (interface["name"], interface.get("sandbox")) == (attachment.ifname, str(attachment.netns)))
    assert {entry["interface"] for entry in result["ips"]} == {own}
    assert set(addresses_of(result)) <= kernel.links(attachment.netns)[attachment.ifname].addresses


@must("ADD", "addresses in prevResult are passed through or, if the plugin can not do that, refused: never dropped",
      "2, ADD", since="1.0.0")
async def test_previous_result_with_addresses(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    before = runtime.plugin.traces()
    earlier = _earlier(runtime.version, ips=[{"address": "192.0.2.7/24", "interface": 0}])
    done = await runtime.call("ADD", attachment, runtime.config(prevResult=earlier))
    if done.status:
        error_of(done, 2, 7)
        await settled(runtime.plugin, before)
        return
    result = json.loads(done.stdout)
    assert schema.faults_of_result(result, runtime.version) == []
    indices = {entry["address"]: entry.get("interface") for entry in result["ips"]}
    assert result["interfaces"][indices.pop("192.0.2.7/24")]["name"] == "earlier0"
    assert indices
    assert set(indices) <= kernel.links(attachment.netns)[attachment.ifname].addresses


def _inside(path: Path) -> tuple[Any, Any]:
    return kernel.links(path), kernel.routes(path)


@asynccontextmanager
async def _living_in(path: Path) -> AsyncIterator[Path]:
    """A process in a namespace; gives the namespace's path by it."""
    process = await asyncio.create_subprocess_exec("nsenter", f"--net={path}", "cat", stdin=asyncio.subprocess.PIPE,
                                                   stdout=asyncio.subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(b"here\n")
        await process.stdout.readline()  # it has moved by now
        yield Path(f"/proc/{process.pid}/ns/net")
    finally:
        process.stdin.close()  # it ends with its input
        await process.wait()
