"""Sticky addresses: those of attachments that are gone, kept for the return of their pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from services.ipam.clock import Clock
from services.ipam.handles import Handle

Pod = tuple[str, str, str]
"""Network, namespace and name of a pod."""


class Entry(NamedTuple):
    """A handle whose addresses are kept."""

    identity: str
    pod: Pod
    ifname: str
    until_ms: int
    sticky: int
    revision: int
    since: float
    """When (`Clock.passed`) it was first seen kept: not before it was."""


def pod_of(handle: Handle) -> Pod:
    """Whose return is waited for."""
    return handle.network, handle.namespace, handle.pod


class Kept:
    """The kept handles, by pod.

    Time is up when the clock on the wall says so, or when the time has passed since the record was seen: a clock that
    was wrong when it was written must not keep an address forever. One that was wrong the other way costs the pod its
    old address, and nothing else: it is freed like any other.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._pods: dict[Pod, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, handle: Handle, revision: int) -> None:
        """A handle is kept."""
        identity, since = handle.identity, self._clock.passed()
        if (old := self._entries.get(identity)) and old.until_ms == handle.kept_until_ms:
            since = old.since
        self.drop(identity)
        self._entries[identity] = Entry(identity, pod_of(handle), handle.ifname, handle.kept_until_ms, handle.sticky,
                                        revision, since)
        self._pods.setdefault(pod_of(handle), {})[identity] = None

    def drop(self, identity: str) -> None:
        """A handle is not kept, or there is none."""
        if (entry := self._entries.pop(identity, None)) is None:
            return
        identities = self._pods[entry.pod]
        del identities[identity]
        if not identities:
            del self._pods[entry.pod]

    def of(self, pod: Pod, ifname: str) -> str | None:
        """Identity of the handle that is kept for a pod; if it has several, the one of this interface."""
        found = [self._entries[identity] for identity in self._pods.get(pod, ())]
        found = [entry for entry in found if entry.ifname == ifname] or found
        return found[0].identity if found else None

    def over(self, entry: Entry) -> bool:
        """Whether its time is up."""
        return self._clock.wall_ms() >= entry.until_ms or self._clock.passed() - entry.since >= entry.sticky

    def seconds(self, identity: str) -> float:
        """For how long it has been seen kept; 0 if it is not."""
        entry = self._entries.get(identity)
        return self._clock.passed() - entry.since if entry else 0.0

    def expired(self) -> Iterator[str]:
        """Identities of the handles whose time is up."""
        return (entry.identity for entry in list(self._entries.values()) if self.over(entry))
