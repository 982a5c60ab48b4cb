"""The first process of a machine: `python init.py DIRECTORY NAME`, in fresh namespaces of all kinds.

It mounts what the machine has of its own, says so on standard output, and collects orphans until standard input ends.
Then it ends, and the kernel kills all processes that are left: nothing of a machine outlives who made it.

What a machine writes lies in DIRECTORY: overlays of /etc, /opt and /var, whose `upper` is what it changed, and plain
directories for what can not lie on an overlay or is large. /run is in memory. The rest is the host's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

OVERLAYS = ("etc", "opt", "var")
PLAIN = ("var/lib/containerd", "var/lib/etcd", "var/lib/kubelet", "var/lib/muslin", "var/lib/cni", "var/log")


def main(directory: Path, name: str) -> None:
    """Be process 1."""
    for top in OVERLAYS:
        upper, work = directory / top / "upper", directory / top / "work"
        for folder in (upper, work):
            folder.mkdir(parents=True, exist_ok=True)
        mount("-t", "overlay", "-o", f"lowerdir=/{top},upperdir={upper},workdir={work}", "overlay", f"/{top}")
    for place in PLAIN:
        own = directory / "plain" / place
        own.mkdir(parents=True, exist_ok=True)
        Path("/", place).mkdir(parents=True, exist_ok=True)
        mount("--bind", str(own), f"/{place}")
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    Path("/run/lock").mkdir()
    mount("-t", "proc", "proc", "/proc")
    aside = Path("/run/cgroup")  # sysfs shows the links of the network namespace it is mounted in, but hides these
    aside.mkdir()
    mount("--rbind", "/sys/fs/cgroup", str(aside))
    mount("-t", "sysfs", "sysfs", "/sys")
    mount("--rbind", str(aside), "/sys/fs/cgroup")
    subprocess.run(["umount", "--recursive", "--lazy", str(aside)], check=True)
    aside.rmdir()
    mount("--make-rshared", "/")  # mounts below hostPath volumes get into pods that ask for it
    socket.sethostname(name)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGCHLD, collect)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


def mount(*arguments: str) -> None:
    """Mount something, or say how mounts spread."""
    subprocess.run(["mount", *arguments], check=True)


def collect(*_: object) -> None:
    """Wait for every child that has ended; they are orphans of others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # none is left


main(Path(sys.argv[1]), sys.argv[2])
