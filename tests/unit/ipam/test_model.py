"""Everything that can be asked, in any order, by processes that are behind, restarted, cut off or have a wrong clock.

Judged from outside, by what is stored before and after each transaction: what is given to whom, and when it was last
somebody else's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muslin.etcd import keys
from services.ipam import handles, pools, store
from services.ipam.config import Config
from services.ipam.cooling import SKEW
from services.ipam.outcomes import Freed, Granted
from services.ipam.plan import Plan, plan
from services.ipam.reservations import Reservations
from tests.support import ipam_invariants
from tests.unit.ipam.records import Assign, Records, Release, Replica, attachment

COOL_DOWN, STICKY = 30, 50
POOLS = (pools.make("a", "10.0.0.0/30", 31, cool_down=COOL_DOWN), pools.make("b", "10.1.0.0/32", 32),
         pools.make("six", "fd00::/126", 127))
ADDRESSES = [*(f"10.0.0.{n}" for n in range(4)), "10.1.0.0", *(f"fd00::{n or ''}" for n in range(4))]
"""Fewer than there are attachments, so that they are used again and again."""

replicas = st.integers(0, 1)
numbers = st.integers(0, 7)
nodes = st.sampled_from("xyz")


def identity(number: int) -> str:
    return f"net/c{number}/eth0"


def request(number: int, node: str, families: tuple[int, ...] = (4,), addresses: tuple[str, ...] = (),
            sticky: int = 0) -> Assign:
    """Two attachments of each pod: an old sandbox and a new one."""
    return Assign(handles.of(attachment(number), node, "ns", f"p{number // 2}"), families, addresses,
                  sticky_seconds=sticky)


class Rest(NamedTuple):
    """Since when an address is out of use, and by which pod it was used."""

    since: float
    pod: str


class Everything(RuleBasedStateMachine):
    """Two processes; `now` is the true time, which no process knows."""

    def __init__(self) -> None:
        super().__init__()
        self.records = Records(*POOLS)
        self.replicas = [Replica(self.records) for _ in range(2)]
        self.flying: list[Plan] = []
        self.now = 0.0
        self.clocks_agree = True
        self.rests: dict[str, Rest] = {}
        self.kept_since: dict[str, float] = {}
        self.held: dict[str, set[str]] = {}

    @rule(which=replicas, asked=st.lists(st.tuples(numbers, nodes), min_size=1, max_size=3),
          families=st.sampled_from([(4,), (6,), (4, 6)]), sticky=st.sampled_from([0, 0, STICKY]), lost=st.booleans())
    def assign(self, which: int, asked: list[tuple[int, str]], families: tuple[int, ...], sticky: int,
               lost: bool) -> None:
        self._ask(which, [request(number, node, families, sticky=sticky) for number, node in asked], lost)

    @rule(which=replicas, number=numbers, node=nodes, address=st.sampled_from(ADDRESSES))
    def assign_specific(self, which: int, number: int, node: str, address: str) -> None:
        self._ask(which, [request(number, node, (), (address,))], False)

    @rule(which=replicas, number=numbers, lost=st.booleans())
    def release(self, which: int, number: int, lost: bool) -> None:
        self._ask(which, [Release(identity(number))], lost)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), node=nodes, seconds=st.sampled_from([1.0, 10.0, 31.0]))
    def take_over(self, data: st.DataObject, node: str, seconds: float) -> None:
        """An address is freed by one process, and soon after another pod asks the other process for it."""
        name = data.draw(st.sampled_from(sorted(self.held)))
        address, number = sorted(self.held[name])[0], int(name.split("/")[1][1:])
        self._ask(0, [Release(name)], False)
        self.wait(seconds)
        self.catch_up(1)
        self._ask(1, [request((number + 2) % 8, node, (), (address,))], False)

    @rule(which=replicas, pod=st.integers(0, 3), node=nodes,
          between=st.sampled_from(["", "reserve", "disable", "wait"]))
    def come_back(self, which: int, pod: int, node: str, between: str) -> None:
        """A sandbox with sticky addresses goes, and a new one of its pod comes."""
        old, new = 2 * pod, 2 * pod + 1
        self._ask(which, [Release(identity(new))], False)
        self._ask(which, [request(old, node, sticky=STICKY)], False)
        addresses = self.held.get(identity(old), set())
        self._ask(which, [Release(identity(old))], False)
        if between == "reserve":
            self.reserve(addresses)
        elif between == "disable":
            self.disable(POOLS[0], True)
        elif between == "wait":
            self.wait(31.0)
        self.catch_up(which)
        self._ask(which, [request(new, node)], False)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        """A transaction that its process gave up gets to etcd after all."""
        self._commit(self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1))), None)

    @rule(which=replicas)
    def catch_up(self, which: int) -> None:
        self.replicas[which].catch_up()

    @rule(which=replicas)
    def crash(self, which: int) -> None:
        """Killed, and started again: all it knows is what is stored."""
        wall = self.replicas[which].clock.wall
        self.replicas[which] = Replica(self.records)
        self.replicas[which].clock.wall = wall

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0, 61.0, 5000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for replica in self.replicas:
            replica.clock.advance(seconds)
        if seconds > SKEW:  # every call has a deadline: none is on its way for longer than clocks may be apart
            self.flying.clear()

    @rule(which=replicas, ahead=st.sampled_from([-1800, 0, 1800]))
    def set_clock(self, which: int, ahead: int) -> None:
        """Two clocks, or one before and after it was set, are up to an hour apart."""
        self.clocks_agree = False
        self.replicas[which].clock.wall = 1_700_000_000_000 + int((self.now + ahead) * 1000)

    @rule(chosen=st.sets(st.sampled_from(ADDRESSES), max_size=2))
    def reserve(self, chosen: set[str]) -> None:
        """These are reserved from now on, and no others."""
        ranges = {"some": tuple(f"{each}/{128 if ':' in each else 32}" for each in sorted(chosen))} if chosen else {}
        self.records.put(keys.IPAM_RESERVATIONS, store.encode(Reservations(ranges)))

    @rule(pool=st.sampled_from(POOLS), disabled=st.sampled_from([False, False, True]))
    def disable(self, pool: pools.Pool, disabled: bool) -> None:
        self.records.put(keys.pool(pool.name), store.encode(msgspec.structs.replace(pool, disabled=disabled)))

    @rule(strict=st.booleans(), most=st.sampled_from([1, 2, 20]))
    def configure(self, strict: bool, most: int) -> None:
        self.records.put(keys.IPAM_CONFIG, store.encode(Config(strict, most)))

    def teardown(self) -> None:
        """When all is deleted and has cooled down, each address can be given again."""
        for pool in POOLS:
            self.disable(pool, False)
        self.reserve(set())
        self.configure(False, 20)
        self.catch_up(0)
        for number in range(8):
            self._ask(0, [Release(identity(number))], False)
        self.wait(20_000)
        for family, count in ((4, 5), (6, 4)):
            for number in range(count):
                asked = Assign(handles.of(attachment(100 * family + number), "x"), (family,))
                outcome = self._ask(0, [asked], False)[0]
                assert isinstance(outcome, Granted), f"{number} of {count} addresses could be given: {outcome}"

    @invariant()
    def nothing_is_wrong(self) -> None:
        records = self.records.values
        assert list(ipam_invariants.violations(records)) == []
        held: dict[str, set[str]] = {}
        for address, owner in ipam_invariants.owners(records).items():
            held.setdefault(owner, set()).add(address)
        assert self.held == {owner: addresses for owner, addresses in held.items()
                             if owner not in ipam_invariants.kept(records)}

    def _ask(self, which: int, asked: list[Assign | Release], lost: bool) -> list[object]:
        """Ask, and once more after a conflict; what was answered must be stored."""
        replica = self.replicas[which]
        for _ in range(2):
            made = plan(replica.view, asked)
            if lost:
                self.flying.append(made)
                return []
            held = {name: set(addresses) for name, addresses in self.held.items()}
            if not self._commit(made, replica):
                if any(key.startswith(keys.IPAM_NODES) for key in made.expect):
                    replica.catch_up()  # as the allocator waits for the other process' claim
                continue
            for each, outcome in zip(asked, made.outcomes, strict=True):
                if isinstance(outcome, Granted):
                    given = {address.address for address in outcome.handle.addresses}
                    assert self.held[each.identity] == given
                    assert each.identity not in held or held[each.identity] == given, "ADD repeated, other addresses"
                    if isinstance(each, Assign) and outcome.new:
                        families = {6 if ":" in address else 4 for address in (*given, *each.addresses)}
                        assert families == {*each.families, *(6 if ":" in a else 4 for a in each.addresses)}
                        assert set(each.addresses) <= given
                elif isinstance(outcome, Freed):
                    assert each.identity not in self.held
            return list(made.outcomes)
        return []

    def _commit(self, made: Plan, replica: Replica | None) -> bool:
        before = self.records.values
        if not (replica.commit(made) if replica else self.records.commit(made.expect, made.writes)):
            return False
        self._judge(before, self.records.values)
        return True

    def _judge(self, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
        """What one transaction may do."""
        old, new = ipam_invariants.owners(before), ipam_invariants.owners(after)
        kept_before, kept_after = ipam_invariants.kept(before), ipam_invariants.kept(after)
        for name in kept_after - kept_before:
            self.kept_since[name] = self.now
        for address in old:
            if old[address] != new.get(address):
                owner = old[address]
                since = self.kept_since[owner] if owner in kept_before else self.now
                self.rests[address] = Rest(since, _handle(before, owner)["pod"])
        for name in kept_before - set(new.values()):
            pod = _handle(before, name)["pod"]
            returned = any(_handle(after, owner)["pod"] == pod for address, owner in new.items()
                           if old.get(address) != owner)
            if self.clocks_agree and not returned:
                assert self.now - self.kept_since[name] >= STICKY, f"{name} was to be kept"
        self.held = {}
        for address, owner in new.items():
            if owner not in kept_after:
                self.held.setdefault(owner, set()).add(address)
            if old.get(address) != owner:
                self._given(address, _handle(after, owner), after)
        most = json.loads(after.get(keys.IPAM_CONFIG, b"{}")).get("max_blocks_per_node", 20)
        was = set(ipam_invariants.excesses(before, most, strict=False))
        assert len(set(ipam_invariants.excesses(after, most, strict=False))) <= len(was)

    def _given(self, address: str, handle: Mapping[str, Any], after: Mapping[str, bytes]) -> None:
        reserved = json.loads(after.get(keys.IPAM_RESERVATIONS, b'{"ranges": {}}'))["ranges"].get("some", ())
        assert address not in {each.partition("/")[0] for each in reserved}, f"{address} is reserved"
        pool = "six" if ":" in address else "a" if address.startswith("10.0.") else "b"
        assert not json.loads(after[keys.pool(pool)])["disabled"], f"{address} is of a disabled pool"
        if (rest := self.rests.get(address)) and rest.pod != handle.get("pod", ""):
            assert self.now - rest.since >= COOL_DOWN, f"{address} rested for {self.now - rest.since:.0f} s"


def _handle(records: Mapping[str, bytes], identity: str) -> Any:
    return {"pod": ""} | json.loads(records[store.handle_key(identity)])


TestEverything = Everything.TestCase
TestEverything.settings = settings(max_examples=80, stateful_step_count=30)
