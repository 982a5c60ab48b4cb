"""A container runtime: makes sandboxes, calls the plugin as libcni does, keeps results, cleans up behind itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.conformance import schema
from tests.conformance.subject import Attachment, Subject
from tests.conformance.table import at_least
from tests.support.chain import Done
from tests.support.netns import namespace

_numbers = itertools.count(1)

SETTLING = 20.0
"""Seconds for what is taken down behind the answer: the kernel deletes namespaces in its own time."""


def error_of(done: Done, *codes: int) -> dict[str, Any]:
    """The error that a call ended with: an object on stdout and nothing else, beside a non-zero exit.

    With codes it must be one of them.
    """
    assert done.status != 0, f"success, and {done.stdout!r}"
    error = json.loads(done.stdout)
    assert schema.faults_of_error(error) == []
    if codes:
        assert error["code"] in codes, error
    return dict(error)


def silent(done: Done) -> None:
    """A call succeeded and printed nothing."""
    assert (done.status, done.stdout.strip()) == (0, b""), done


class Runtime:
    """One for each row. What was added and not deleted is deleted at the end, so that rows do not see each other."""

    def __init__(self, plugin: Subject, version: str) -> None:
        self.plugin, self.version = plugin, version
        self._results: dict[Attachment, dict[str, Any]] = {}
        self._tried: dict[Attachment, dict[str, Any]] = {}
        self._namespaces = ExitStack()

    def sandbox(self, container: str = "", ifname: str = "eth0") -> Attachment:
        """A new namespace, and an interface to be made in it."""
        path = self._namespaces.enter_context(namespace("pod"))
        return Attachment(container or f"c{next(_numbers)}", path, ifname)

    def config(self, **more: Any) -> dict[str, Any]:
        return self.plugin.config(self.version, **more)

    async def call(self, verb: str, attachment: Attachment | None = None, config: Mapping[str, Any] | bytes = b"",
                   **environment: str | None) -> Done:
        """A call as it is given; without a configuration the network's. A variable that is None is left out."""
        given = {**(attachment.environment if attachment else {}), **environment}
        config = config or self.config()
        if verb == "ADD" and attachment and isinstance(config, Mapping):
            self._tried.setdefault(attachment, dict(config))
        return await self.plugin.call(verb, config, {name: value for name, value in given.items() if value is not None})

    async def add(self, attachment: Attachment, **more: Any) -> dict[str, Any]:
        """ADD that must succeed; its result, kept for CHECK and DEL."""
        done = await self.call("ADD", attachment, self.config(**more))
        assert done.status == 0, done
        self._results[attachment] = json.loads(done.stdout)
        return self._results[attachment]

    async def delete(self, attachment: Attachment, **more: Any) -> None:
        """DEL that must succeed, with the result of ADD from 0.4.0 on."""
        silent(await self.call("DEL", attachment, self.config(**self._previous(attachment), **more)))
        self._results.pop(attachment, None)
        self._tried.pop(attachment, None)

    async def check(self, attachment: Attachment, **more: Any) -> Done:
        """CHECK with the result of ADD."""
        return await self.call("CHECK", attachment, self.config(**{**self._previous(attachment), **more}))

    async def collect(self, *valid: Attachment, spelled: tuple[str, ...] = ("cni.dev/valid-attachments",),
                      **more: Any) -> Done:
        """GC with a list of what is valid, under each spelling of the key."""
        attachments = [{"containerID": a.container, "ifname": a.ifname} for a in valid]
        return await self.call("GC", None, self.config(**dict.fromkeys(spelled, attachments), **more))

    def _previous(self, attachment: Attachment) -> dict[str, Any]:
        known = attachment in self._results and at_least(self.version, "0.4.0")
        return {"prevResult": self._results[attachment]} if known else {}

    async def close(self) -> None:
        """Delete what was added, whatever became of it, and the namespaces."""
        try:
            for attachment, config in self._tried.items():
                await self.plugin.call("DEL", config, attachment.environment)
        finally:
            self._namespaces.close()


async def settled(plugin: Subject, expected: dict[str, Any]) -> None:
    """The plugin's traces are as expected, at once or soon."""
    until = time.monotonic() + SETTLING
    while plugin.traces() != expected and time.monotonic() < until:  # noqa: ASYNC110 - the kernel sends no event
        await asyncio.sleep(0.05)
    assert plugin.traces() == expected


def gone(attachment: Attachment) -> Attachment:
    """The same attachment, whose sandbox does not exist any more."""
    return replace(attachment, netns=Path(f"{attachment.netns}-gone"))
