"""`muslin policy test`: expected verdicts compared with those of the policy service's own engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muslin.cli.ipam.table import Look
from muslin.cli.policy import explaining
from muslin.cli.policy.cases import Check, Suite
from muslin.cli.policy.engine import Judge
from muslin.cli.policy.space import Space
from muslin.errors import InvalidArgument, MuslinError

__all__ = ["Outcome", "passed", "plain", "run", "shown", "summary"]

MOST_SHOWN = 10
"""Failures of one check that are written out."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A check and what was found otherwise than expected."""

    check: Check
    decisions: int
    """Ways in which its flows are decided."""
    failures: tuple[explaining.Answer, ...]


def passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether everything is as expected."""
    return not any(outcome.failures for outcome in outcomes)


async def run(suite: Suite) -> list[Outcome]:
    """Judge every check. Raises InvalidArgument, naming the check, if one can not be judged."""
    judge, space = Judge(suite.world), Space(suite.world)
    return [await _judged(check, judge, space) for check in suite.checks]


async def _judged(check: Check, judge: Judge, space: Space) -> Outcome:
    found: list[explaining.Answer] = []
    for source, destination in check.pairs(judge.world):
        for port in check.ports:
            try:
                found += await explaining.answers(explaining.Asked(source, destination, port, check.protocol),
                                                  space, judge.explain)
            except MuslinError as problem:
                raise InvalidArgument(f"{check.place}: {check.entry.path}: {problem.message}") from None
    return Outcome(check, len(found), tuple(answer for answer in found if answer.verdict != check.verdict))


def shown(outcomes: Sequence[Outcome], suite: Suite, look: Look) -> str:
    """Each check that failed, with the flows and what decides them; and the totals."""
    blocks = []
    for outcome in outcomes:
        check = outcome.check
        for answer in outcome.failures[:MOST_SHOWN]:
            head = f"{look.paint('FAILED', '31')} {check.place}: expected {check.verdict}"
            blocks.append(f"{head}\n{explaining.shown([answer], suite.world, look)}")
        if len(outcome.failures) > MOST_SHOWN:
            blocks.append(f"and {len(outcome.failures) - MOST_SHOWN} more of {check.place}, which -o json lists")
    return "\n\n".join([*blocks, summary(outcomes)])


def summary(outcomes: Sequence[Outcome]) -> str:
    """The totals."""
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    return f"{len(outcomes)} checks, {len(outcomes) - failed} passed, {failed} failed"


def plain(outcomes: Sequence[Outcome], suite: Suite) -> dict[str, object]:
    """The same for programs."""
    return {"checks": [{
        "file": item.check.entry.document.file, "document": item.check.entry.document.number,
        "line": item.check.entry.node.line, "expected": item.check.verdict, "passed": not item.failures,
        "failures": explaining.plain(item.failures, suite.world),
    } for item in outcomes], "passed": passed(outcomes)}
