"""A branch of the host's control groups for one machine's pods, so that machines beside each other do not meet."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["make", "remove"]

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
