"""CHECK."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance import kernel
from tests.conformance.runtime import Runtime, error_of, gone, silent
from tests.conformance.subject import Attachment
from tests.conformance.table import must
from tests.conformance.truth import addresses_of, routes_of

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]


@must("CHECK", "right after ADD it succeeds, prints nothing and changes nothing", "2, CHECK", since="0.4.0")
async def test_after_add(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    await runtime.add(attachment)
    before = _all(runtime, attachment)
    for _ in range(2):
        silent(await runtime.check(attachment))
    assert _all(runtime, attachment) == before


@must("CHECK", "a configuration from before 0.4.0 has no CHECK: an error", "0.4.0, CHECK", until="0.3.1")
async def test_of_old_versions(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    result = await runtime.add(attachment)
    error_of(await runtime.call("CHECK", attachment, runtime.config(prevResult=result)))


@must("CHECK", "without prevResult: an error", "2, CHECK", since="0.4.0")
async def test_without_previous_result(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    await runtime.add(attachment)
    error_of(await runtime.call("CHECK", attachment))


@pytest.mark.parametrize("previous", [5, "text", [], {"cniVersion": "9.9.9"}, {"ips": 5}], ids=str)
@must("CHECK", "prevResult is no result: an error", "2, CHECK", since="0.4.0", each=False)
async def test_bad_previous_result(runtime: Runtime, previous: Any) -> None:
    attachment = runtime.sandbox()
    await runtime.add(attachment)
    error_of(await runtime.check(attachment, prevResult=previous))


def _delete_interface(attachment: Attachment, result: dict[str, Any]) -> None:
    kernel.ip(attachment.netns, "link", "delete", attachment.ifname)


def _delete_addresses(attachment: Attachment, result: dict[str, Any]) -> None:
    for address in addresses_of(result):
        kernel.ip(attachment.netns, "address", "delete", address, "dev", attachment.ifname)


def _replace_addresses(attachment: Attachment, result: dict[str, Any]) -> None:
    _delete_addresses(attachment, result)
    kernel.ip(attachment.netns, "address", "add", "192.0.2.9/24", "dev", attachment.ifname)


def _delete_routes(attachment: Attachment, result: dict[str, Any]) -> None:
    if not routes_of(result):
        pytest.skip("the network has no routes")
    for destination, _ in routes_of(result):
        kernel.ip(attachment.netns, "route", "delete", destination, "dev", attachment.ifname)


def _rename_interface(attachment: Attachment, result: dict[str, Any]) -> None:
    kernel.ip(attachment.netns, "link", "set", attachment.ifname, "down")
    kernel.ip(attachment.netns, "link", "set", attachment.ifname, "name", "renamed")


def _other_interface(attachment: Attachment, result: dict[str, Any]) -> None:
    _delete_interface(attachment, result)
    kernel.ip(attachment.netns, "link", "add", attachment.ifname, "type", "veth", "peer", "name", "other")
    for address in addresses_of(result):
        kernel.ip(attachment.netns, "address", "add", address, "dev", attachment.ifname)


@pytest.mark.parametrize("damage", [_delete_interface, _delete_addresses, _replace_addresses, _delete_routes,
                                    _rename_interface, _other_interface], ids=lambda damage: damage.__name__[1:])
@must("CHECK", "what the plugin made and prevResult lists is missing or not as it was: an error", "2, CHECK",
      since="0.4.0")
async def test_damage(runtime: Runtime, damage: Callable[[Attachment, dict[str, Any]], None]) -> None:
    attachment = runtime.sandbox()
    result = await runtime.add(attachment)
    silent(await runtime.check(attachment))
    damage(attachment, result)
    error_of(await runtime.check(attachment))


def _address(result: dict[str, Any]) -> None:
    result["ips"][0]["address"] = "192.0.2.77/32"


def _interface(result: dict[str, Any]) -> None:
    for interface in result["interfaces"]:
        if interface.get("sandbox"):
            interface["name"] = "other7"


def _mac(result: dict[str, Any]) -> None:
    for interface in result["interfaces"]:
        if interface.get("sandbox"):
            interface["mac"] = "02:00:00:00:00:77"


@pytest.mark.parametrize("lie", [_address, _interface, _mac], ids=lambda lie: lie.__name__[1:])
@must("CHECK", "what is expected is taken from prevResult: if that says something else, an error", "2, CHECK",
      since="0.4.0", each=False)
async def test_consults_the_previous_result(runtime: Runtime, lie: Callable[[dict[str, Any]], None]) -> None:
    attachment = runtime.sandbox()
    result = await runtime.add(attachment)
    expected = json.loads(json.dumps(result))
    lie(expected)
    error_of(await runtime.check(attachment, prevResult=expected))


@must("CHECK", "the namespace is gone: an error", "2, CHECK", since="0.4.0", each=False)
async def test_namespace_is_gone(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    result = await runtime.add(attachment)
    error_of(await runtime.check(gone(attachment), prevResult=result))


@must("CHECK", "what a later plugin of the list added is no fault", "2, CHECK", since="0.4.0", each=False)
async def test_additions_of_later_plugins(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    result = await runtime.add(attachment)
    kernel.ip(attachment.netns, "route", "add", "198.51.100.0/24", "dev", attachment.ifname)
    kernel.ip(attachment.netns, "address", "add", "192.0.2.9/24", "dev", attachment.ifname)
    kernel.ip(attachment.netns, "link", "add", "dummy7", "type", "veth", "peer", "name", "other7")
    final = json.loads(json.dumps(result))
    final["interfaces"].append({"name": "dummy7", "sandbox": str(attachment.netns)})
    silent(await runtime.check(attachment))
    silent(await runtime.check(attachment, prevResult=final))


@must("CHECK", "a route that a later plugin took away, and that the last result does not list, is no fault", "2, CHECK",
      since="0.4.0", each=False)
async def test_route_taken_away_by_a_later_plugin(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    result = await runtime.add(attachment)
    _delete_routes(attachment, result)
    silent(await runtime.check(attachment, prevResult={**result, "routes": []}))


@must("CHECK", "damage to one attachment is no fault of another", "2, CHECK", since="0.4.0", each=False)
async def test_of_the_right_attachment(runtime: Runtime) -> None:
    whole, damaged = runtime.sandbox(), runtime.sandbox()
    await runtime.add(whole)
    _delete_interface(damaged, await runtime.add(damaged))
    error_of(await runtime.check(damaged))
    silent(await runtime.check(whole))


def _all(runtime: Runtime, attachment: Attachment) -> tuple[Any, ...]:
    return runtime.plugin.traces(), kernel.links(attachment.netns), kernel.routes(attachment.netns)
