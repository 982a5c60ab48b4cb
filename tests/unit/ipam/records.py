"""A store in memory with etcd's rules for compare-and-swap, for tests of decisions without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from muslin.api.cni.v1 import cni_pb2
from muslin.etcd import KeyValue, keys
from services.ipam import handles, pools, store
from services.ipam.clock import Clock
from services.ipam.handles import Handle
from services.ipam.handles import Request as Assign
from services.ipam.outcomes import Outcome, Release
from services.ipam.plan import Asked, Plan, plan
from services.ipam.pools import Pool
from services.ipam.view import View


def attachment(number: int) -> cni_pb2.Attachment:
    return cni_pb2.Attachment(network="net", container_id=f"c{number}", ifname="eth0")


def wanted(number: int, node: str) -> Handle:
    return handles.of(attachment(number), node)


class Records:
    """What is stored, and at which revision."""

    def __init__(self, *made: Pool) -> None:
        self.items: dict[str, KeyValue] = {}
        self.revision = 1
        for pool in made:
            self.put(keys.pool(pool.name), store.encode(pool))

    def put(self, key: str, value: bytes | None) -> None:
        self.commit({}, {key: value})

    def commit(self, expect: Mapping[str, int], writes: Mapping[str, bytes | None]) -> bool:
        for key, revision in expect.items():
            if (item.mod_revision if (item := self.items.get(key)) else 0) != revision:
                return False
        if writes:
            self.revision += 1
        for key, value in writes.items():
            if value is None:
                self.items.pop(key, None)
            else:
                self.items[key] = KeyValue(key, value, self.revision, self.revision)
        return True

    @property
    def values(self) -> dict[str, bytes]:
        return {key: item.value for key, item in self.items.items()}


class FakeClock(Clock):
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.wall, self.time = 1_700_000_000_000, 1000.0

    def wall_ms(self) -> int:
        return self.wall

    def passed(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.wall += int(seconds * 1000)
        self.time += seconds


class Replica:
    """One process: a mirror that is as old as it is, and the view on it."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.mirror: dict[str, KeyValue] = {}
        self.clock = FakeClock()
        self.view = View(self.mirror, self.clock)
        self.catch_up()

    def catch_up(self) -> None:
        """What the watch does."""
        touched = {key for key in {*self.mirror, *self.records.items}
                   if self.mirror.get(key) != self.records.items.get(key)}
        self.mirror.clear()
        self.mirror.update(self.records.items)
        self.view.changed(touched, self.records.revision)

    def commit(self, made: Plan) -> bool:
        """Commit a plan, and see what etcd's answer shows."""
        done = self.records.commit(made.expect, made.writes)
        for key in (made.writes if done else made.expect):
            self.view.see(key, self.records.items.get(key), self.records.revision)
        return done

    def once(self, node: str, *requests: Asked) -> tuple[bool, Sequence[Outcome | None]]:
        """Decide and commit one transaction."""
        made = plan(self.view, requests)
        return self.commit(made), made.outcomes


__all__ = ["Assign", "Records", "Release", "Replica", "attachment", "pools", "wanted"]
