"""Each service and the store, frozen or killed before an ADD and before a DEL: nothing is left of the pod."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from muslin.errors import MuslinError
from tests.integration.node.test_upkeep_stack import deletions, held
from tests.support.chain import Done
from tests.support.netns import namespace
from tests.support.stack import Pod, Stack, running

pytestmark = pytest.mark.root

PATIENCE = 90.0
"""Seconds; on an idle machine it takes less than five."""

VICTIMS = ("ipam", "endpoint", "policy", "node", "etcd")


async def invoked(stack: Stack, verb: str, pod: Pod, timeout: float) -> Done:
    """One try of a runtime that gives a service so many seconds."""
    own = {"socket": str(stack.run / "muslin.sock"), "state_dir": str(stack.state), "timeout": timeout}
    return await stack.invoke(verb, pod, stack.configuration(policy={}, muslin=own))


async def succeeded(stack: Stack, verb: str, pod: Pod) -> None:
    """As often as it takes."""
    async with asyncio.timeout(PATIENCE):
        while (await invoked(stack, verb, pod, 30)).status:  # noqa: ASYNC110  a runtime's pause between its tries
            await asyncio.sleep(0.25)


def clean(stack: Stack) -> bool:
    """Whether nothing of any pod is anywhere."""
    try:
        return not held(stack) and not stack.leftovers() and not deletions(stack)
    except (OSError, MuslinError):
        return False  # the store is being started


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
async def test_nothing_is_left(verb: str, how: signal.Signals, tmp_path: Path) -> None:
    """A DEL that fails would be repeated, and an ADD rolled back, by nobody: whoever called goes away after one try."""
    async with running(tmp_path) as stack:
        for number, victim in enumerate(VICTIMS):
            with namespace("pod") as path:
                pod = Pod(f"c{number}", path)
                await succeeded(stack, "ADD", pod)  # all services are there, and know each other
                if verb == "ADD":
                    await succeeded(stack, "DEL", pod)
                process = stack.pid(victim)
                os.kill(process, how)
                done = await invoked(stack, verb, pod, 3)
                if how is signal.SIGSTOP:
                    os.kill(process, signal.SIGCONT)
                if verb == "DEL":
                    assert done.status == 0, done.stdout
                elif not done.status:  # it was started anew in time
                    assert json.loads(done.stdout)["ips"]
                    await succeeded(stack, "DEL", pod)
                async with asyncio.timeout(PATIENCE):
                    while not await asyncio.to_thread(clean, stack):  # noqa: ASYNC110  the kernel's and the store's
                        await asyncio.sleep(0.1)
                assert not (stack.state / "deletions/failed").exists(), victim
