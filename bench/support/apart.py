"""What TLS, a second network hop and a cluster of etcd cost an ADD: times from exec to exit of the plugin.

Both run on this one machine, so the network costs nothing here, and five more processes share its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.support.figures import quantiles, row
from tests.support.apart import apart
from tests.support.chain import Done
from tests.support.netns import namespaces
from tests.support.stack import SHIM, Pod, running

_WARM = 3  # rounds before those that count
_WIDTHS = (34, 10, 10, 10)
_APART, _BESIDE = "apart: TLS, 2 replicas, 3 etcds", "beside: unix sockets, 1 etcd"

Invoke = Callable[[str, Pod], Awaitable[Done]]


async def _timed(invoke: Invoke, pod: Pod) -> float:
    """Seconds of one ADD; its DEL is done, too."""
    began = time.perf_counter()
    added = await invoke("ADD", pod)
    seconds = time.perf_counter() - began
    deleted = await invoke("DEL", pod)
    if added.status or deleted.status:
        raise SystemExit(f"bench/apart.py: an invocation failed: {added} {deleted}")
    return seconds


async def _measure(rounds: int) -> dict[str, dict[str, float]]:
    with (tempfile.TemporaryDirectory(prefix="muslin-bench-") as folder, namespaces(2, "pod") as sandboxes,
          apart(Path(folder, "apart"), etcds=3) as remote):
        async with running(Path(folder, "beside")) as beside:
            fields: dict[str, Invoke] = {_APART: remote.invoke, _BESIDE: beside.invoke}
            seconds: dict[str, list[float]] = {name: [] for name in fields}
            for number in range(_WARM + rounds):
                for (name, invoke), sandbox in zip(fields.items(), sandboxes, strict=True):
                    taken = await _timed(invoke, Pod(f"c{number}", sandbox, name=f"pod{number}"))
                    if number >= _WARM:
                        seconds[name].append(taken)
    return {name: quantiles(values) for name, values in seconds.items()}


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--n", type=int, default=0, help="rounds")
    arguments = parser.parse_args()
    if os.geteuid() or not SHIM.exists():
        sys.exit("bench/apart.py: needs root, and the plugin: make setup")
    found = asyncio.run(_measure(arguments.n or (10 if arguments.quick else 60)))
    print(row(("ADD, ms", "min", "p50", "p99"), _WIDTHS))
    for name, figures in found.items():
        print(row((name, *(f"{value:.1f}" for value in figures.values())), _WIDTHS))
    ratio = found[_APART]["p50_ms"] / found[_BESIDE]["p50_ms"]
    print(f"p50 apart is {ratio:.2f} times that beside")
    print(json.dumps({"benchmark": "apart", **found, "p50_ratio": ratio}))


if __name__ == "__main__":
    main()
