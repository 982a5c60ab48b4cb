"""A whole Muslin on a node of its own: `muslin up` in a namespace that stands for the host, driven through the shim."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muslin import netns
from tests.support.chain import Done, invoke
from tests.support.netns import command, namespace

SHIM = Path(__file__).resolve().parents[2] / "build/cni/muslin"


@dataclass(frozen=True)
class Pod:
    """What a runtime knows of a sandbox."""

    container: str
    netns: Path
    namespace: str = "default"
    name: str = ""
    ifname: str = "eth0"

    @property
    def environment(self) -> dict[str, str]:
        name = self.name or self.container
        return {"CNI_CONTAINERID": self.container, "CNI_NETNS": str(self.netns), "CNI_IFNAME": self.ifname,
                "CNI_PATH": str(SHIM.parent),
                "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={name}"}


class Stack:
    """A running `muslin up`."""

    def __init__(self, directory: Path, node: Path) -> None:
        self.node = node
        """Path of the namespace that stands for the host."""
        self.run, self.state = directory / "run", directory / "state"
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            "nsenter", f"--net={self.node}", sys.executable, "-m", "muslin.cli.main", "up", "--state", str(self.state),
            "--run-dir", str(self.run), "--node", "node1", stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE)
        assert self.process.stdout
        async with asyncio.timeout(60):
            async for line in self.process.stdout:
                if b"muslin is up" in line:
                    break
            else:
                raise AssertionError(f"muslin up ended: {(await self.process.communicate())[1].decode()}")
        self._drains = [asyncio.create_task(_drain(stream)) for stream in (self.process.stdout, self.process.stderr)]

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self.process.wait(), 30)
        await asyncio.gather(*self._drains)

    def pid(self, service: str) -> int:
        """The process of a service, by its command line among the supervisor's children."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in map(int, listed):
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if f"services.{service}" in line or (service == "etcd" and "--data-dir" in line):
                return child
        raise AssertionError(f"no process of {service} among {listed}")

    def kill(self, service: str) -> None:
        os.kill(self.pid(service), signal.SIGKILL)

    def records(self) -> dict[str, Any]:
        """Every record in the store, by key, as it lies there; read over HTTP from inside the node's namespace."""
        port = json.loads((self.state / "etcd.json").read_bytes())["client"]
        request = json.dumps({"key": _base64(b"/muslin/"), "range_end": _base64(b"/muslin0")}).encode()

        def read() -> Any:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v3/kv/range", request, timeout=10) as answer:
                return json.load(answer)

        return {base64.b64decode(item["key"]).decode(): _decoded(base64.b64decode(item.get("value", "")))
                for item in netns.run(self.node, read).get("kvs", ())}

    def configuration(self, **more: Any) -> dict[str, Any]:
        return {"cniVersion": "1.0.0", "name": "net", "type": "muslin", "policy": {"type": "k8s"},
                "muslin": {"socket": str(self.run / "muslin.sock"), "state_dir": str(self.state)}, **more}

    async def invoke(self, verb: str, pod: Pod, config: dict[str, Any] | None = None) -> Done:
        """Exec the shim as a runtime does."""
        return await invoke(SHIM, verb, config or self.configuration(), pod.environment, timeout=60)

    def leftovers(self) -> dict[str, list[str]]:
        """What is on the node beyond an empty one: veths, routes to pods, names in verdict maps."""
        links = [line for line in command(self.node, "ip", "-o", "link").splitlines() if ": lo:" not in line]
        routes = command(self.node, "ip", "route").splitlines()
        maps = json.loads(command(self.node, "nft", "-j", "list", "ruleset"))["nftables"]
        elements = [str(e) for item in maps for e in item.get("map", {}).get("elem", [])]
        return {name: found for name, found in (("links", links), ("routes", routes), ("verdicts", elements)) if found}


def _decoded(raw: bytes) -> Any:
    """JSON, but for what a node says of itself, which are words."""
    try:
        return json.loads(raw or b"null")
    except ValueError:
        return raw.decode()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


async def _drain(stream: asyncio.StreamReader | None) -> None:
    while stream and await stream.read(65536):
        pass


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Stack]:
    """A stack that is up; taken down at the end."""
    with namespace("node") as node:
        stack = Stack(directory, node)
        await stack.start()
        try:
            yield stack
        finally:
            await stack.stop()

