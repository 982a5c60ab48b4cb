"""How far nodes lag behind their programs, and where each policy is enforced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter

from services.policy.program import Program
from services.policy.streams import Stream, Streams


@dataclass(frozen=True, slots=True)
class Where:
    """Nodes that a policy is in the program of, sorted: those that have it in their kernel as it is now, and others."""

    enforced: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


NOWHERE = Where()
_STEP = 8
"""Nodes that are looked at in a step: a few milliseconds."""


def nodes(programs: Mapping[str, Program], streams: Streams) -> Iterator[tuple[str, int, Stream | None]]:
    """Each node that has endpoints or is subscribed, how many endpoints it has, and its stream; sorted."""
    for node in sorted(programs.keys() | streams.nodes()):
        yield node, len(programs[node].endpoints) if node in programs else 0, streams.of(node)


class _Places:
    def __init__(self) -> None:
        self._enforced: dict[str, list[str]] = {}
        self._pending: dict[str, list[str]] = {}

    def add(self, node: str, program: Program, stream: Stream | None) -> None:
        had = stream.enforced.policies if stream and stream.enforced is not None else {}
        for key, policy in program.policies.items():
            there = had.get(key)
            (self._enforced if there is policy or there == policy else self._pending).setdefault(key, []).append(node)

    def found(self) -> dict[str, Where]:
        return {key: Where(tuple(self._enforced.get(key, ())), tuple(self._pending.get(key, ())))
                for key in self._enforced.keys() | self._pending.keys()}


def where(programs: Mapping[str, Program], streams: Streams) -> dict[str, Where]:
    """Where each policy is enforced, by its id; those that no endpoint has are left out."""
    places = _Places()
    for node in sorted(programs):
        places.add(node, programs[node], streams.of(node))
    return places.found()


async def where_by_and_by(programs: Mapping[str, Program], streams: Streams) -> dict[str, Where]:
    """The same, in steps between which others get their turn: 1,000 nodes have a million policies between them.

    Of each node it is what it was at some time meanwhile.
    """
    places = _Places()
    for number, (node, program) in enumerate(sorted(programs.items(), key=itemgetter(0))):
        if number % _STEP == 0:
            await asyncio.sleep(0)
        places.add(node, program, streams.of(node))
    return places.found()
