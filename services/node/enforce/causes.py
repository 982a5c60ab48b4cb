"""From the eight bytes that stand for a cause of drops, back to what it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.node.enforce import names
from services.node.enforce.names import Direction, Reason
from services.node.enforce.state import State

__all__ = ["Cause", "causes"]


@dataclass(frozen=True, slots=True)
class Cause:
    """What decided that a packet is dropped.

    Attributes:
        direction: as seen from the endpoint.
        policy: id of the policy or profile whose rule denies; empty where none decided.
        asked: ids of those that were asked, where none decided.
        reason: in words.
    """

    direction: Direction
    policy: str = ""
    asked: tuple[str, ...] = ()
    reason: str = ""


def causes(state: State) -> dict[bytes, Cause]:
    """All there are in a state's table."""
    found = {names.reason_cause(direction, reason): Cause(direction, reason=reason.value)
             for direction in Direction for reason in Reason}
    for name in state.program.policies:
        for direction in Direction:
            found[names.policy_cause(name, direction)] = Cause(direction, name, reason=f"denied by {name}")
    for stage in state.users:
        what = "no policy of its tier" if stage.tiers else "no profile"
        asked = stage.policies
        found[names.stage_cause(stage.chain)] = Cause(
            stage.direction, asked=asked, reason=f"{what} allows it; asked: {', '.join(asked) or 'none'}")
    return found
