"""Namespaces for tests: named after the test process, always deleted."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from muslin import netns

_numbers = itertools.count()


@contextmanager
def namespace(label: str = "t") -> Iterator[Path]:
    """A fresh network namespace with its loopback up; gives its path."""
    name = f"mt-{os.getpid()}-{label}-{next(_numbers)}"
    path = netns.create(name)
    try:
        command(path, "ip", "link", "set", "lo", "up")
        yield path
    finally:
        netns.delete(name)


@contextmanager
def namespaces(count: int, label: str = "t") -> Iterator[list[Path]]:
    """Several of them."""
    with ExitStack() as stack:
        yield [stack.enter_context(namespace(label)) for _ in range(count)]


def command(path: Path, *argv: str, check: bool = True) -> str:
    """Run a program inside the namespace and return what it printed on stdout."""
    done = subprocess.run(["ip", "netns", "exec", path.name, *argv], capture_output=True, text=True, check=False,
                          timeout=30)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)} in {path.name}: exit {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout
