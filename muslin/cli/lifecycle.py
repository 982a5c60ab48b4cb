"""`muslin up`, `muslin down` and `muslin status`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muslin.api.node.v1 import node_pb2
from muslin.cli import embedded, health, lock
from muslin.cli.client import Services, require_up, services
from muslin.cli.console import Console
from muslin.cli.places import DEFAULT_STATE, SERVICES, Places
from muslin.cli.play import stage
from muslin.cli.play.record import Records
from muslin.errors import IOFailure, MuslinError, TimedOut

__all__ = ["up", "up_detached", "down", "status", "clean_kernel"]

STOP_SECONDS = 40.0
"""Patience with a `muslin up` that was asked to stop: more than it has with its services and etcd together."""


async def up(places: Places, options: embedded.Options, ready: int | None) -> None:
    """Run until cancelled. `ready` is a file descriptor to write to, once, when everything is healthy."""
    console = Console()
    began = time.monotonic()
    async with embedded.up(places, options, console.say) as running:
        console.result(_announcement(places, options, running, time.monotonic() - began))
        if ready is not None:
            os.write(ready, b"ready")
            os.close(ready)
        died = await running.supervisor.failed
        raise IOFailure(f"a service can not be kept running: {died}")


def up_detached(places: Places, arguments: Sequence[str]) -> None:
    """Start `muslin up` in the background and return when everything is healthy. Raises IOFailure with its words."""
    console = Console()
    log = places.log("up")
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    read, write = os.pipe()
    command = [sys.executable, "-P", "-m", "muslin.cli.main", "up", *arguments, "--ready-fd", str(write)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[write],
                                   start_new_session=True, cwd="/")
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        healthy = pipe.read() == b"ready"  # ends with the process if it fails
    with log.open("rb") as output:
        output.seek(begin)
        words = output.read().decode(errors="replace").strip()
    if not healthy:
        process.wait()
        raise IOFailure(words.removeprefix("muslin: ") or f"muslin up ended with exit code {process.returncode}")
    console.result(f"{words}\n  runs in the background, process {process.pid}; log: {log}")
    process.returncode = 0  # it outlives us on purpose, and Popen need not warn of it


async def down(run: Path, state: Path | None) -> None:
    """Stop what runs and remove everything from this machine's kernel. Repeating it is harmless."""
    console = Console()
    holder = lock.running(run)
    before = lock.last_run(run)
    places = Places(run, state or (Path(before.state) if before else DEFAULT_STATE))
    did = await _end_plays(places, before, console)
    if holder:
        await asyncio.to_thread(holder.process.end, STOP_SECONDS)
        if lock.running(run):
            raise TimedOut(f"muslin up (process {holder.process.pid}) holds {run} still; end it by hand")
        did.append(f"stopped muslin up (process {holder.process.pid})")
    await asyncio.to_thread(clean_kernel)
    if before and before.temporary and places.state == Path(before.state):
        shutil.rmtree(places.state, ignore_errors=True)
    console.result("muslin is down" + (f": {', '.join(did)}" if did else "; there was nothing to stop"))


def clean_kernel() -> None:
    """Remove what the node daemon made in this network namespace. Raises IOFailure with its words."""
    done = subprocess.run([sys.executable, "-P", "-m", "services.node.cleanup"], capture_output=True, text=True,
                          check=False, timeout=120, cwd="/")
    if done.returncode:
        raise IOFailure(f"removing links and tables: {(done.stderr or done.stdout).strip()}")


async def _end_plays(places: Places, before: lock.Running | None, console: Console) -> list[str]:
    """Remove all plays, with the services if they run, else with services started for it; says what was done."""
    records = Records(places)
    found = records.all()
    if not found:
        return []
    for record in found:
        if not record.kept:  # it cleans up after itself when it is asked to stop
            await asyncio.to_thread(record.player.end, STOP_SECONDS)
    pods = sum(len(record.pods) for record in found)
    if lock.running(places.run):
        async with services(places.run) as reached:
            await _remove_all(records, reached, console)
    else:
        console.say("starting the services, to take the kept pods out of the store")
        try:
            options = embedded.Options(before.node if before else os.uname().nodename)
            async with embedded.up(places, options, console.say), services(places.run) as reached:
                await _remove_all(records, reached, console)
        except MuslinError as error:
            console.warn(f"the kept pods stay in the store ({places.state}): {error.message}")
            await _remove_all(records, None, console)
    return [f"removed {pods} pods"]


async def _remove_all(records: Records, reached: Services | None, console: Console) -> None:
    for record in records.all():
        await stage.remove(record, reached, records, console)


async def status(run: Path, output: str) -> int:
    """Show what runs; returns 0 if everything is healthy."""
    console = Console()
    found = require_up(run)
    places = Places(run, Path(found.state))
    answers = await asyncio.gather(*(health.check(places.target(service)) for service in SERVICES),
                                   health.check_etcd(found.etcd))
    healthy = all(answer == health.SERVING for answer in answers)
    node = None
    async with services(run) as reached:
        try:
            node = await reached.node_status()
        except MuslinError as error:
            console.warn(f"node: {error.message}")
    plays = Records(places).all()
    facts = {
        "healthy": healthy, "process": found.process.pid, "node": found.node, "run": str(run), "state": found.state,
        "etcd": found.etcd,
        "services": dict(zip([*SERVICES, "etcd"], answers, strict=True)),
        "pods": sum(len(record.pods) for record in plays), **_node_facts(node, places)}
    console.result(json.dumps(facts, indent=2) if output == "json" else _status_text(facts))
    return 0 if healthy else 1


def _node_facts(node: node_pb2.GetStatusResponse | None, places: Places) -> dict[str, Any]:
    if node is None:
        return {"attachments": None, "enforced_revision": None, "parts": [], "problems": [],
                "deletions": {"waiting": len(list(places.deletions.glob("*.call"))), "oldest_seconds": None,
                              "failed": None}}
    deletions = node.deletions
    return {"attachments": len(node.attachments), "enforced_revision": node.enforced_revision,
            "problems": list(node.problems),
            "deletions": {"waiting": deletions.waiting, "oldest_seconds": round(deletions.oldest_seconds, 1),
                          "failed": deletions.failed},
            "parts": [{"name": part.name, "ready": part.ready, "message": part.message} for part in node.parts]}


def _status_text(facts: dict[str, Any]) -> str:
    lines = [f"muslin is {'up' if facts['healthy'] else 'NOT healthy'} on {facts['run']}",
             f"  process {facts['process']}, node {facts['node']}, state {facts['state']}"]
    lines += [f"  {name:<9} {answer}" for name, answer in facts["services"].items()]
    lines += [f"  node: {part['name']}: {'ready' if part['ready'] else 'not ready'}"
              f"{': ' + part['message'] if part['message'] else ''}" for part in facts["parts"]]
    if facts["attachments"] is not None:
        lines.append(f"  {facts['attachments']} attachments; the kernel has revision {facts['enforced_revision']} of "
                     "the program")
    lines += _deletions_text(facts["deletions"])
    lines += [f"  {problem}" for problem in facts["problems"]]
    if facts["pods"]:
        lines.append(f"  {facts['pods']} pods are played")
    return "\n".join(lines)


def _deletions_text(deletions: dict[str, Any]) -> list[str]:
    lines = []
    if deletions["waiting"]:
        oldest = deletions["oldest_seconds"]
        since = f"; the oldest for {oldest:.0f} s" if oldest is not None else ""
        lines.append(f"  {deletions['waiting']} deletions wait to be done{since}")
    if deletions["failed"]:
        lines.append(f"  {deletions['failed']} deletions could not be done and were put aside; see the log of node")
    return lines


def _announcement(places: Places, options: embedded.Options, running: embedded.Up, seconds: float) -> str:
    lines = [f"muslin is up in {seconds:.1f} s (node {options.node}, state {places.state})",
             f"  {'etcd':<9} {running.etcd:<40} {running.timings['etcd']:5.1f} s"]
    lines += [f"  {service:<9} {places.target(service):<40} {running.timings[service]:5.1f} s" for service in SERVICES]
    return "\n".join(lines)
