"""The plugin that is examined: exec'd as libcni does, on a node of its own, and what it leaves there."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muslin.etcd import keys
from tests.conformance import kernel
from tests.support.chain import Done
from tests.support.stack import Stack

DEADLINE = 60.0
"""Seconds for one call: that a plugin hangs is to be found, not that the machine is slow."""


@dataclass(frozen=True)
class Attachment:
    """An interface that a runtime wants in a container: what it puts into the environment."""

    container: str
    netns: Path
    ifname: str = "eth0"

    @property
    def identity(self) -> tuple[str, str]:
        return self.container, self.ifname

    @property
    def environment(self) -> dict[str, str]:
        pod = "".join(letter if letter.isalnum() else "-" for letter in self.container.lower())
        return {"CNI_CONTAINERID": self.container, "CNI_NETNS": str(self.netns), "CNI_IFNAME": self.ifname,
                "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"}


@dataclass
class Subject:
    """A plugin and the network that it is examined with.

    Attributes:
        path: The executable.
        network: Its configuration, without a version.
        node: Namespace that stands for the host.
        stack: Muslin's services, if they are behind this plugin.
        versions: Those that its VERSION lists.
    """

    path: Path
    network: Mapping[str, Any]
    node: Path
    stack: Stack | None = None
    versions: tuple[str, ...] = field(default=())

    def config(self, version: str, **more: Any) -> dict[str, Any]:
        """The network configuration in a version."""
        return {**self.network, "cniVersion": version, **more}

    async def call(self, verb: str, config: Mapping[str, Any] | bytes, environment: Mapping[str, str]) -> Done:
        """Exec the plugin with CNI_COMMAND, CNI_PATH, PATH and the given environment, and no other."""
        return await execute(self.path, self.node, config,
                             {"CNI_COMMAND": verb, "CNI_PATH": str(self.path.parent), **environment})

    def held(self) -> set[tuple[str, str]]:
        """The attachments that the plugin's own store has something of, where we can read it."""
        if self.stack:
            return {(parts[-2], parts[-1]) for key in self.stack.records()
                    if key.startswith((keys.IPAM_HANDLES, keys.ENDPOINTS)) for parts in [key.split("/")]}
        return set(_host_local(self.network))

    def traces(self) -> dict[str, Any]:
        """All that the plugin has on the node, to be compared with an earlier look."""
        links, routes = kernel.glance(self.node)
        return {"links": links, "routes": routes, "held": self.held(),
                "verdicts": kernel.verdicts(self.node) if self.stack else []}


def _host_local(network: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The attachments in the store of Debian's host-local: a file for each address, with container and interface."""
    ipam = network.get("ipam", {})
    if ipam.get("type") != "host-local":
        return
    for path in Path(ipam["dataDir"], network["name"]).glob("[0-9]*"):
        container, ifname = path.read_text().split()
        yield container, ifname


async def execute(path: Path, node: Path, config: Mapping[str, Any] | bytes, environment: Mapping[str, str]) -> Done:
    """Exec a plugin on a node; its stdin is the configuration."""
    process = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={node}", path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"], **environment}, cwd="/")
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    try:
        async with asyncio.timeout(DEADLINE):
            stdout, stderr = await process.communicate(raw)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Done(process.returncode, stdout, stderr.decode(errors="replace"))


def network_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of one plugin: as it is, or the first entry of a list with the list's name."""
    plugins = document.get("plugins")
    network = {**plugins[0], "name": document["name"]} if plugins else dict(document)
    network.pop("cniVersion", None)
    return network
