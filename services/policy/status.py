"""How far nodes lag behind their programs, and where each policy is enforced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.policy.program import Program
from services.policy.streams import Stream, Streams


@dataclass(frozen=True, slots=True)
class Where:
    """Nodes that a policy is in the program of, sorted: those that have it in their kernel as it is now, and others."""

    enforced: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


NOWHERE = Where()


def nodes(programs: Mapping[str, Program], streams: Streams) -> Iterator[tuple[str, int, Stream | None]]:
    """Each node that has endpoints or is subscribed, how many endpoints it has, and its stream; sorted."""
    for node in sorted(programs.keys() | streams.nodes()):
        yield node, len(programs[node].endpoints) if node in programs else 0, streams.of(node)


def where(programs: Mapping[str, Program], streams: Streams) -> dict[str, Where]:
    """Where each policy is enforced, by its id; those that no endpoint has are left out."""
    enforced: dict[str, list[str]] = {}
    pending: dict[str, list[str]] = {}
    for node in sorted(programs):
        stream = streams.of(node)
        had = stream.enforced.policies if stream and stream.enforced is not None else {}
        for key, policy in programs[node].policies.items():
            there = had.get(key)
            (enforced if there is policy or there == policy else pending).setdefault(key, []).append(node)
    return {key: Where(tuple(enforced.get(key, ())), tuple(pending.get(key, ())))
            for key in enforced.keys() | pending.keys()}
