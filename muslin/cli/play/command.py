"""`muslin play` and `muslin probe`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from muslin.cli.client import Services, services
from muslin.cli.console import Console, fancy
from muslin.cli.places import DEFAULT_RUN, DEFAULT_STATE, Places
from muslin.cli.play import cni, stage
from muslin.cli.play.examine import examine
from muslin.cli.play.flows import Answer, Finding, Flow, PlayedPort
from muslin.cli.play.matrix import Style, as_json, render, summary
from muslin.cli.play.nodes import AGENT, Nodes, commands, reached
from muslin.cli.play.record import PlayedPod, Record, Records
from muslin.cli.policy.engine import check
from muslin.errors import MuslinError, NotFound
from muslin.kube.manifest import Manifest, load

__all__ = ["Match", "DISAGREEMENT", "play", "probe", "perform", "remove_dead"]

DISAGREEMENT = 3
"""Exit code when packets and Explain disagree."""
WATCH_SECONDS = 1.0
"""Pause between two rounds of `muslin probe --watch`."""


@dataclass(frozen=True, slots=True)
class Match:
    """A probed set of pods: what was found, and how it is shown."""

    ports: Mapping[str, Sequence[PlayedPort]]
    findings: Sequence[Finding]
    nodes: Mapping[str, str]
    """Of pods that are on several nodes."""

    @property
    def exit_code(self) -> int:
        """0 if packets and Explain agree everywhere."""
        return 0 if all(finding.agree for finding in self.findings) else DISAGREEMENT

    def matrix(self) -> str:
        """The matrix, as the terminal can show it."""
        return render(self.ports, self.findings, Style(*fancy()))

    def summary(self) -> str:
        """Disagreements, and the totals as the last line."""
        return summary(self.findings)

    def json(self) -> str:
        """All of it for programs."""
        return json.dumps(as_json(self.ports, self.findings, self.nodes), indent=2, ensure_ascii=False)


async def play(run: Path, files: Sequence[str], conf: str | None, bin_dirs: Sequence[str], *, keep: bool,
               output: str) -> int:
    """Play the pods of manifests; returns the exit code."""
    console = Console()
    manifest = load(files)
    check([*manifest.namespaces, *manifest.policies])
    async with services(run) as up:
        network = cni.load(conf, "" if run == DEFAULT_RUN else str(up.places.socket("node")),
                           "" if up.places.state == DEFAULT_STATE else str(up.places.state))
        match = await perform(up, console, manifest, network, bin_dirs, keep=keep, show=output == "text")
    console.result(match.json() if output == "json" else match.summary())
    return match.exit_code


async def play_on_nodes(run: Path, files: Sequence[str], conf: str | None, bin_dirs: Sequence[str], *,
                        nodes: Sequence[str], agent_command: str, output: str) -> int:
    """Play the pods of manifests on several nodes, each `NAME=COMMAND`; returns the exit code."""
    console = Console()
    manifest, given = load(files), commands(nodes)
    raw, origin = cni.read(conf)
    async with services(run) as up, reached(given, agent_command or AGENT) as hands:
        await hands.begin(raw, origin, bin_dirs)
        match = await perform(up, console, manifest, cni.parse(raw, origin), bin_dirs, keep=False,
                              show=output == "text", nodes=hands, names=list(given))
    console.result(match.json() if output == "json" else match.summary())
    return match.exit_code


async def perform(up: Services, console: Console, manifest: Manifest, network: cni.Network, bin_dirs: Sequence[str], *,
                  keep: bool, show: bool, nodes: Nodes | None = None, names: Sequence[str] = ()) -> Match:
    """Make the pods, probe them, show the matrix, and remove them unless they are kept.

    With `nodes`, whose names are `names`, they are spread over those.
    """
    records = Records(up.places)
    manifest.require_namespaces([item.name for item in await up.objects() if item.kind == "Namespace"])
    await remove_dead(records, up, console)
    act = stage.Stage(up, console, manifest, stage.plan(manifest, network, bin_dirs, records.new_name(), names), nodes)
    try:
        began = time.monotonic()
        await act.set_up()
        ready = time.monotonic()
        console.say(f"{len(act.record.pods)} pods in {len({pod.sandbox.namespace for pod in act.record.pods})} "
                    f"namespaces are up in {ready - began:.1f} s")
        match = await _examined(act.record.pods, up, console, nodes=nodes)
        console.say(f"{len(match.findings)} flows examined in {time.monotonic() - ready:.1f} s")
        if show:
            console.result(match.matrix())
        if keep:
            await act.keep()
            console.say("the pods are kept: `muslin probe` probes them again, `ip netns` lists them, `muslin down` "
                        "removes them")
    except BaseException:
        try:
            await act.tear_down()
        except MuslinError as error:
            console.warn(f"while cleaning up: {error.message}")
        raise
    if not keep:
        await act.tear_down()
    return match


async def remove_dead(records: Records, up: Services | None, console: Console) -> None:
    """Remove what plays left behind that were killed."""
    for record in records.all():
        if not record.kept and not record.player.alive:
            console.say(f"removing {len(record.pods)} pods of a play that was killed")
            await stage.remove(record, up, records, console)


async def probe(run: Path, *, watch: bool, output: str) -> int:
    """Probe all kept pods again; returns the exit code. With `watch`, until cancelled, showing each change."""
    console = Console()
    async with services(run) as up:
        shown, said = "", dict[Flow, Answer]()
        while True:
            match = await _examined(_kept_pods(up.places), up, console, said)
            said = {finding.flow: finding.said for finding in match.findings}
            text = match.json() if output == "json" else f"{match.matrix()}\n{match.summary()}"
            if text != shown:
                console.result(f"{time.strftime('%H:%M:%S')}\n{text}\n" if watch and output == "text" else text)
                shown = text
            if not watch:
                return match.exit_code
            await asyncio.sleep(WATCH_SECONDS)


def _kept_pods(places: Places) -> list[PlayedPod]:
    records: list[Record] = Records(places).kept()
    if not records:
        raise NotFound("no pods are kept; start some with: muslin play FILE... --keep")
    return [pod for record in records for pod in record.pods]


async def _examined(pods: Sequence[PlayedPod], up: Services, console: Console,
                    before: Mapping[Flow, Answer] | None = None, nodes: Nodes | None = None) -> Match:
    places = {pod.key: pod for pod in pods}
    findings = await examine(pods, up.answers, console, before, partial(nodes.probe, places) if nodes else None)
    return Match({pod.key: pod.played_ports for pod in pods}, findings, {pod.key: pod.node for pod in pods if pod.node})
