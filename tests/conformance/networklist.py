"""A list of plugins with the examined one first, carried out as libcni carries it out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conformance.runtime import Runtime, silent
from tests.conformance.subject import Attachment, execute
from tests.conformance.table import at_least
from tests.support.chain import Done

DEBIAN = Path("/usr/lib/cni")
"""Where Debian's package containernetworking-plugins has them."""


class NetworkList:
    """The plugin under examination and others after it.

    `capabilities` are what the runtime has to say; a plugin gets, as runtimeConfig, those that it declares.
    """

    def __init__(self, runtime: Runtime, others: Sequence[Mapping[str, Any]], capabilities: Mapping[str, Any]) -> None:
        self._runtime = runtime
        self._plugins = [(runtime.plugin.path, runtime.plugin.network),
                         *((DEBIAN / other["type"], other) for other in others)]
        self._capabilities = capabilities
        self._result: dict[str, Any] = {}

    async def add(self, attachment: Attachment) -> dict[str, Any]:
        """In order; each has the result so far as prevResult. Gives the last result."""
        result: dict[str, Any] = {}
        for path, plugin in self._plugins:
            done = await self._call("ADD", path, plugin, attachment, result)
            assert done.status == 0, f"{path.name}: {done}"
            result = json.loads(done.stdout)
        self._result = result
        return result

    async def check(self, attachment: Attachment) -> list[tuple[str, Done]]:
        """In order, each with the last result; how it ended, by plugin."""
        return [(path.name, await self._call("CHECK", path, plugin, attachment, self._result))
                for path, plugin in self._plugins]

    async def delete(self, attachment: Attachment) -> None:
        """In reverse, each with the last result, from 0.4.0 on."""
        previous = self._result if at_least(self._runtime.version, "0.4.0") else {}
        for path, plugin in reversed(self._plugins):
            silent(await self._call("DEL", path, plugin, attachment, previous))

    async def _call(self, verb: str, path: Path, plugin: Mapping[str, Any], attachment: Attachment,
                    previous: Mapping[str, Any]) -> Done:
        config = {**plugin, "name": self._runtime.plugin.network["name"], "cniVersion": self._runtime.version}
        wanted = {name: value for name, value in self._capabilities.items() if plugin.get("capabilities", {}).get(name)}
        config |= {"runtimeConfig": wanted} if wanted else {}
        config |= {"prevResult": previous} if previous else {}
        directories = f"{self._runtime.plugin.path.parent}:{DEBIAN}"
        return await execute(path, self._runtime.plugin.node, config,
                             {"CNI_COMMAND": verb, "CNI_PATH": directories, **attachment.environment})
