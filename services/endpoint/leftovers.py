"""Records of nodes that are no more: which of them are to go.

A node is no more when the API server has no Node of its name, nothing is heard of its daemon, and no pod of its is
there any longer; all of that for a while. So neither a Node that was deleted while its machine works, nor one whose
daemon is only away, nor one that the API server calls otherwise than its daemon does loses anything. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from services.endpoint.records import WorkloadEndpoint

__all__ = ["GONE_AFTER", "Departed", "Leftovers"]

GONE_AFTER = 300.0
"""Seconds, if nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Departed:
    """A node that is no more."""

    node: str
    records: tuple[WorkloadEndpoint, ...]
    """Of pods that were on it."""
    forgettable: bool
    """Whether it has nothing else: where it was need not be known any longer."""


class Leftovers:
    """Remembers how long each node has been missing."""

    def __init__(self, gone_after: float = GONE_AFTER) -> None:
        self.gone_after = gone_after
        self._since: dict[str, float] = {}

    def forget(self) -> None:
        """Nothing is known of what has been: it begins now."""
        self._since.clear()

    def look(self, declared: Collection[str], hosts: Mapping[str, bool], records: Iterable[WorkloadEndpoint],
             alive: Callable[[WorkloadEndpoint], bool], now: float) -> list[Departed]:
        """The nodes that have been no more for long enough.

        `declared` are the Nodes that there are, `hosts` says of those that announced themselves whether they are
        present, `alive` whether a record's pod is known to be there. `now` is monotonic time, in seconds.
        """
        here = {node for node, present in hosts.items() if present}.union(declared)
        of: dict[str, list[WorkloadEndpoint]] = {node: [] for node in hosts if node not in here}
        for record in records:
            if record.node not in here:
                of.setdefault(record.node, []).append(record)
        missing = {node: found for node, found in of.items() if not any(map(alive, found))}
        self._since = {node: self._since.get(node, now) for node in missing}
        gone = []
        for node, found in sorted(missing.items()):
            if now - self._since[node] >= self.gone_after:
                # What is no pod of Kubernetes' the API server has no word in.
                pods = tuple(record for record in found if record.pod)
                gone.append(Departed(node, pods, len(pods) == len(found)))
        return gone
