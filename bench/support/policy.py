"""The table of policy: what each section measures in a process of its own, held against the aims."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.support.figures import row
from bench.support.policy_plot import plot
from bench.support.policy_shapes import SHAPE_A, SHAPE_B, Shape

__all__ = ["main"]

_SECTIONS = ("a", "b", "size", "kernel", "packets")
_TIMEOUT = 1800.0
_WHAT = {"pod": "a new pod, and gone", "label": "a pod's label", "rule": "a policy's rules",
         "policy": "a new policy, and gone", "namespace": "a namespace's label", "dns": "a pod that all may reach"}

Found = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A line of the table: a figure, and the aim that it is held against; None if there is none."""

    what: str
    figure: float
    unit: str
    aim: float | None = None
    at_least: bool = False
    more: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the aim is."""
        if self.aim is None:
            return None
        return self.figure >= self.aim if self.at_least else self.figure <= self.aim

    @property
    def ratio(self) -> float | None:
        """Of the figure to the aim."""
        return self.figure / self.aim if self.aim else None


def child(module: str, *arguments: str) -> Found:
    """The JSON object that a program prints last. Raises CalledProcessError with what it said on stderr here."""
    done = subprocess.run([sys.executable, "-m", f"bench.support.{module}", *arguments], stdout=subprocess.PIPE,
                          text=True, check=True, timeout=_TIMEOUT)
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def core(shape: Shape, tries: int) -> Found:
    """The core with a shape in it."""
    return child("policy_core", json.dumps(asdict(shape)), str(tries))


def service(shape: Shape, tries: int, *more: str) -> Found:
    """The same as deployed."""
    return child("policy_service", json.dumps(asdict(shape)), str(tries), *more)


def title(shape: Shape) -> str:
    """How large it is."""
    return f"{shape.pods:,} pods on {shape.nodes:,} nodes, {shape.policies:,} policies"


def shape_a(*, quick: bool) -> Iterator[Line]:
    """Many policies on few nodes, where Felix was slow."""
    found = service(SHAPE_A, 10 if quick else 50, *(("--kernel",) if not os.geteuid() else ()))
    yield Line(f"{title(SHAPE_A)}: start to first program", found["load_s"], "s", 15,
               more=f"{found['load_cpu_s']:.1f} s of CPU")
    yield Line("  memory of the service", found["memory_mb"], "MB", 500)
    for kind in ("pod", "label", "policy"):
        yield Line(f"  {_WHAT[kind]}: stored to instructions, p50", found[kind]["p50_ms"], "ms", 20)
        yield Line("    p99", found[kind]["p99_ms"], "ms", 50)
        if done := found.get(f"{kind} in the kernel"):
            yield Line("    stored to in the node's kernel, p50", done["p50_ms"], "ms", 100,
                       more=f"node: {done['cpu']['p50_ms']:.1f} ms of CPU")
            yield Line("    p99", done["p99_ms"], "ms", 100, more=f"node: {done['cpu']['p99_ms']:.1f} ms of CPU")


def shape_b(*, quick: bool) -> Iterator[Line]:
    """Many pods on many nodes; all of these are subscribed."""
    shape = Shape(1_000, 100, 5_000, 1_000) if quick else SHAPE_B
    found = service(shape, 5 if quick else 30)
    yield Line(f"{title(shape)}: start to first program", found["load_s"], "s", 120,
               more=f"{found['load_cpu_s']:.1f} s of CPU")
    yield Line("  memory of the service, one node subscribed", found["loaded_mb"], "MB", 2500)
    for kind in ("pod", "label", "policy"):
        yield Line(f"  {_WHAT[kind]}: stored to instructions, p50", found[kind]["p50_ms"], "ms")
        yield Line("    p99", found[kind]["p99_ms"], "ms", 50)
    every = found["everywhere"]
    yield Line(f"  {every['nodes']:,} nodes subscribe: until all have their program", every["snapshots_s"], "s",
               more=f"{every['snapshots_mb']:.0f} MB")
    yield Line("  a change that concerns all: until the last has it, p50", every["p50_ms"], "ms", 1000)
    yield Line("    p99", every["p99_ms"], "ms", 1000)
    yield Line("  memory of the service, all subscribed", found["memory_mb"], "MB", 1000)


def sizes(*, quick: bool, found: list[Found]) -> Iterator[Line]:
    """The cost of a change in the core, from 1,000 to 100,000 endpoints; `found` gets what was measured."""
    for factor in (0.01, 0.1) if quick else (0.01, 0.03, 0.1, 0.3, 1.0):
        shape = SHAPE_B.scaled(factor)
        here = core(shape, 20 if quick else 100)
        found.append(here)
        yield Line(f"core, {title(shape)}: load", here["load_s"], "s", 120, more=f"{here['load_cpu_s']:.2f} s of CPU")
        yield Line("  memory", here["memory_mb"], "MB", 2500)
        yield Line("  the messages with which all nodes begin", here["snapshots"]["seconds"], "s",
                   more=f"{here['snapshots']['messages']:,} nodes, {here['snapshots']['mb']:.0f} MB")
        for kind, what in _WHAT.items():
            cpu = here[kind]["cpu"]
            yield Line(f"  {what}, to {here[kind]['nodes']:,} nodes, p50", here[kind]["p50_ms"], "ms",
                       more=f"{cpu['p50_ms']:.2f} ms of CPU")
            yield Line("    p99", here[kind]["p99_ms"], "ms", 1000 if kind == "dns" else 50,  # that is of all nodes
                       more=f"{cpu['p99_ms']:.2f} ms of CPU")


def in_kernel(*, quick: bool) -> Iterator[Line]:
    """nf_tables, by the node daemon's code."""
    done = subprocess.run([sys.executable, "-m", "bench.support.policy_kernel", "--json", *(["--quick"] * quick)],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False, timeout=_TIMEOUT)
    for each in map(json.loads, done.stdout.splitlines()):
        yield Line(f"kernel: {each['what']}, median", each["median"], "ms", each["limit"] or None)


def packets(*, quick: bool) -> Iterator[Line]:
    """Pods' traffic with 1,000 policies, as a part of that with none."""
    found = child("policy_packets", *(["--quick"] * quick))
    for kind, what, unit, aim in (("throughput", f"throughput ({found['tool']})", "Gbit/s", 0.95),
                                  ("requests", "requests on one connection", "/s", 0.95),
                                  ("connections", "a connection for each request", "/s", None)):
        each = found[kind]
        yield Line(f"{found['policies']:,} policies on a pod, of none: {what}", each["ratio"], "x", aim, at_least=True,
                   more=f"{each['policies']:.4g} {unit} of {each['none']:.4g}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench/policy.py", description="What policy costs.")
    parser.add_argument("--quick", action="store_true", help="under a minute: smaller clusters, few tries")
    parser.add_argument("--only", action="append", choices=_SECTIONS, help="this section; repeatable")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the cost of a change over size as SVG")
    options = parser.parse_args()
    measured: list[Found] = []
    makers: dict[str, Callable[[], Iterator[Line]]] = {
        "a": lambda: shape_a(quick=options.quick),
        "b": lambda: shape_b(quick=options.quick),
        "size": lambda: sizes(quick=options.quick, found=measured),
        "kernel": lambda: in_kernel(quick=options.quick),
        "packets": lambda: packets(quick=options.quick)}
    widths, lines = (74, 11, 7, 9, 8, 28), list[Line]()
    print(f"load of the machine before: {' '.join(f'{each:.1f}' for each in os.getloadavg())}")
    print(row(("", "", "", "aim", "", ""), widths))
    for name in options.only or _SECTIONS:
        if name in ("kernel", "packets") and os.geteuid():
            print(f"{name}: SKIPPED, needs root")
            continue
        for line in makers[name]():
            lines.append(line)
            aim = "" if line.aim is None else f"{'>=' if line.at_least else '<='} {line.aim:g}"
            print(row((line.what, f"{line.figure:.2f}", line.unit, aim,
                       {None: "", True: "met", False: "missed"}[line.met], line.more), widths), flush=True)
    if options.plot and measured:
        options.plot.write_text(plot(measured, _WHAT), encoding="utf-8")
    print(json.dumps({"bench": "policy", "quick": options.quick, "load": os.getloadavg(), "lines": [
        asdict(line) | {"met": line.met, "ratio": line.ratio} for line in lines]}))


if __name__ == "__main__":
    main()
