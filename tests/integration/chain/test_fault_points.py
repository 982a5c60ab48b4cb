"""Each service and the store dies or freezes at each step of ADD and DEL: nothing is left, or not for long.

One invocation stands at each of the points; then the fault strikes all of them at once, and they go on.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from muslin.etcd import keys
from tests.support import ipam_invariants
from tests.support.chain import Done
from tests.support.hold import Hold, Point
from tests.support.netns import command, namespaces
from tests.support.stack import Pod, Stack, running

pytestmark = pytest.mark.root

STEPS = [(verb, service, point) for verb in ("ADD", "DEL") for service in ("ipam", "policy", "endpoint", "node")
         for point in Point]
"""Where an invocation can stand."""
SHIM_SECONDS = 4.0
"""An invocation's whole time, its rollback included."""
REPAIRED_SECONDS = 10.0
"""After the fault is over."""
PATIENCE = 60.0


@dataclass
class Standing:
    """An invocation at a point."""

    verb: str
    pod: Pod
    hold: Hold
    config: dict[str, Any]
    address: str = ""
    """As the runtime was told."""

    @property
    def name(self) -> str:
        return self.pod.container


@asynccontextmanager
async def all_points(stack: Stack, paths: list[Path], directory: Path) -> AsyncIterator[list[Standing]]:
    """An attachment for each point; those that a DEL is for are added."""
    async with AsyncExitStack() as holds:
        made = []
        for number, ((verb, service, point), path) in enumerate(zip(STEPS, paths, strict=True)):
            hold = await holds.enter_async_context(Hold(directory / f"h{number}", stack.run / "muslin.sock", point))
            config = stack.configuration()
            config["muslin"] |= {"targets": {service: str(hold.path)}, "timeout": SHIM_SECONDS}
            name = f"{verb}-{service}-{point.name}".lower()
            made.append(Standing(verb, Pod(name, path, name=name), hold, config))
        for each in made:
            if each.verb == "DEL":
                each.address = given(await stack.invoke("ADD", each.pod))
        yield made


def given(done: Done) -> str:
    assert done.status == 0, done
    return str(json.loads(done.stdout)["ips"][0]["address"])


async def strike(stack: Stack, victim: str, fault: str, go: Any) -> None:
    """Let the fault happen, then what stands go on, until the fault is over."""
    pid = stack.pid(victim)
    if fault == "killed":
        os.kill(pid, signal.SIGKILL)
        await go()
    else:
        os.kill(pid, signal.SIGSTOP)
        try:
            await go()
        finally:
            os.kill(pid, signal.SIGCONT)


async def until(what: str, found: Any) -> None:
    """Poll until a function finds nothing more to tell of."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + REPAIRED_SECONDS
    while left := await asyncio.to_thread(found):
        assert loop.time() < ends, f"{what}: {left}"
        await asyncio.sleep(0.1)


def of_attachments(records: Mapping[str, object]) -> list[str]:
    raw = {key: json.dumps(value).encode() for key, value in records.items()}
    broken = [str(violation) for violation in ipam_invariants.violations(raw)]
    return broken + [key for key in records if key.startswith((keys.IPAM_HANDLES, keys.ENDPOINTS))]


@pytest.mark.parametrize("fault", ["killed", "frozen"])
@pytest.mark.parametrize("victim", ["ipam", "policy", "endpoint", "node", "etcd"])
async def test_a_fault_at_every_point(victim: str, fault: str, tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        with namespaces(len(STEPS), "pod") as paths:
            async with all_points(stack, list(paths), tmp_path) as standing:
                invoked = [asyncio.create_task(stack.invoke(each.verb, each.pod, each.config)) for each in standing]
                for each in standing:
                    await asyncio.wait_for(each.hold.standing.wait(), PATIENCE)
                outcomes: list[Done] = []
                struck = stack.pid(victim)

                async def go() -> None:
                    for each in standing:
                        each.hold.go()
                    outcomes.extend(await asyncio.gather(*invoked))

                await strike(stack, victim, fault, go)
            await recovered(stack, paths[0])
            added = {}
            for each, done in zip(standing, outcomes, strict=True):
                if done.status:
                    assert done.error["code"] in (11, 5, 101), (each.name, done.error)
                if each.verb == "ADD" and done.status == 0:
                    added[each.name] = given(done)
                    assert added[each.name].split("/")[0] in command(each.pod.netns, "ip", "-4", "address"), each.name
            assert len(set(added.values())) == len(added), "an address was given twice"
            assert {each.name: done.error for each, done in zip(standing, outcomes, strict=True)
                    if each.verb == "DEL" and done.status} == {}, "a DEL is done, or put off"
            if fault == "killed":  # its supervisor may have it back before anybody gives up
                assert stack.pid(victim) != struck, "the fault was to be felt"
            else:
                assert any(done.status for done in outcomes), "the fault was to be felt"
            # A runtime deletes what it failed to add; here nobody does: what the shim put off must be enough.
            await until("not gone", lambda: [
                key for key in of_attachments(stack.records()) if not any(name in key for name in added)])
            for each in standing:
                if each.name in added:
                    assert (await stack.invoke("DEL", each.pod)).status == 0, each.name
            await until("records", lambda: of_attachments(stack.records()))
            await until("kernel", stack.leftovers)
            await until("journal", lambda: [str(path) for path in (stack.state / "deletions").glob("*.call")])
            for each in standing:
                assert "eth0" not in command(each.pod.netns, "ip", "-o", "link"), each.name


async def recovered(stack: Stack, path: Path) -> None:
    """Wait until an ADD succeeds again, and undo it."""
    pod = Pod("probe", path, name="probe", ifname="probe0")
    loop = asyncio.get_running_loop()
    ends = loop.time() + PATIENCE
    while True:
        done = await stack.invoke("ADD", pod)
        if done.status == 0:
            break
        assert loop.time() < ends, done
        await stack.invoke("DEL", pod)
        await asyncio.sleep(0.1)
    assert (await stack.invoke("DEL", pod)).status == 0
