"""The network configuration that runtimes of a cluster get: our plugin, and portmap behind it where it is installed.

Pure, but for asking a plugin for its versions.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["FILE", "NETWORK", "content", "status_call", "versions"]

FILE = "10-muslin.conflist"
NETWORK = "k8s-pod-network"
VERSIONS = ("0.4.0", "1.0.0", "1.1.0")
"""Of the CNI specification, oldest first. A runtime takes the latest that it knows; old ones read `cniVersion` only."""
_SECONDS = 10.0


def content(portmap: Sequence[str] | None) -> bytes:
    """The list. `portmap` are the versions that it knows; None where it is not installed."""
    shared = [each for each in VERSIONS if portmap is None or each in portmap]
    if not shared:
        portmap, shared = None, list(VERSIONS)
    plugins: list[dict[str, Any]] = [_own()]
    if portmap is not None:
        plugins.append({"type": "portmap", "capabilities": {"portMappings": True}})
    return json.dumps({"cniVersion": shared[0], "cniVersions": shared, "name": NETWORK, "plugins": plugins},
                      indent=2).encode() + b"\n"


def status_call() -> bytes:
    """What the plugin reads when it is asked whether it can serve (STATUS)."""
    return json.dumps({"cniVersion": "1.1.0", "name": NETWORK, **_own()}).encode()


def _own() -> dict[str, Any]:
    return {"type": "muslin", "ipam": {"type": "muslin-ipam"}, "policy": {"type": "k8s"},
            "capabilities": {"bandwidth": True}}


def versions(plugin: Path) -> list[str] | None:
    """The versions that a plugin knows; None if it is not there, those of before 1.1 if it can not be asked."""
    if not plugin.exists():
        return None
    try:
        done = subprocess.run([plugin], input=b'{"cniVersion": "1.0.0"}', env={"CNI_COMMAND": "VERSION"},
                              capture_output=True, check=True, timeout=_SECONDS)
        return [str(each) for each in json.loads(done.stdout)["supportedVersions"]]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return list(VERSIONS[:2])
