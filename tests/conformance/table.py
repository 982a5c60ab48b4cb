"""The table: each test is a row that names the MUST it holds a plugin to, and the versions that have it.

Texts are ours; sections are those of the CNI specification 1.1.0 ("2" is the execution protocol, "5" the result types),
for what newer versions have dropped those of the version named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
VERBS = ("VERSION", "ADD", "DEL", "CHECK", "GC", "STATUS", "chain")
"""What the report groups rows by; `chain` is a list of plugins, run as libcni runs it."""

_Test = TypeVar("_Test", bound=Callable[..., Any])


def between(since: str, until: str = VERSIONS[-1]) -> tuple[str, ...]:
    """The versions from one to another, both included."""
    return VERSIONS[VERSIONS.index(since):VERSIONS.index(until) + 1]


def at_least(version: str, since: str) -> bool:
    """Whether a version has what came with another."""
    return VERSIONS.index(version) >= VERSIONS.index(since)


def must(verb: str, text: str, section: str, *, since: str = VERSIONS[0], until: str = VERSIONS[-1],
         each: bool = True) -> Callable[[_Test], _Test]:
    """Make a test a row.

    It is run for each version from `since` to `until` or, without `each`, for the newest of them that the plugin lists.
    A version that it does not list is skipped as such.
    """
    assert verb in VERBS
    versions = between(since, until)

    params = [(version,) for version in versions] if each else [versions]
    parametrized = pytest.mark.parametrize("version", params, ids=versions if each else ("newest",), indirect=True)

    def mark(test: _Test) -> _Test:
        marked: _Test = pytest.mark.must.with_args(verb, text, section)(parametrized(test))
        return marked
    return mark


@dataclass
class Report:
    """What a run found, by verb."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    unmet: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)
    """By verb, text and section: the rows that failed, as they were parametrized."""

    def add(self, row: tuple[str, str, str], outcome: str, case: str) -> None:
        self.counts.setdefault(row[0], Counter())[outcome] += 1
        if outcome == "failed":
            self.unmet.setdefault(row, []).append(case)

    def lines(self) -> Iterable[str]:
        """The table, and below it what the plugin deviates in."""
        yield f"{'verb':8} {'passed':>7} {'failed':>7} {'skipped':>8}"
        for verb in (verb for verb in VERBS if verb in self.counts):
            counted = self.counts[verb]
            yield f"{verb:8} {counted['passed']:7} {counted['failed']:7} {counted['skipped']:8}"
        for (verb, text, section), cases in self.unmet.items():
            yield f"{verb}: {text} [{section}]: not so for {', '.join(cases)}"
