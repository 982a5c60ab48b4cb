"""The collector's decisions: what it must never free, whatever happens in whatever order and whatever clocks say."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from services.ipam.handles import Address
from services.ipam.upkeep.claims import Claim
from services.ipam.upkeep.collector import (
    ADD_LIMIT,
    Collector,
    Empty,
    Finding,
    Now,
    Rules,
    Suspect,
    claims_against,
    spare,
    users,
)

WALL = 1_700_000_000_000
RUNTIME_GIVES_UP = 120.0


def suspect(identity: str = "net/a/eth0", revision: int = 5, created_ms: int = WALL, **fields: object) -> Suspect:
    held = (Address(f"10.0.0.{len(identity)}", "10.0.0.0/26", 1),)
    base: dict[str, object] = {"node": "n1", "held": held}
    return Suspect(identity, revision, created_ms=created_ms, **(base | fields))  # type: ignore[arg-type]  # by name


def at(seconds: float, wall: float | None = None) -> Now:
    return Now(WALL + int((seconds if wall is None else wall) * 1000), 1000 + seconds)


def due(findings: list[Finding]) -> list[bool]:
    return [finding.due for finding in findings]


class TestGrace:
    def test_a_new_handle_is_found_and_left_alone(self) -> None:
        collector = Collector(Rules())
        assert due(collector.look([suspect()], [], (), at(0))) == [False]
        assert due(collector.look([suspect()], [], (), at(600))) == [False]

    def test_after_the_grace_period_and_two_observations_it_is_due(self) -> None:
        collector = Collector(Rules())
        assert due(collector.look([suspect()], [], (), at(1000))) == [False]
        assert due(collector.look([suspect()], [], (), at(1060))) == [False]
        assert due(collector.look([suspect()], [], (), at(1000 + ADD_LIMIT))) == [True]

    def test_a_change_of_the_record_begins_anew(self) -> None:
        """Somebody asked for it again."""
        collector = Collector(Rules())
        collector.look([suspect()], [], (), at(1000))
        assert due(collector.look([suspect(revision=6)], [], (), at(1200))) == [False]
        assert due(collector.look([suspect(revision=6)], [], (), at(1400))) == [True]

    def test_a_claim_between_two_observations_begins_anew(self) -> None:
        collector = Collector(Rules())
        collector.look([suspect()], [], (), at(1000))
        collector.claimed("net/a/eth0")
        assert due(collector.look([suspect()], [], (), at(1200))) == [False]

    def test_a_round_in_which_it_was_not_found_begins_anew(self) -> None:
        collector = Collector(Rules())
        collector.look([suspect()], [], (), at(1000))
        collector.look([], [], (), at(1100))
        assert due(collector.look([suspect()], [], (), at(1200))) == [False]

    def test_a_creator_whose_clock_was_ahead_does_not_keep_it_forever(self) -> None:
        collector, made = Collector(Rules()), suspect(created_ms=WALL + 3_600_000_000)
        collector.look([made], [], (), at(0))
        assert due(collector.look([made], [], (), at(901))) == [True]

    def test_a_node_that_is_gone_ends_the_grace_period(self) -> None:
        collector = Collector(Rules())
        assert collector.deleted({"n1", "n2"}, {"n1"}) == frozenset()
        gone = collector.deleted({"n1", "n2"}, set())
        assert gone == {"n1"}, "n2 was never known"
        collector.look([suspect()], [], gone, at(0))
        finding, = collector.look([suspect()], [], gone, at(ADD_LIMIT))
        assert finding.due
        assert "n1 is gone" in finding.reason


class TestKept:
    def test_it_is_no_finding_before_its_time(self) -> None:
        collector, kept = Collector(Rules()), suspect(kept_until_ms=WALL + 500_000, sticky=500)
        assert collector.look([kept], [], (), at(0)) == []
        assert due(collector.look([kept], [], (), at(400))) == []
        assert due(collector.look([kept], [], (), at(501))) == [True]

    def test_a_clock_that_was_ahead_does_not_keep_it_forever(self) -> None:
        collector, kept = Collector(Rules()), suspect(kept_until_ms=WALL + 9_000_000_000, sticky=500)
        collector.look([kept], [], (), at(0))
        assert due(collector.look([kept], [], (), at(500))) == [True]


class TestClaims:
    def test_the_attachment_or_anybody_with_one_of_its_addresses(self) -> None:
        one = suspect(held=(Address("10.0.0.1", "10.0.0.0/26", 1), Address("fd00::1", "fd00::/122", 1)))
        own, other = Claim(one.identity, "n1", ()), Claim("net/b/eth0", "n2", ("fd00::1",))
        assert "alive" in claims_against(one, {own.identity: own}, {})
        assert "net/b/eth0" in claims_against(one, {}, users([other]))
        assert claims_against(one, {}, users([Claim("net/c/eth0", "n2", ("10.0.0.2",))])) == ""


class TestBlocks:
    def test_two_observations_unchanged_and_as_long_as_an_address_cools(self) -> None:
        collector, empty = Collector(Rules()), Empty("10.0.0.0/26", 3, "n1", 300)
        assert due(collector.look([], [empty], (), at(0))) == [False]
        assert due(collector.look([], [empty], (), at(120))) == [False]
        assert due(collector.look([], [empty], (), at(300))) == [True]
        assert due(collector.look([], [Empty("10.0.0.0/26", 4, "n1")], (), at(400))) == [False]

    def test_a_node_keeps_its_last_of_each_family(self) -> None:
        def empty(cidr: str, node: str) -> tuple[Empty | None, str, int]:
            return Empty(cidr, 1, node), node, 6 if ":" in cidr else 4

        blocks = [empty("10.0.0.0/26", "n1"), empty("10.0.0.64/26", "n1"), empty("fd00::/122", "n1"),
                  empty("10.0.1.0/26", "n2"), (None, "n2", 4), empty("10.0.2.0/26", ""), empty("10.0.3.0/26", "n3")]
        assert {block.cidr for block in spare(blocks, {"n3"})} == {
            "10.0.0.64/26", "10.0.1.0/26", "10.0.2.0/26", "10.0.3.0/26"}


@dataclass
class Attachment:
    """What is true of one, and what the account says."""

    revision: int = 0
    """Of its handle; 0: there is none."""
    created_ms: int = 0
    adding_until: float | None = None
    """An ADD is under way that has its address, and may yet store its endpoint."""
    claimed: bool = False


CLOCKS = st.sampled_from((-3600, 0, 3600))
"""Seconds that a process' clock is off."""
EVENTS = st.sampled_from(("nothing", "add", "whole add", "delete"))
"""What others do at that moment."""


class Collection(RuleBasedStateMachine):
    """An address that somebody uses, or is about to, is never freed.

    ADDs and DELs may stop anywhere, clocks are an hour off, the copy of the claims lags, and others act between the
    steps of a round.
    """

    NAME = "net/a/eth0"

    def __init__(self) -> None:
        super().__init__()
        self.collector = Collector(Rules())
        self.time, self.revision = 0.0, 1
        self.one = Attachment()
        self.known: dict[str, Claim] = {}

    @rule(clock=CLOCKS)
    def add_begins(self, clock: int) -> None:
        """Its address is given by a process whose clock may be off; or it is confirmed, which rewrites the handle."""
        if not self.one.revision:
            self.one.created_ms = WALL + int((self.time + clock) * 1000)
        self.revision += 1
        self.one.revision = self.revision
        self.one.adding_until = self.time + RUNTIME_GIVES_UP

    @rule()
    def add_ends(self) -> None:
        if self.one.adding_until is not None:
            self.one.claimed, self.one.adding_until = True, None

    @rule(whole=st.booleans())
    def delete(self, whole: bool) -> None:
        """The record of the endpoint goes first; the service may be killed before the address does."""
        self.one.claimed, self.one.adding_until = False, None
        if whole:
            self.one.revision = 0

    @rule(rounds=st.sampled_from((1, 2, 3, 16)), clock=CLOCKS, lags=st.booleans(), before_read=EVENTS,
          before_write=EVENTS)
    def time_passes(self, rounds: int, clock: int, lags: bool, before_read: str, before_write: str) -> None:
        """Rounds of collection, each a minute after the one before; in the last one others do something."""
        for number in range(rounds):
            if not lags:
                self.copy_catches_up()
            last = number == rounds - 1
            self.collect(clock, before_read if last else "nothing", before_write if last else "nothing")
            self.time += 61
            if self.one.adding_until is not None and self.time > self.one.adding_until:
                self.one.adding_until = None

    def copy_catches_up(self) -> None:
        if self.one.claimed and not self.known:
            self.collector.claimed(self.NAME)
        self.known = {self.NAME: Claim(self.NAME, "n1", ("10.0.0.1",))} if self.one.claimed else {}

    def collect(self, clock: int, before_read: str, before_write: str) -> None:
        """Look; read anew what is due; free it, if its record is still the one that was read."""
        one, now = self.one, Now(WALL + int((self.time + clock) * 1000), self.time)
        doubtful = [suspect(self.NAME, one.revision, one.created_ms)] if one.revision and not self.known else []
        findings = self.collector.look(doubtful, [], (), now)
        self.happens(before_read)
        for finding in findings:
            judged = finding.subject
            if finding.due and one.revision == judged.revision and not one.claimed:
                self.happens(before_write)
                if one.revision == judged.revision:
                    assert not one.claimed
                    assert one.adding_until is None
                    one.revision = 0

    def happens(self, event: str) -> None:
        if event == "add":
            self.add_begins(0)
        elif event == "whole add":
            self.add_begins(0)
            self.add_ends()
        elif event == "delete":
            self.delete(False)


TestCollection = Collection.TestCase
TestCollection.settings = settings(max_examples=200, stateful_step_count=25)
