"""The benchmark of ADD and DEL runs, says what it measured, and leaves nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muslin import netns
from tests.support.plugin import ROOT

pytestmark = [pytest.mark.root, pytest.mark.slow]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, ROOT / "bench/add.py", *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def namespaces(pid: int) -> list[str]:
    return [name for name in netns.names() if name.startswith(f"muslin-bench-{pid}-")]


def descendants(pid: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended while we looked
        if parent == pid:
            child = int(stat.parent.name)
            yield child
            yield from descendants(child)


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_it_measures_and_cleans_up() -> None:
    process = start("--n", "3", "--pods", "5")
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == 0, stderr
    report = json.loads(stdout.splitlines()[-1])
    assert (report["bench"], report["rounds"]) == ("add", 3)
    ours = report["figures"]["muslin"]
    assert 0 < ours["add"]["min_ms"] <= ours["add"]["p50_ms"] <= ours["add"]["p99_ms"]
    assert ours["add_cpu_ms"] > 0
    assert ours["adds_per_s"] > 0
    for other in set(report["figures"]) - {"muslin"}:
        theirs = report["figures"][other]["add"]["p50_ms"]
        assert report["ratios"][f"add_p50_vs_{other}"] == pytest.approx(ours["add"]["p50_ms"] / theirs)
    assert report["full"]["pods"] == 5
    assert report["full"]["node_mb"] > 1
    assert namespaces(process.pid) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_cleans_up_too(signum: signal.Signals) -> None:
    process = start("--n", "100000", "--pods", "0")
    try:
        interrupted(process, signum)
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=300)


def interrupted(process: subprocess.Popen[str], signum: signal.Signals) -> None:
    until = time.monotonic() + 60
    started: list[int] = []
    while len(started) < 6:  # `muslin up`, etcd and four services; no event tells us of them
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        started = list(descendants(process.pid))
        time.sleep(0.2)
    assert namespaces(process.pid) != []
    process.send_signal(signum)
    process.communicate(timeout=300)
    assert process.returncode == 128 + signum
    assert namespaces(process.pid) == []
    assert gone(started)
