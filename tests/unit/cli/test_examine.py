"""When a flow is probed again, and when never. Explain and packets are played by tables here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest

from muslin.cli.play.examine import TIMEOUTS, compare
from muslin.cli.play.flows import Answer, Flow, Observation, Packet, PlayedPort

FLOW = Flow("a/one", "a/two", PlayedPort("TCP", 80))
SCTP = Flow("a/one", "a/two", PlayedPort("SCTP", 80))
YES, NO = Answer(True, ""), Answer(False, "")
PASSED, LOST, BROKEN = Observation(Packet.PASSED), Observation(Packet.LOST), Observation(Packet.BROKEN)


class Table:
    """Answers and observations in the order they are given; the last one stays."""

    def __init__(self, said: Sequence[Answer], seen: Sequence[Observation]) -> None:
        self.said, self.seen = list(said), list(seen)
        self.sent: list[float] = []

    async def explain(self, flows: Iterable[Flow]) -> Mapping[Flow, Answer]:
        answer = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        return dict.fromkeys(flows, answer)

    async def send(self, flows: Sequence[Flow], timeout: float) -> Mapping[Flow, Observation]:
        self.sent.append(timeout)
        observation = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        return dict.fromkeys(flows, observation)


@pytest.mark.parametrize(("said", "seen", "agree", "rounds"), [
    ([YES], [PASSED], True, 1),
    ([NO], [LOST], True, 1),
    ([YES], [LOST, PASSED], True, 2),       # a busy machine
    ([YES], [LOST], False, 3),              # cut off: patience ends
    ([NO], [PASSED], False, 1),             # a hole, at once
    ([NO], [PASSED, LOST], False, 1),       # even if it would not be seen again
    ([YES], [BROKEN, PASSED], False, 1),
    ([NO, YES], [PASSED], True, 1),         # the policy changed before the packet: Explain, asked again, says so
    ([YES, NO], [LOST], True, 1),
    ([YES, NO], [PASSED], True, 1),         # agreement is not questioned
    ([NO, YES, NO], [PASSED, PASSED], True, 1),
])
async def test_rounds(said: list[Answer], seen: list[Observation], agree: bool, rounds: int) -> None:
    table = Table(said, seen)
    [finding] = await compare([FLOW], table.explain, table.send, {})
    assert finding.agree is agree
    assert table.sent == list(TIMEOUTS[:rounds])


@pytest.mark.parametrize(("seen", "agree"), [([PASSED, LOST], True), ([PASSED, PASSED], False)])
async def test_a_policy_that_was_just_tightened_gets_a_second_look(seen: list[Observation], agree: bool) -> None:
    """Explain knows of it a moment before the kernel does; a hole that stays is one all the same."""
    table = Table([NO], seen)
    [finding] = await compare([FLOW], table.explain, table.send, {FLOW: YES})
    assert finding.agree is agree
    assert len(table.sent) == 2


async def test_sctp_is_not_sent() -> None:
    table = Table([YES], [PASSED])
    found = {finding.flow: finding for finding in await compare([FLOW, SCTP], table.explain, table.send, {})}
    assert found[SCTP].seen.packet is Packet.UNPROBED
    assert found[FLOW].seen.packet is Packet.PASSED
