"""The container runtime's side of CNI: what libcni does with a configuration and a plugin's binary."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from muslin.errors import Corrupt, InvalidArgument, IOFailure, NotFound, TimedOut

__all__ = ["DEFAULT_CONFIGURATION", "Network", "Sandbox", "load", "parse", "read", "add", "delete", "find"]

DEFAULT_CONFIGURATION = b"""{
    "cniVersion": "1.1.0",
    "name": "muslin",
    "type": "muslin",
    "policy": {"type": "k8s"}
}
"""
"""What is played when no configuration is named."""

PATIENCE = 120.0
"""Seconds for one invocation, the container runtimes' own deadline."""


class Plugin(msgspec.Struct, frozen=True):
    """A plugin of a network: the name of its binary, and what it gets on standard input."""

    type: str
    config: bytes


class Network(msgspec.Struct, frozen=True):
    """A network: one plugin, or a chain of them where the configuration has a list."""

    name: str
    version: str
    chained: bool
    plugins: list[Plugin]


class Sandbox(msgspec.Struct, frozen=True):
    """What a runtime knows of a pod's sandbox."""

    namespace: str
    pod: str
    uid: str
    container_id: str
    netns: str
    ifname: str = "eth0"

    @property
    def key(self) -> str:
        """`namespace/pod`."""
        return f"{self.namespace}/{self.pod}"


def load(path: str | None, socket: str = "", state: str = "") -> Network:
    """The network of a configuration file (.conf, or .conflist with `plugins`), or the default one.

    Raises as `parse` does; IOFailure if the file can not be read.
    """
    return parse(*read(path), socket, state)


def read(path: str | None) -> tuple[bytes, str]:
    """A configuration file, or the default one, and where it is from. Raises IOFailure."""
    if path is None:
        return DEFAULT_CONFIGURATION, "the default configuration"
    try:
        return Path(path).read_bytes(), path
    except OSError as error:
        raise IOFailure(f"{path}: {error.strerror}") from error


def parse(raw: bytes, origin: str, socket: str = "", state: str = "") -> Network:
    """The network that a configuration describes.

    A single configuration reaches its plugin byte for byte as it was written. `socket` is set as `muslin.socket`
    where the configuration has none, and `state` as `muslin.state_dir`: how plugins find services and their state where
    they are not in their default place.

    Raises Corrupt if it is not a JSON object, InvalidArgument for a field.
    """
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise Corrupt(f"{origin} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Corrupt(f"{origin} is not a JSON object")
    name, version = _text(document, "name", origin), document.get("cniVersion", "0.1.0")
    if "plugins" not in document:
        config = json.dumps(_with_places(document, socket, state)).encode() if socket or state else raw
        return Network(name, version, False, [Plugin(_type(document, "type", origin), config)])
    entries = document["plugins"]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidArgument(f"{origin}: plugins must be a list of objects")
    plugins = []
    for index, entry in enumerate(entries):
        text = json.dumps(_with_places({**entry, "name": name, "cniVersion": version}, socket, state))
        plugins.append(Plugin(_type(entry, "type", f"{origin}: plugins[{index}]"), text.encode()))
    return Network(name, version, True, plugins)


def find(kind: str, directories: Sequence[str]) -> Path:
    """The binary of a plugin, in the first directory that has it. Raises NotFound."""
    for directory in directories:
        path = Path(directory) / kind
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise NotFound(f"plugin {kind!r} is not in {', '.join(directories)}; build it with `make shim`, or name its "
                   "directory with --bin-dir")


async def add(network: Network, sandbox: Sandbox, directories: Sequence[str]) -> bytes:
    """Run ADD of every plugin in order and return the last result. Raises as `_invoke` does."""
    result = b""
    for plugin in network.plugins:
        result = await _invoke("ADD", plugin, _config(network, plugin, result), sandbox, directories)
    return result


async def delete(network: Network, sandbox: Sandbox, directories: Sequence[str], result: bytes) -> None:
    """Run DEL of every plugin in reverse order, with the result of the ADD if there was one."""
    for plugin in reversed(network.plugins):
        await _invoke("DEL", plugin, _config(network, plugin, result), sandbox, directories)


def _config(network: Network, plugin: Plugin, result: bytes) -> bytes:
    """Standard input of a plugin: in a chain, with the result of the one before it."""
    if not network.chained or not result:
        return plugin.config
    return json.dumps({**json.loads(plugin.config), "prevResult": json.loads(result)}).encode()


def _environment(command: str, sandbox: Sandbox, directories: Sequence[str]) -> Mapping[str, str]:
    arguments = {
        "IgnoreUnknown": "1", "K8S_POD_NAMESPACE": sandbox.namespace, "K8S_POD_NAME": sandbox.pod,
        "K8S_POD_INFRA_CONTAINER_ID": sandbox.container_id, "K8S_POD_UID": sandbox.uid}
    return {
        **os.environ, "CNI_COMMAND": command, "CNI_CONTAINERID": sandbox.container_id, "CNI_NETNS": sandbox.netns,
        "CNI_IFNAME": sandbox.ifname, "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
        "CNI_PATH": ":".join(directories), "TRACEPARENT": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}


async def _invoke(command: str, plugin: Plugin, config: bytes, sandbox: Sandbox, directories: Sequence[str]) -> bytes:
    """Run a plugin and return what it printed.

    Raises NotFound if there is no such binary, TimedOut, IOFailure with the plugin's own error.
    """
    binary = find(plugin.type, directories)
    try:
        process = await asyncio.create_subprocess_exec(
            binary, stdin=PIPE if config else DEVNULL, stdout=PIPE, stderr=PIPE,
            env=_environment(command, sandbox, directories),
            process_group=0)  # Ctrl-C is for us: the plugin finishes what it began
    except OSError as error:
        raise IOFailure(f"{binary}: {error.strerror}") from error
    try:
        async with asyncio.timeout(PATIENCE):
            output, errors = await process.communicate(config)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise TimedOut(f"{command} of {sandbox.key} by {plugin.type} gave no answer in {PATIENCE:.0f} s") from None
    except asyncio.CancelledError:  # the caller wants to undo, which must not overtake what is being done
        await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=PATIENCE)
        raise
    if process.returncode:
        raise IOFailure(f"{command} of {sandbox.key} by {plugin.type} failed: {_error(output, errors)}")
    return output


def _error(output: bytes, errors: bytes) -> str:
    """The error a plugin reported: CNI's JSON on standard output, else whatever it printed."""
    try:
        document = json.loads(output)
        details = f" ({document['details']})" if document.get("details") else ""
        return f"code {document['code']}: {document['msg']}{details}"
    except (ValueError, KeyError, TypeError, AttributeError):
        words = (errors or output).decode(errors="replace").strip().splitlines()
        return words[-1] if words else "it said nothing"


def _text(document: Mapping[str, Any], key: str, origin: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{origin}: {key} must be a non-empty string")
    return value


def _type(document: Mapping[str, Any], key: str, origin: str) -> str:
    """The name of a binary: no path, as libcni asks."""
    kind = _text(document, key, origin)
    if "/" in kind or kind in {".", ".."}:
        raise InvalidArgument(f"{origin}: {key} must be the name of a binary, without a path")
    return kind


def _with_places(document: Mapping[str, Any], socket: str, state: str) -> dict[str, Any]:
    places = {name: place for name, place in (("socket", socket), ("state_dir", state)) if place}
    own = document.get("muslin") or {}
    return {**document, "muslin": {**places, **own}} if places and isinstance(own, dict) else dict(document)
