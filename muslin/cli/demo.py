"""`muslin demo`: everything once, and nothing left."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

from muslin.cli import embedded, lifecycle, lock
from muslin.cli.client import services
from muslin.cli.console import Console
from muslin.cli.places import DEFAULT_RUN, SERVICES, Places
from muslin.cli.play import cni
from muslin.cli.play.command import perform
from muslin.errors import FailedPrecondition, MuslinError, NotFound
from muslin.kube.manifest import load

__all__ = ["demo"]

INSTALLED_AS = "calico"
"""The name that the demo's configuration gives its plugin."""


def _left_over() -> bool:
    """Whether a demo before this one was killed, or could not clean up."""
    before = lock.last_run(DEFAULT_RUN)
    return before is not None and before.temporary and Path(before.state).exists()


async def demo(root: Path) -> int:
    """Start, play the three-tier example with a Calico user's configuration, stop; returns the exit code.

    `root` is the clone, where the examples and the built plugin are.
    """
    console = Console()
    manifests, conf, shim = root / "examples/three-tier", root / "examples/10-calico.conf", root / "build/cni/muslin"
    for path in (manifests, conf):
        if not path.exists():
            raise NotFound(f"{path} does not exist; run the demo in a clone of the repository")
    if not shim.exists():
        raise NotFound(f"{shim} does not exist; build it with: make setup")
    if holder := lock.running(DEFAULT_RUN):
        raise FailedPrecondition(f"muslin is up already on {DEFAULT_RUN} (process {holder.process.pid}); stop it with: "
                                 "muslin down")
    if _left_over():
        console.say("an earlier demo did not end well: removing what it left")
        await lifecycle.down(DEFAULT_RUN, None)
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="muslin-demo-"))
    plugins = home / "cni"
    plugins.mkdir()
    shutil.copy2(shim, plugins / INSTALLED_AS)
    options = embedded.Options(os.uname().nodename, temporary=True)
    try:
        async with embedded.up(Places(DEFAULT_RUN, home), options, console.say), services(DEFAULT_RUN) as reached:
            console.say(f"etcd and {len(SERVICES)} services are up in {time.monotonic() - began:.1f} s; playing "
                        f"{manifests.relative_to(root)} with {conf.relative_to(root)}, the plugin installed as "
                        f"{INSTALLED_AS}")
            match = await perform(reached, console, load([str(manifests)]), cni.load(str(conf)), [str(plugins)],
                                  keep=False, show=True)
    except asyncio.CancelledError:
        shutil.rmtree(home)
        raise
    except MuslinError:
        console.warn(f"logs are in {home}/logs until the next demo, or `muslin down`")
        raise
    finally:
        lifecycle.clean_kernel()
    shutil.rmtree(home)
    console.say(f"everything is stopped and removed again, after {time.monotonic() - began:.1f} s")
    console.result(match.summary())
    return match.exit_code
