"""Streams: what a node has is remembered, a lost one goes on from there, and one that is slow costs nobody anything."""

from __future__ import annotations

from services.policy.events import EndpointGone, EndpointPut
from services.policy.hub import Hub
from services.policy.program import EMPTY, Program, apply
from services.policy.status import Where, nodes, where, where_by_and_by
from services.policy.streams import KEPT_NODES, KEPT_SECONDS, Stream, Streams
from tests.unit.policy.cluster import Pod, namespace, network_policy, put

WEB = Pod("x", "web", "10.0.0.1", {"app": "web"})
POLICY = put(network_policy("x", "p", {"ingress": [{"from": [{"podSelector": {}}]}]}))


class Clock:
    """A clock that stands still unless told otherwise."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def client(number: int) -> EndpointPut:
    return EndpointPut(Pod("x", f"c{number}", f"10.0.{number // 250}.{number % 250 + 2}", node="n2").endpoint())


async def begun() -> tuple[Hub, Streams, Clock]:
    hub, clock = Hub(("a",)), Clock()
    hub.put([EndpointPut(WEB.endpoint()), put(namespace("x")), POLICY])
    hub.complete("a")
    hub.flush()
    return hub, Streams(hub, clock), clock


def grow(hub: Hub, *numbers: int) -> None:
    for number in numbers:
        hub.put([client(number)])
        hub.flush()


def receive(stream: Stream, program: Program = EMPTY) -> tuple[Program, str]:
    """A node's program after the next message, and the kind of that."""
    sent = stream.next()
    assert sent is not None
    update, kind = sent
    return apply(EMPTY if kind == "snapshot" else program, update), kind


async def test_a_lost_stream_goes_on_from_what_the_node_has() -> None:
    hub, streams, _ = await begun()
    first = streams.open("n1")
    program, kind = receive(first)
    assert (kind, first.resumed) == ("snapshot", False)
    first.acknowledge(1)
    resume = first.resume
    streams.close(first)
    grow(hub, 1, 2)
    second = streams.open("n1", resume)
    update, kind = second.next() or (None, "")
    assert (kind, second.resumed, second.revision) == ("resumed", True, 1)
    assert update is not None
    assert (update.policies, update.endpoints, len(update.group_changes)) == ((), (), 1)
    assert apply(program, update) == hub.programs["n1"]


async def test_a_node_that_missed_nothing_is_told_so() -> None:
    """It has to know that it is up to date; an empty message says it."""
    _, streams, _ = await begun()
    first = streams.open("n1")
    first.next()
    streams.close(first)
    sent = streams.open("n1", first.resume).next()
    assert sent is not None
    assert (bool(sent[0]), sent[1]) == (False, "resumed")


async def test_it_goes_on_from_any_message_that_may_be_in_the_kernel() -> None:
    """Whether its acknowledgement came or not, and also if the loss of the first stream is not noticed here yet."""
    hub, streams, _ = await begun()
    first = streams.open("n1")
    program, names = EMPTY, []
    for number in range(4):
        program, _ = receive(first, program)
        names.append((first.resume, program))
        grow(hub, number)
    first.acknowledge(2)
    for closed in (False, True):
        if closed:
            streams.close(first)
        for resume, had in names[1:]:
            stream = streams.open("n1", resume)
            assert receive(stream, had) == (hub.programs["n1"], "resumed")
            streams.close(stream)
        assert receive(streams.open("n1", names[0][0]))[1] == "snapshot", "what comes after it is acknowledged"


async def test_a_stream_that_ends_before_it_got_anything_loses_nothing() -> None:
    hub, streams, _ = await begun()
    first = streams.open("n1")
    program, _ = receive(first)
    first.acknowledge(1)
    streams.close(first)
    for _ in range(5):
        grow(hub, 1)
        stream = streams.open("n1", first.resume)
        streams.close(stream)
    assert receive(streams.open("n1", first.resume), program) == (hub.programs["n1"], "resumed")


async def test_what_another_replica_or_another_node_had_is_not_gone_on_from() -> None:
    _, streams, _ = await begun()
    _, others, _ = await begun()
    theirs, mine = others.open("n1"), streams.open("n1")
    theirs.next()
    mine.next()
    for node, resume in (("n1", theirs.resume), ("n2", mine.resume), ("n1", "nonsense")):
        assert receive(streams.open(node, resume))[1] == "snapshot"


async def test_a_node_that_has_gone_is_remembered_for_a_time() -> None:
    _, streams, clock = await begun()
    first = streams.open("n1")
    first.next()
    streams.close(first)
    clock.now += KEPT_SECONDS + 1
    assert receive(streams.open("n1", first.resume))[1] == "snapshot"


async def test_only_so_many_nodes_are_remembered() -> None:
    _, streams, _ = await begun()
    ended = []
    for number in range(KEPT_NODES + 1):
        ended.append(streams.open(f"m{number}"))
        ended[-1].next()
        streams.close(ended[-1])
    assert not streams.open("m0", ended[0].resume).resumed
    assert streams.open(f"m{KEPT_NODES}", ended[-1].resume).resumed


async def test_a_node_that_never_reads_holds_nothing_but_the_difference() -> None:
    """It is taken from as often as it reads: what is pending is one program and a mark, however much happens."""
    hub, streams, _ = await begun()
    stuck, brisk = streams.open("n1"), streams.open("n1")
    program, _ = receive(stuck)
    seen, _ = receive(brisk)
    for number in range(300):
        grow(hub, number)
        seen, kind = receive(brisk, seen)
        assert kind == "delta"
        brisk.acknowledge(brisk.revision)
    assert len(stuck.programs()) == 1
    assert stuck.pending
    assert receive(stuck, program) == (seen, "merged")


async def test_a_node_that_reads_and_never_acknowledges_is_bounded_too() -> None:
    hub, streams, clock = await begun()
    stream = streams.open("n1")
    stream.next()
    for number in range(300):
        clock.now += 1
        grow(hub, number)
        stream.next()
    assert (stream.revision, len(stream.programs())) == (301, 4)
    assert stream.lag > 200
    assert stream.acknowledge(stream.revision + 1) == [], "it can not have what was not sent"
    stream.acknowledge(301)
    assert (stream.lag, stream.acknowledged, len(stream.programs())) == (0, 301, 1)


async def test_lag_is_the_age_of_the_oldest_message_that_is_not_acknowledged() -> None:
    hub, streams, clock = await begun()
    stream = streams.open("n1")
    stream.next()
    clock.now += 2
    grow(hub, 1)
    stream.next()
    clock.now += 1
    assert stream.lag == 3
    assert stream.acknowledge(1) == [3]
    assert stream.lag == 1
    assert stream.acknowledge(1) == []
    assert stream.acknowledge(2) == [1]
    assert (stream.lag, stream.age) == (0, 3)


async def test_a_policy_is_enforced_where_it_was_acknowledged_as_it_is_now() -> None:
    hub, streams, _ = await begun()
    hub.put([EndpointPut(Pod("x", "web2", "10.0.0.9", {"app": "web"}, node="n2").endpoint())])
    key = "default/knp.default.x.p"
    one = streams.open("n1")
    assert where(hub.programs, streams)[key] == Where((), ("n1", "n2"))
    assert await where_by_and_by(hub.programs, streams) == where(hub.programs, streams)
    one.next()
    assert where(hub.programs, streams)[key] == Where((), ("n1", "n2"))
    one.acknowledge(1)
    assert where(hub.programs, streams)[key] == Where(("n1",), ("n2",))
    hub.put([put(network_policy("x", "p", {"ingress": [{}]}))])
    assert where(hub.programs, streams)[key] == Where((), ("n1", "n2"))
    one.next()
    one.acknowledge(2)
    assert where(hub.programs, streams)[key] == Where(("n1",), ("n2",))
    assert [(node, count, stream is one) for node, count, stream in nodes(hub.programs, streams)] == [
        ("n1", 1, True), ("n2", 1, False)]
    hub.put([EndpointGone(WEB.endpoint().attachment)])
    assert [(node, count) for node, count, _ in nodes(hub.programs, streams)] == [("n1", 0), ("n2", 1)]
