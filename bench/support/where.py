"""Where the milliseconds of an ADD go: shim and services at log level debug, their lines joined by request id.

The shim says how long each step took that it waited for, the services how long they took to serve it, and what of that
was etcd, wiring or waiting for the policy. What is left of a step are its hops: shim to node, and node to service.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import secrets
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from bench.support import contenders, node, processes
from bench.support.contenders import Contender
from bench.support.figures import row

_WARM = 5
_LINE = re.compile(r" req=(?P<request>[0-9a-f]{32}) (?P<said>.*)")
_SERVED = re.compile(r"/muslin\.(\w+)\.v1\.Plugin/Add OK ([0-9.]+) ms")
_TOOK = re.compile(r"took ([0-9.]+) ms: (etcd|wiring|waiting for the policy)")
_STEP = re.compile(r"^((?:[a-z]+ Add(?:, )?)+): ([0-9.]+) ms")
_WHOLE = re.compile(r"^ADD .* took ([0-9.]+) ms")

Parts = dict[str, float]
"""Milliseconds by part of one ADD."""


def lines(directory: Path, requests: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Who said what about which request."""
    wanted = set(requests)
    for path in sorted(directory.glob("*.log")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if (found := _LINE.search(line)) and found["request"] in wanted:
                yield path.stem, found["request"], found["said"]


def told(said: Iterable[tuple[str, str, str]]) -> Mapping[str, Parts]:
    """By request, what the lines say: steps as the shim has them, services, and parts of services."""
    parts: dict[str, Parts] = defaultdict(lambda: defaultdict(float))
    for who, request, text in said:
        if who == "shim":
            if found := _WHOLE.search(text):
                parts[request]["shim"] = float(found[1])
            elif found := _STEP.search(text):
                parts[request]["step " + found[1].replace(" Add", "")] = float(found[2])
        elif found := _SERVED.search(text):
            parts[request]["served " + found[1]] = float(found[2])
        elif found := _TOOK.search(text):
            parts[request][f"{who} {found[2]}"] += float(found[1])
    return parts


def divided(wall: float, told: Parts) -> Parts:
    """The parts of one ADD; those that are within another one, or beside it, are in its name."""
    first = told["step ipam, policy"]
    return {
        "exec, interpreter, exit": wall - told["shim"],
        "shim's own work": told["shim"] - first - told["step endpoint"] - told["step node"],
        "ipam: hops": first - told["served ipam"],
        "ipam: service": told["served ipam"] - told["ipam etcd"],
        "ipam: etcd": told["ipam etcd"],
        "(policy, beside it)": told["served policy"],
        "endpoint: hops": told["step endpoint"] - told["served endpoint"],
        "endpoint: service": told["served endpoint"] - told["endpoint etcd"],
        "endpoint: etcd": told["endpoint etcd"],
        "node: hop": told["step node"] - told["served node"],
        "node: service": told["served node"] - told["node wiring"] - told["node waiting for the policy"],
        "node: wiring": told["node wiring"],
        "node: waiting for the policy": told["node waiting for the policy"],
    }


def measure(rounds: int) -> int:
    """Run the benchmark and print its results; the exit status."""
    if not contenders.SHIM.exists():
        raise node.CanNotRun(f"{contenders.SHIM} is not there: make setup")
    walls: dict[str, float] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muslin-bench-")))
        (namespace,) = stack.enter_context(node.pods(1))
        node.move()
        running = stack.enter_context(node.muslin(directory, "debug"))
        contender = contenders.muslin(running.socket)
        contender = dataclasses.replace(contender, configuration=contender.configuration | {
            "log_level": "debug", "log_file_path": str(directory / "logs/shim.log")})
        for number in range(-_WARM, rounds):
            request = secrets.token_hex(16)
            wall = add(contender, f"c{number + _WARM}", namespace, request)
            contender.run("DEL", f"c{number + _WARM}", namespace)
            if number >= 0:
                walls[request] = wall
        found = told(lines(directory / "logs", walls))
    adds = [divided(1000 * wall, found[request]) for request, wall in walls.items()]
    figures = {part: statistics.median(each[part] for each in adds) for part in adds[0]}
    whole = 1000 * statistics.median(walls.values())
    for part, value in figures.items():
        print(row((part, f"{value:.2f}"), (32, 8)))
    print(row(("all, with everybody's log at debug", f"{whole:.2f}"), (32, 8)))
    print(json.dumps({"bench": "where", "rounds": rounds, "figures": {"add_ms": whole, "parts_ms": figures},
                      "ratios": {part: value / whole for part, value in figures.items()}}))
    return 0


def add(contender: Contender, container: str, namespace: Path, request: str) -> float:
    """ADD under a request id of ours; seconds."""
    program = contender.program("ADD", container, namespace)
    traced = {**program.environment, "TRACEPARENT": f"00-{request}-{secrets.token_hex(8)}-01"}
    return processes.run(dataclasses.replace(program, environment=traced)).wall


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench/where.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 rounds")
    parser.add_argument("--n", type=int, default=0, metavar="ROUNDS", help="ADDs, one at a time; default 200")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was made is removed
    try:
        return measure(options.n or (30 if options.quick else 200))
    except KeyboardInterrupt:
        return 130
    except (node.CanNotRun, processes.Failed) as problem:
        print(f"bench/where.py: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
