"""`muslin cluster node`: what a node needs besides the daemon, in its pod.

Before the daemon starts: its certificate, and the plugin. Beside it: the configuration, once the plugin says that it
can serve (STATUS); the certificate renewed; and at the end, if Muslin is removed from the cluster, all taken away.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from muslin.cli import install
from muslin.cli.cluster import conflist
from muslin.cli.cluster.identity import Identity
from muslin.cli.cluster.leaving import Leaving
from muslin.cli.cluster.removal import Directories, remove
from muslin.errors import MuslinError
from muslin.etcd.backoff import Backoff
from muslin.kube.access import in_cluster
from muslin.kube.client import Client
from muslin.tasks import TaskSet

__all__ = ["Wanted", "able", "prepare", "serve"]

log = logging.getLogger(__name__)

_STATUS_SECONDS = 30.0
"""For the plugin's answer."""
_TELL_SECONDS = 10.0
"""Between lines about what is waited for, which changes with every moment of a start."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A node, and where things are on it, as this process sees them."""

    namespace: str
    node: str
    places: install.Places
    source: Path
    """The plugin, in our image."""
    directories: Directories
    renew: int
    """Days before its end at which the certificate is replaced."""
    patience: float
    """Seconds after SIGTERM until it must be decided what to do, half of which is left then for doing it."""

    @property
    def socket(self) -> Path:
        """Of the daemon."""
        return self.directories.run / "muslin.sock"


def _identity(client: Client, wanted: Wanted) -> Identity:
    return Identity(client, wanted.namespace, wanted.node, wanted.directories.state / "pki", wanted.renew)


async def prepare(wanted: Wanted) -> None:
    """Have what the daemon needs to start: directories, a certificate, the plugin.

    Raises:
        MuslinError, OSError: the plugin can not be installed.
    """
    for directory, mode in ((wanted.directories.run, 0o700), (wanted.directories.state, 0o700),
                            (wanted.directories.logs, 0o750)):
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        directory.chmod(mode)
    client = Client(in_cluster())
    try:
        await _identity(client, wanted).have()
    finally:
        await client.aclose()
    for line in await asyncio.to_thread(install.install_plugin, wanted.places, wanted.source, force=False):
        log.info("%s", line)


def serve(wanted: Wanted, stopped: Callable[[], bool]) -> int:
    """Work until SIGTERM; the exit code. `stopped` says whether there was one before this."""
    return asyncio.run(_run(wanted, stopped))


async def _run(wanted: Wanted, stopped_before: Callable[[], bool]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if stopped_before():
        stop.set()
    client, tasks = Client(in_cluster()), TaskSet()
    leaving = Leaving(client, wanted.namespace)
    try:
        leaving.start(tasks)
        tasks.spawn("certificate", _identity(client, wanted).keep())
        configuring = tasks.spawn("configuration", _configure(wanted))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((stopped, tasks.failed), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if tasks.failed.done():
            return 1
        configuring.cancel()
        await asyncio.wait((configuring,))  # it may be in the middle of writing
        if not await leaving.decided(wanted.patience):
            log.info("stopping; pods keep their network")
            return 0
        log.info("Muslin is removed from the cluster, and now from this node")
        problems = await asyncio.to_thread(remove, wanted.places, wanted.directories, wanted.socket,
                                           etcd=leaving.etcd_removed, patience=wanted.patience / 2)
        for problem in problems:
            log.error("not removed: %s", problem)
        return 1 if problems else 0
    finally:
        await tasks.aclose()
        await client.aclose()


async def _configure(wanted: Wanted) -> None:
    """Have the configuration written once the plugin can serve. It stays when it no longer can."""
    backoff, told = Backoff(0.1, 1.0), 0.0
    while problem := await asyncio.to_thread(able, wanted.places.plugin):
        if (now := time.monotonic()) - told > _TELL_SECONDS:
            told = now
            log.info("the plugin can not serve yet: %s", problem)
        await asyncio.sleep(backoff.next())
    versions = await asyncio.to_thread(conflist.versions, wanted.places.bin / "portmap")
    if versions is None:
        log.warning("%s is not there: pods get no hostPort", wanted.places.bin / "portmap")
    try:
        lines = await asyncio.to_thread(install.install_configuration, wanted.places, conflist.FILE,
                                        conflist.content(versions), force=False)
    except (MuslinError, OSError) as failure:
        log.error("the configuration is not written: %s", failure)  # noqa: TRY400  the message says it
        return
    for line in lines:
        log.info("%s", line)


def able(plugin: Path) -> str:
    """Why the plugin can not serve now (STATUS); empty if it can. Blocks."""
    try:
        done = subprocess.run([plugin], input=conflist.status_call(), capture_output=True, check=False,
                              timeout=_STATUS_SECONDS, env={"CNI_COMMAND": "STATUS", "CNI_PATH": str(plugin.parent)})
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    if done.returncode == 0:
        return ""
    try:
        return str(json.loads(done.stdout)["msg"])
    except (ValueError, KeyError, TypeError):
        return " ".join(done.stdout.decode(errors="replace").split()) or f"exit code {done.returncode}"
