"""A runtime's way with a list of plugins: what libcni does with a .conflist, for real plugins on a node of a test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.chain import Done
from tests.support.stack import Pod


class Conflist:
    """A network of several plugins, run in the namespace that stands for the host.

    As libcni does it (its api.go): name and version go into every plugin's configuration; each gets the result of the
    one before as prevResult, and of the runtime's capabilities those that it declares; DEL and CHECK get the last
    result of ADD; DEL goes backwards.
    """

    def __init__(self, node: Path, directories: Sequence[Path], document: Mapping[str, Any]) -> None:
        self.node = node
        self.directories = directories
        self.document = document
        self.results: dict[str, dict[str, Any]] = {}
        """The last result of ADD, by container."""

    async def add(self, pod: Pod, capabilities: Mapping[str, Any]) -> dict[str, Any]:
        """The last plugin's result; what one of them fails with is an assertion."""
        result = None
        for plugin in self.document["plugins"]:
            done = await self._run("ADD", plugin, pod, capabilities, result)
            assert done.status == 0, (plugin["type"], done.stdout, done.stderr)
            result = json.loads(done.stdout)
        assert result is not None
        self.results[pod.container] = result
        return dict(result)

    async def check(self, pod: Pod, capabilities: Mapping[str, Any]) -> list[Done]:
        """What each plugin says."""
        return [await self._run("CHECK", plugin, pod, capabilities, self.results[pod.container])
                for plugin in self.document["plugins"]]

    async def delete(self, pod: Pod, capabilities: Mapping[str, Any]) -> None:
        """All of them succeed."""
        for plugin in reversed(self.document["plugins"]):
            done = await self._run("DEL", plugin, pod, capabilities, self.results.get(pod.container))
            assert (done.status, done.stdout) == (0, b""), (plugin["type"], done)

    async def _run(self, command: str, plugin: Mapping[str, Any], pod: Pod, capabilities: Mapping[str, Any],
                   previous: Mapping[str, Any] | None) -> Done:
        config = {**plugin, "name": self.document["name"], "cniVersion": self.document["cniVersion"]}
        if declared := {key: capabilities[key] for key in plugin.get("capabilities", ()) if key in capabilities}:
            config["runtimeConfig"] = declared
        if previous is not None:
            config["prevResult"] = previous
        path = next(folder / plugin["type"] for folder in self.directories if (folder / plugin["type"]).exists())
        environment = {**pod.environment, "CNI_COMMAND": command, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                       "CNI_PATH": ":".join(map(str, self.directories))}
        process = await asyncio.create_subprocess_exec(
            "nsenter", f"--net={self.node}", path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env=environment)
        async with asyncio.timeout(60):
            stdout, stderr = await process.communicate(json.dumps(config).encode())
        assert process.returncode is not None
        return Done(process.returncode, stdout, stderr.decode())
