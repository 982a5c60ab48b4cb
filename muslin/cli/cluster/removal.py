"""Everything of Muslin's taken from a node: configuration, plugin, kernel, files. Blocks; each step may be repeated."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from muslin.cli.install import Places, uninstall
from muslin.errors import MuslinError

__all__ = ["Directories", "remove"]

log = logging.getLogger(__name__)

_PAUSE = 0.05
"""Seconds between looks at whether the daemon has ended."""


@dataclass(frozen=True, slots=True)
class Directories:
    """Ours on the host, by paths whose last part can be removed, which a mount's can not."""

    run: Path
    state: Path
    logs: Path
    etcd: Path


def remove(places: Places, directories: Directories, socket: Path, *, etcd: bool, patience: float) -> list[str]:
    """Remove it; `etcd` is whether that includes etcd's data. Returns what could not be, for people.

    The configuration goes first, so that the runtime begins nothing new; also one that somebody has changed, for it
    calls what will not be there. The daemon ends by itself meanwhile: it is waited for, `patience` seconds, and what it
    looks after is removed then all the same.
    """
    from muslin.cli.lifecycle import clean_kernel  # takes 5 MB, which an agent need not have before its end

    problems = []
    try:
        for line in uninstall(places, force=True):
            log.info("%s", line)
    except (MuslinError, OSError) as problem:
        problems.append(str(problem))
    if not _ended(socket, patience):
        log.warning("the daemon has not ended")
    try:
        clean_kernel()
        log.info("nothing of ours is in the kernel any more")
    except (MuslinError, OSError) as problem:
        problems.append(str(problem))
    for directory in (directories.logs, directories.state, *((directories.etcd,) if etcd else ()), directories.run):
        try:
            shutil.rmtree(directory)
            log.info("%s: removed", directory)
        except FileNotFoundError:
            continue
        except OSError as problem:
            if problem.errno == errno.EBUSY and not any(directory.iterdir()):
                log.info("%s: emptied; it is a file system of its own", directory)
            else:
                problems.append(str(problem))
    return problems


def _ended(socket: Path, patience: float) -> bool:
    """Whether nobody serves the socket (muslin.rpc.listen.SocketLock), within so many seconds."""
    try:
        descriptor = os.open(f"{socket}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    return False
                time.sleep(_PAUSE)
            else:
                return True
    finally:
        os.close(descriptor)
