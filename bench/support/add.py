"""The benchmark of ADD and DEL: contenders in turn, round by round, then many at once.

Each invocation is timed from exec to exit. CPU is that of the invoked process and its children, by the kernel's
accounting; for Muslin the services' (etcd included) is counted beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.support import contenders, node, processes
from bench.support.contenders import Contender
from bench.support.figures import quantiles, row
from bench.support.processes import Cost, Program

AT_ONCE = 30
FULL = 200
"""Pods on the node when it is called full."""
_WIDTHS = (14, 12, 7, 7, 12, 7, 7, 14, 11, 20)
_WARM = 3  # rounds before those that count: caches, first block, first rules


@dataclass
class Figures:
    """What was measured of one contender. Times in seconds."""

    adds: list[Cost] = field(default_factory=list)
    dels: list[Cost] = field(default_factory=list)
    services_cpu: list[float] = field(default_factory=list)
    """CPU of the services during each ADD."""
    bursts: list[float] = field(default_factory=list)
    """Seconds for AT_ONCE ADDs at once, from the first exec to the last exit."""


class Bench:
    """One run over some contenders."""

    def __init__(self, fields: Sequence[Contender], namespaces: Sequence[Path], services: int | None) -> None:
        """`services` is the process whose tree serves the contender named `muslin`, if there is one."""
        self.figures = {contender.name: Figures() for contender in fields}
        self._contenders = fields
        self._namespaces = namespaces
        self._services = services
        self._containers = (f"c{number}" for number in itertools.count())

    def alone(self, rounds: int) -> None:
        """One ADD and one DEL at a time, the contenders in turn."""
        for number in range(-_WARM, rounds):
            for contender in self._contenders:
                container, namespace = next(self._containers), self._namespaces[0]
                before = self._cpu(contender)
                add = contender.run("ADD", container, namespace)
                served = self._cpu(contender) - before
                delete = contender.run("DEL", container, namespace)
                if number >= 0:
                    figures = self.figures[contender.name]
                    figures.adds.append(add)
                    figures.dels.append(delete)
                    figures.services_cpu.append(served)

    def together(self, bursts: int) -> None:
        """Many ADDs at once, each contender in turn."""
        for _ in range(bursts):
            for contender in self._contenders:
                if contender.after is not None:
                    continue  # its second plugin begins when its first has ended: that would be our own pace
                pods = [(next(self._containers), namespace) for namespace in self._namespaces]
                began = time.perf_counter()
                self._all(contender, "ADD", pods)
                self.figures[contender.name].bursts.append(time.perf_counter() - began)
                self._all(contender, "DEL", pods)

    def full(self, contender: Contender, namespaces: Sequence[Path], rounds: int) -> dict[str, float]:
        """ADD, one at a time, on a node that has a pod in each of the namespaces, and MB of the node's daemon."""
        assert self._services
        pods = [(next(self._containers), namespace) for namespace in namespaces]
        for first in range(0, len(pods), AT_ONCE):
            self._all(contender, "ADD", pods[first:first + AT_ONCE])
        adds = []
        for _ in range(rounds):
            container, namespace = next(self._containers), self._namespaces[0]
            adds.append(contender.run("ADD", container, namespace).wall)
            contender.run("DEL", container, namespace)
        resident = processes.resident(self._services, "services.node")
        for first in range(0, len(pods), AT_ONCE):
            self._all(contender, "DEL", pods[first:first + AT_ONCE])
        return {"pods": len(pods), "add_p50_ms": 1000 * statistics.median(adds), "node_mb": resident}

    def _all(self, contender: Contender, command: str, pods: Sequence[tuple[str, Path]]) -> None:
        started = [processes.start(contender.program(command, *pod)) for pod in pods]
        for each in started:
            processes.finish(each)

    def _cpu(self, contender: Contender) -> float:
        return processes.tree_cpu(self._services) if self._services and contender.name == "muslin" else 0.0


def reference(rounds: int) -> dict[str, list[Cost]]:
    """What starting alone costs: an interpreter that does nothing, and the shim where it needs no service."""
    interpreter = os.path.realpath(sys.executable)
    programs = {
        "python -IS": Program([interpreter, "-IS", "-c", "pass"], {}, b""),
        "shim VERSION": Program([str(contenders.SHIM)], {"CNI_COMMAND": "VERSION"}, b""),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            costs[name].append(processes.run(program))
    return costs


def summary(figures: Figures) -> dict[str, Any]:
    """The figures of a contender as they are published."""
    return {
        "add": quantiles([cost.wall for cost in figures.adds]),
        "del": quantiles([cost.wall for cost in figures.dels]),
        "add_cpu_ms": 1000 * statistics.mean(cost.cpu for cost in figures.adds),
        "services_cpu_ms": 1000 * statistics.mean(figures.services_cpu),
        "adds_per_s": AT_ONCE / statistics.median(figures.bursts) if figures.bursts else None,
    }


def ratios(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Muslin's figures by those of each other contender."""
    ours, out = figures.get("muslin"), {}
    for name, theirs in figures.items():
        if ours and name != "muslin":
            out[f"add_p50_vs_{name}"] = ours["add"]["p50_ms"] / theirs["add"]["p50_ms"]
            out[f"add_p99_vs_{name}"] = ours["add"]["p99_ms"] / theirs["add"]["p99_ms"]
            out[f"del_p50_vs_{name}"] = ours["del"]["p50_ms"] / theirs["del"]["p50_ms"]
            if theirs["adds_per_s"]:
                out[f"adds_per_s_vs_{name}"] = ours["adds_per_s"] / theirs["adds_per_s"]
    return out


def table(figures: dict[str, dict[str, Any]], starts: dict[str, dict[str, float]]) -> str:
    """For people."""
    head = ("", "ADD ms: min", "p50", "p99", "DEL ms: min", "p50", "p99", "CPU ms an ADD", "+ services",
            f"{AT_ONCE} at once: ADD/s")
    lines = [row(head, _WIDTHS)]
    for name, found in figures.items():
        services = f"{found['services_cpu_ms']:.1f}" if name == "muslin" else "-"
        times = [f"{value:.1f}" for value in (*found["add"].values(), *found["del"].values(), found["add_cpu_ms"])]
        together = f"{found['adds_per_s']:.0f}" if found["adds_per_s"] else "-"
        lines.append(row((name, *times, services, together), _WIDTHS))
    lines += [row((name, *(f"{value:.1f}" for value in found.values())), _WIDTHS) for name, found in starts.items()]
    return "\n".join(lines)


def entrants(stack: ExitStack, directory: Path) -> tuple[list[Contender], int | None]:
    """Who takes part here, with a word on who does not, and the services' process."""
    fields, services = [], None
    try:
        running = stack.enter_context(node.muslin(directory))
        fields.append(contenders.muslin(running.socket))
        services = running.pid
    except node.CanNotRun as problem:
        print(f"without muslin: {problem}", file=sys.stderr)
    for contender in (contenders.bridge(directory / "bridge"), contenders.ptp(directory / "ptp"),
                      contenders.kind(directory / "kind")):
        if contender.plugin.exists():
            fields.append(contender)
        else:
            print(f"without {contender.name}: {contender.plugin} is not there "
                  "(apt-get install containernetworking-plugins)", file=sys.stderr)
    return fields, services


def measure(rounds: int, bursts: int, pods: int) -> int:
    """Run the benchmark and print its results; the exit status. `pods` are on the node when it is called full."""
    if not contenders.SHIM.exists():
        raise node.CanNotRun(f"{contenders.SHIM} is not there: make setup")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muslin-bench-")))
        namespaces = stack.enter_context(node.pods(AT_ONCE + pods))
        node.move()
        fields, services = entrants(stack, directory)
        bench = Bench(fields, namespaces[:AT_ONCE], services)
        bench.alone(rounds)
        bench.together(bursts)
        full = bench.full(fields[0], namespaces[AT_ONCE:], rounds) if services and pods else None
        starts = {name: quantiles([cost.wall for cost in costs]) for name, costs in reference(rounds).items()}
    figures = {name: summary(found) for name, found in bench.figures.items()}
    print(table(figures, starts))
    rates = ratios(figures)
    if full:
        rates["add_p50_full_vs_empty"] = full["add_p50_ms"] / figures["muslin"]["add"]["p50_ms"]
        print(f"muslin with {full['pods']} pods on the node: ADD p50 {full['add_p50_ms']:.1f} ms, "
              f"node daemon {full['node_mb']:.0f} MB")
    built = "static" if contenders.SHIM.read_bytes().startswith(b"\x7fELF") else "script"
    print(json.dumps({"bench": "add", "rounds": rounds, "shim": built, "figures": figures, "starts": starts,
                      "full": full, "ratios": rates}))
    return 0 if "muslin" in figures else 1


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench/add.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 rounds and one burst")
    parser.add_argument("--n", type=int, default=0, metavar="ROUNDS", help="ADDs and DELs one at a time; default 200")
    parser.add_argument("--pods", type=int, default=FULL, metavar="COUNT",
                        help=f"pods that make a node full, for one more ADD beside them; default {FULL}, 0 for none")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was made is removed
    try:
        return measure(options.n or (20 if options.quick else 200), 1 if options.quick else 5, options.pods)
    except KeyboardInterrupt:
        return 130
    except (node.CanNotRun, processes.Failed) as problem:
        print(f"bench/add.py: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
