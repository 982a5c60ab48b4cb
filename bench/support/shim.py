"""The cost of the shim alone: an ADD of four calls over one connection, to services that answer at once.

In turn with what it is to be compared with: a bare interpreter, an interpreter that imports grpc, and a plugin
written in Go that only prints its version. Needs no root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.support import contenders
from bench.support.figures import quantiles, row
from bench.support.processes import Cost, Program, run

_BUILD = Path(__file__).resolve().parents[2] / "scripts/build_shim.py"
_GO = contenders.DEBIAN / "host-local"


@contextmanager
def serving(socket: Path) -> Iterator[None]:
    """Services that do nothing, in a process of their own."""
    with subprocess.Popen([sys.executable, "-m", "bench.support.echo", str(socket)],
                          stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"serving\n"
            yield
        finally:
            process.kill()


def builds(directory: Path) -> Iterator[tuple[str, Path]]:
    """The builds that are possible here, with a word on one that is not."""
    for mode in ("static", "script"):
        output = directory / mode
        done = subprocess.run([sys.executable, str(_BUILD), f"--{mode}", "--output", str(output)], check=False,
                              capture_output=True, text=True)
        if done.returncode == 0:
            yield mode, output
        else:
            print(f"without {mode}: {done.stderr.strip()}", file=sys.stderr)


def programs(directory: Path) -> dict[str, Program]:
    """What is run, by the name it has in the table."""
    interpreter = os.path.realpath(sys.executable)
    adder = contenders.muslin(directory / "echo.sock").program("ADD", "c1", Path("/run/netns/none"))
    found = {}
    for mode, path in builds(directory):
        found[f"{mode}, ADD"] = Program([str(path)], adder.environment, adder.stdin)
        found[f"{mode}, VERSION"] = Program([str(path)], {"CNI_COMMAND": "VERSION"}, b"")
    found["python -IS"] = Program([interpreter, "-IS", "-c", "pass"], {}, b"")
    found["import grpc"] = Program([sys.executable, "-c", "import grpc"], {}, b"")
    if _GO.exists():
        found["host-local, VERSION"] = Program([str(_GO)], {"CNI_COMMAND": "VERSION"}, b"{}")
    return found


def main() -> int:
    """Run, print the table, then one JSON object."""
    parser = argparse.ArgumentParser(prog="bench/shim.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    rounds = 30 if parser.parse_args().quick else 300
    with tempfile.TemporaryDirectory(prefix="muslin-bench-") as name, serving(Path(name, "echo.sock")):
        runs = programs(Path(name))
        costs: dict[str, list[Cost]] = {label: [] for label in runs}
        for number in range(-3, rounds):
            for label, program in runs.items():
                cost = run(program)
                if number >= 0:
                    costs[label].append(cost)
    figures = {label: quantiles([cost.wall for cost in each])
               | {"cpu_ms": 1000 * statistics.mean(cost.cpu for cost in each)} for label, each in costs.items()}
    widths = (22, 9, 8, 8, 8)
    print(row(("exec to exit, ms", "min", "p50", "p99", "CPU"), widths))
    for label, found in figures.items():
        print(row((label, *(f"{value:.1f}" for value in found.values())), widths))
    bare = figures["python -IS"]["p50_ms"]
    ratios = {f"{label}_vs_python": found["p50_ms"] / bare for label, found in figures.items()}
    print(json.dumps({"bench": "shim", "rounds": rounds, "figures": figures, "ratios": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
