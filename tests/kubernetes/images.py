"""Images of one layer, written without Docker: what `docker save` would give, and `ctr images import` takes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["AGNHOST", "PAUSE", "agnhost", "pause", "write"]

AGNHOST, PAUSE = "muslin.test/agnhost:1", "muslin.test/pause:1"
_APPLETS = ("sh", "cat", "hostname", "ip", "ls", "nc", "ping", "seq", "sleep", "timeout", "true", "wget")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write(target: Path, name: str, files: Mapping[str, Path], links: Mapping[str, str], entrypoint: Sequence[str],
          command: Sequence[str] = ()) -> None:
    """Write an image. `files` are programs by their path in it, `links` symbolic links to where they lead."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path, source in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = source.stat().st_size, 0o755
            with source.open("rb") as program:
                tar.addfile(member, program)
        for path, to in links.items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, to, 0o777
            tar.addfile(member)
    data = layer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    config: dict[str, Any] = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()), "os": "linux",
        "config": {"Env": ["PATH=/bin:/"], "Entrypoint": list(entrypoint), "Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}, "history": [{"created_by": "muslin's tests"}]}
    encoded = json.dumps(config).encode()
    described = f"{hashlib.sha256(encoded).hexdigest()}.json"
    manifest = [{"Config": described, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(target, "w") as tar:
        for path, content in ((f"{digest}.tar", data), (described, encoded),
                              ("manifest.json", json.dumps(manifest).encode())):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))


def agnhost(target: Path, binaries: Path) -> None:
    """Kubernetes' own server and client for tests, and a shell with what goes with it."""
    write(target, AGNHOST, {"agnhost": binaries / "agnhost", "bin/busybox": Path("/bin/busybox")},
          {f"bin/{applet}": "busybox" for applet in _APPLETS}, ["/agnhost"], ["pause"])


def pause(target: Path, binaries: Path) -> None:
    """What holds a pod's namespaces."""
    write(target, PAUSE, {"pause": binaries / "pause"}, {}, ["/pause"])
