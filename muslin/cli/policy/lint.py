"""`muslin policy lint`: what in policies is likely to be a mistake.

Every finding is true of what was read: nothing is guessed from names. What is not known (pods that no file declares) is
not judged, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from muslin.cli.ipam.table import Look
from muslin.cli.policy.engine import Refused, translated
from muslin.cli.policy.world import Declared, World
from services.policy.model import Policy, Tier
from services.policy.translate import Condition

__all__ = ["Finding", "Read", "Severity", "plain", "read", "shown"]


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"
    """The policy service would refuse the object."""
    WARNING = "warning"
    """Something has not the effect that it seems to have."""
    INFO = "info"
    """Something to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about an object; `check` is the name of the kind of finding."""

    severity: Severity
    check: str
    item: Declared
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Read:
    """The objects that can be translated, in the order of the world, with what they become."""

    world: World
    """Without those that are refused."""
    policies: tuple[tuple[Declared, Policy], ...]
    tiers: dict[str, float]
    """Orders of declared tiers, by name."""


def read(world: World) -> tuple[Read, list[Finding]]:
    """Translate every object, and tell which would be refused and which only taken in part."""
    found: list[Finding] = []
    good: list[Declared] = []
    policies: list[tuple[Declared, Policy]] = []
    tiers: dict[str, float] = {}
    for item in world.objects:
        try:
            translation = translated(item)
        except Refused as problem:
            found.append(Finding(Severity.ERROR, "refused", item, problem.path, problem.reason))
            continue
        good.append(item)
        found += (_condition(item, condition) for condition in translation.conditions)
        match translation.resource:
            case Policy() as policy:
                policies.append((item, policy))
            case Tier() as tier:
                tiers[tier.name] = tier.order
    return Read(replace(world, objects=tuple(good)), tuple(policies), tiers), found


def _condition(item: Declared, condition: Condition) -> Finding:
    return Finding(Severity.WARNING, "not-enforced", item, condition.path, condition.message)


def shown(found: Sequence[Finding], notes: Sequence[str], look: Look) -> str:
    """A line for each finding: where, how bad, what; and the totals."""
    colours = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.INFO: "2"}
    lines = [f"{each.item.place(each.path)}: {look.paint(each.severity.value, colours[each.severity])}: "
             f"{each.item.label}{f' {each.path}' if each.path else ''}: {each.message} [{each.check}]"
             for each in _sorted(found)]
    count = {severity: sum(each.severity is severity for each in found) for severity in Severity}
    total = ", ".join(f"{number} {severity.value}{'' if number == 1 or severity is Severity.INFO else 's'}"
                      for severity, number in count.items())
    return "\n".join([*lines, *(f"note: {note}" for note in notes), total])


def plain(found: Sequence[Finding], notes: Sequence[str]) -> dict[str, object]:
    """The same for programs. File, document and line are null where they are not known."""
    return {"findings": [{
        "severity": each.severity.value, "check": each.check, "object": each.item.label, "path": each.path,
        "message": each.message, "origin": each.item.message.origin,
        "file": each.item.origin.file if each.item.origin else None,
        "document": each.item.origin.document if each.item.origin else None,
        "line": each.item.line_of(each.path) or None,
    } for each in _sorted(found)], "notes": list(notes)}


def _sorted(found: Iterable[Finding]) -> list[Finding]:
    """In the order of files."""
    def place(finding: Finding) -> tuple[str, int, int, str]:
        origin = finding.item.origin
        return (origin.file if origin else finding.item.message.origin, origin.document if origin else 0,
                finding.item.line_of(finding.path), finding.check)
    return sorted(found, key=place)
