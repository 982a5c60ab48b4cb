"""A branch of the host's control groups for one machine's pods, so that machines beside each other do not meet."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["cpu_seconds", "make", "pids", "remove"]

ROOT = Path("/sys/fs/cgroup")


def make(name: str) -> None:
    """Make the branch in every hierarchy."""
    for top in _hierarchies():
        branch = top / name
        branch.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of version 1, where nothing runs then
            if top != ROOT and (top / file).exists():
                (branch / file).write_text((top / file).read_text())


def remove(name: str, patience: float = 20.0) -> None:
    """Remove it and all below. Its processes are dead, which the kernel may not have noticed yet."""
    end = time.monotonic() + patience
    for top in _hierarchies():
        while (top / name).exists():
            branch = top / name
            for folder in sorted((path for path in branch.rglob("*") if path.is_dir()), reverse=True):
                _try(folder)
            if not _try(branch):
                assert time.monotonic() < end, f"{branch} is in use"
                time.sleep(0.1)


def cpu_seconds(name: str, group: str) -> float:
    """What the processes of a group in the branch, found by the end of its name, have used; those that ended too.

    Raises:
        LookupError: there is no such group.
    """
    for folder in _groups(name, group):
        if (file := folder / "cpuacct.usage").exists():  # version 1: nanoseconds
            return int(file.read_text()) / 1e9
    for folder in _groups(name, group):
        if (file := folder / "cpu.stat").exists():  # version 2
            return int(dict(line.split() for line in file.read_text().splitlines())["usage_usec"]) / 1e6
    raise LookupError(f"no control group {name}/.../*{group}")


def pids(name: str, group: str) -> set[int]:
    """The processes of a group in the branch, and of all below it."""
    return {int(line) for folder in _groups(name, group) for file in folder.rglob("cgroup.procs")
            for line in file.read_text().split()}


def _groups(name: str, group: str) -> list[Path]:
    return [folder for top in _hierarchies() for folder in (top / name).rglob(f"*{group}") if folder.is_dir()]


def _try(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _hierarchies() -> list[Path]:
    """Of version 1 each controller's, once; else the one of version 2."""
    if (ROOT / "cgroup.procs").exists():
        return [ROOT]
    return sorted({path.resolve() for path in ROOT.iterdir() if (path / "cgroup.procs").exists()})
