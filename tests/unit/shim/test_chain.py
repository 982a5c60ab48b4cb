"""The chain for every combination of failures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import chain as joined

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.cni.v1 import cni_pb2
from shim import chain
from shim.chain import BACKWARD, FORWARD
from shim.deadline import Deadline
from shim.environment import Environment
from shim.errors import ALREADY_EXISTS, CNI_CODE, FAILED_PRECONDITION, NOT_FOUND, CniError, RpcError

INVOCATION = chain.Invocation(Environment("ADD", container_id="c1"), b"{}")
SERVICES = ("ipam", "policy", "endpoint", "node")
STATUS = st.integers(1, 16)
FAILURES = st.dictionaries(st.sampled_from(SERVICES), STATUS)
THIRTY_SECONDS = 30.0


class Services:
    """Answer at once, with an error where there is one; keep what they were asked and how long they had."""

    def __init__(self, **failing: dict[str, int]) -> None:
        self.failing = failing
        self.asked: list[tuple[str, ...]] = []
        """What was asked at once, such as ("ipam.Add", "policy.Add")."""
        self.times: list[float] = []
        self.calls: dict[str, cni_pb2.Call] = {}

    def __call__(self, calls: Sequence[tuple[str, str, bytes]], deadline: Deadline) -> list[bytes | RpcError]:
        assert len({request for _, _, request in calls}) == 1
        verbs = [method.removeprefix("Plugin/") for _, method, _ in calls]
        self.asked.append(tuple(f"{call[0]}.{verb}" for call, verb in zip(calls, verbs, strict=True)))
        self.times.append(deadline.left())
        return [self._answer(service, verb, request)
                for (service, _, request), verb in zip(calls, verbs, strict=True)]

    def _answer(self, service: str, verb: str, request: bytes) -> bytes | RpcError:
        self.calls[f"{service}.{verb}"] = cni_pb2.AddRequest.FromString(request).call
        assert self.calls[f"{service}.{verb}"].container_id == "c1"
        if status := self.failing.get(verb, {}).get(service):
            return RpcError(status, f"{service} failed", answered=True)
        before = json.loads(self.calls[f"{service}.{verb}"].context or b"{}")
        context = json.dumps({**before, service: {"said": verb}}).encode()
        return cni_pb2.AddResponse(result=service.encode(), context=context).SerializeToString()

    @property
    def until(self) -> Deadline:
        return Deadline(time.monotonic() + THIRTY_SECONDS)


def steps(stages: Sequence[tuple[str, ...]], verb: str) -> list[tuple[str, ...]]:
    return [tuple(f"{service}.{verb}" for service in stage) for stage in stages]


def broken(failing: dict[str, int]) -> dict[str, int]:
    """Failures of DEL: what a service does not find is deleted."""
    return {service: status for service, status in failing.items() if status != NOT_FOUND}


PASSING = {1, 4, 8, 10, 11, 14}
"""Statuses of calls that may succeed later: CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE
(compacted) and UNAVAILABLE."""


def undone(stages: Sequence[tuple[str, ...]], failing: dict[str, int]) -> list[tuple[str, ...]]:
    """What DEL asks: all, but ipam only when those before it have succeeded."""
    stuck = any(service in broken(failing) for stage in stages[:-1] for service in stage)
    return [tuple(s for s in stage if s != "ipam" or not stuck) for stage in stages]


def back_from(stage: int) -> list[tuple[str, ...]]:
    """What DEL has to undo of an ADD that came to that stage, counted from 1."""
    came = {service for each in FORWARD[:stage] for service in each}
    return [tuple(service for service in each if service in came) for each in BACKWARD]


@given(FAILURES, FAILURES)
def test_an_add_is_undone_exactly_as_far_as_it_came(adds: dict[str, int], dels: dict[str, int]) -> None:
    services = Services(Add=adds, Del=dels)
    if not adds:
        assert chain.add(INVOCATION, services, services.until) == b"node"
        assert services.asked == steps(FORWARD, "Add")
        return
    with pytest.raises(CniError) as caught:
        chain.add(INVOCATION, services, services.until)
    came = next(number for number, stage in enumerate(FORWARD, 1) if adds.keys() & set(stage))
    failed = [service for service in FORWARD[came - 1] if service in adds]
    there = any(adds[service] == ALREADY_EXISTS for service in failed)
    back = [] if there else undone(back_from(came), dels)
    assert services.asked == steps(FORWARD[:came], "Add") + steps([stage for stage in back if stage], "Del")
    assert (caught.value.code, caught.value.message) == (CNI_CODE[adds[failed[0]]], f"{failed[0]}: {failed[0]} failed")
    left = [service for stage in back for service in stage if service in broken(dels)]
    others = [*failed[1:], *left]
    assert caught.value.unfinished == bool(left and PASSING.issuperset(dels[service] for service in left))
    assert caught.value.details.count("failed too") == len(others)
    assert all(f"{other} failed too" in caught.value.details for other in others)
    done = [service for stage in back for service in sorted(stage, key=dels.__contains__) if service not in left]
    assert f"rolled back {', '.join(done) or 'nothing'}" in caught.value.details


@given(FAILURES.filter(bool))
def test_what_was_there_before_is_never_rolled_back(adds: dict[str, int]) -> None:
    services = Services(Add=adds)
    with pytest.raises(CniError) as caught:
        chain.add(INVOCATION, services, services.until, there_before=True)
    assert [step for step in services.asked if "Del" in str(step)] == []
    assert "rolled back nothing" in caught.value.details
    assert not caught.value.unfinished


def test_what_ipam_and_policy_say_goes_on_together() -> None:
    """The result is ipam's: policy has none to add; the contexts are one, whose members are of both."""
    services = Services()
    chain.add(INVOCATION, services, services.until)
    for first in ("ipam.Add", "policy.Add"):
        assert (services.calls[first].result, services.calls[first].context) == (b"", b"")
    endpoint, node = services.calls["endpoint.Add"], services.calls["node.Add"]
    assert (endpoint.result, node.result) == (b"ipam", b"endpoint")
    assert json.loads(endpoint.context) == {"ipam": {"said": "Add"}, "policy": {"said": "Add"}}
    assert json.loads(node.context) == {**json.loads(endpoint.context), "endpoint": {"said": "Add"}}


VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3),
                      max_leaves=4)
MEMBERS = st.dictionaries(st.text(min_size=1, max_size=4), VALUES, max_size=3)


@given(st.lists(MEMBERS, max_size=3), st.sampled_from(["", " ", "\n"]))
def test_merged_contexts_have_the_members_of_all(contexts: list[dict[str, object]], space: str) -> None:
    named = [{f"{number}{key}": value for key, value in one.items()} for number, one in enumerate(contexts)]
    raw = [f"{{{space}{json.dumps(one)[1:-1]}{space}}}".encode() for one in named]
    assert json.loads(chain.merged([*raw, b""]) or b"{}") == dict(joined.from_iterable(one.items() for one in named))


@given(FAILURES)
def test_del_asks_everyone_but_frees_no_address_in_use(failing: dict[str, int]) -> None:
    services = Services(Del=failing)
    asked = undone(BACKWARD, failing)
    failed = [service for stage in asked for service in stage if service in broken(failing)]
    if failed:
        with pytest.raises(CniError) as caught:
            chain.delete(INVOCATION.request(), services, services.until)
        assert caught.value.unfinished == PASSING.issuperset(failing[service] for service in failed)
        assert caught.value.code == CNI_CODE[failing[failed[0]]]
        assert caught.value.message.startswith(f"{failed[0]}: ")
        assert all(f"{service} failed too" in caught.value.details for service in failed[1:])
    else:
        chain.delete(INVOCATION.request(), services, services.until)
    assert services.asked == steps([stage for stage in asked if stage], "Del")


@given(st.sets(st.sampled_from(SERVICES), min_size=1))
def test_what_was_not_even_reached_is_not_undone(away: set[str]) -> None:
    """As with no socket there: then the address of the others is freed, whatever is away."""
    services = Services()

    def partly(calls: Sequence[tuple[str, str, bytes]], deadline: Deadline) -> list[bytes | RpcError]:
        return [RpcError(14, "away", unasked=True) if call[0] in away else each
                for call, each in zip(calls, services(calls, deadline), strict=True)]

    with pytest.raises(CniError) as caught:
        chain.add(INVOCATION, partly, services.until)
    came = next(number for number, stage in enumerate(FORWARD, 1) if away & set(stage))
    back = [tuple(s for s in stage if s not in away) for stage in back_from(came)]
    assert services.asked == steps(FORWARD[:came], "Add") + steps([stage for stage in back if stage], "Del")
    assert not caught.value.unfinished


@given(FAILURES)
def test_gc_asks_everyone_and_reports_the_first(failing: dict[str, int]) -> None:
    services = Services(GC=failing)
    failed = [service for stage in BACKWARD for service in stage if service in failing]
    if failed:
        with pytest.raises(CniError) as caught:
            chain.collect(INVOCATION, services, services.until)
        assert caught.value.code == CNI_CODE[failing[failed[0]]]
        assert all(f"{service} failed too" in caught.value.details for service in failed[1:])
    else:
        chain.collect(INVOCATION, services, services.until)
    assert services.asked == steps(BACKWARD, "GC")


@given(FAILURES)
def test_check_asks_all_at_once_and_reports_the_first(failing: dict[str, int]) -> None:
    services = Services(Check=failing)
    if failing:
        with pytest.raises(CniError) as caught:
            chain.check(INVOCATION, services, services.until)
        first, *others = [service for service in SERVICES if service in failing]
        assert caught.value.code == CNI_CODE[failing[first]]
        assert all(f"{service} failed too" in caught.value.details for service in others)
    else:
        chain.check(INVOCATION, services, services.until)
    assert services.asked == steps([SERVICES], "Check")


@given(FAILURES)
def test_status_is_50_and_51_if_pods_that_run_are_touched(failing: dict[str, int]) -> None:
    """CNI 1.1, "STATUS"; the graver of the two is told."""
    services = Services(Status=failing)
    if failing:
        with pytest.raises(CniError) as caught:
            chain.status(INVOCATION, services, services.until)
        code = CNI_CODE[next(failing[service] for service in SERVICES if service in failing)]
        limited = FAILED_PRECONDITION in failing.values()
        assert caught.value.code == (51 if limited else 50 if code == 11 else code)
    else:
        chain.status(INVOCATION, services, services.until)
    assert services.asked == steps([SERVICES], "Status")


def test_the_rollback_has_time_that_the_chain_forward_can_not_use() -> None:
    services = Services(Add={"node": 14})
    with pytest.raises(CniError):
        chain.add(INVOCATION, services, services.until)
    forward, backward = services.times[:3], services.times[3:]
    assert all(time == pytest.approx(22.5, abs=1) for time in forward)
    assert backward == pytest.approx([15, 30], abs=1)  # half of what is left, the last stage all of it


@pytest.mark.parametrize(("answer", "why"), [
    (b"\xff", "an answer that does not decode"),
    (cni_pb2.AddResponse(result=b"{}", context=b"[1]").SerializeToString(), "a context that is not a JSON object"),
])
@pytest.mark.parametrize("service", ["ipam", "policy"])
def test_an_answer_that_can_not_be_gone_on_with_fails_its_step(service: str, answer: bytes, why: str) -> None:
    services = Services()

    def broken(calls: Sequence[tuple[str, str, bytes]], deadline: Deadline) -> list[bytes | RpcError]:
        return [answer if call[0] == service else each
                for call, each in zip(calls, services(calls, deadline), strict=True)]

    with pytest.raises(CniError, match=f"{service}: {why}") as caught:
        chain.add(INVOCATION, broken, services.until)
    assert caught.value.code == 5
    assert services.asked == [("ipam.Add", "policy.Add"), ("policy.Del", "ipam.Del")]
