"""The chain for every combination of failures."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.cni.v1 import cni_pb2
from shim import chain
from shim.configuration import SERVICES
from shim.deadline import Deadline
from shim.environment import Environment
from shim.errors import ALREADY_EXISTS, CNI_CODE, CniError, RpcError

INVOCATION = chain.Invocation(Environment("ADD", container_id="c1"), b"{}")
STATUS = st.integers(1, 16)
FAILURES = st.dictionaries(st.sampled_from(SERVICES), STATUS)
THIRTY_SECONDS = 30.0


class Services:
    """Answer at once, with an error where there is one; keep what they were asked and how long they had."""

    def __init__(self, **failing: dict[str, int]) -> None:
        self.failing = failing
        self.asked: list[str] = []
        self.times: list[float] = []

    def __call__(self, service: str, verb: str, request: bytes, deadline: Deadline) -> bytes:
        assert cni_pb2.AddRequest.FromString(request).call.container_id == "c1"
        self.asked.append(f"{service}.{verb}")
        self.times.append(deadline.left())
        if status := self.failing.get(verb, {}).get(service):
            raise RpcError(status, f"{service} failed", answered=True)
        return cni_pb2.AddResponse(result=service.encode()).SerializeToString()

    @property
    def until(self) -> Deadline:
        return Deadline(time.monotonic() + THIRTY_SECONDS)


@given(FAILURES, FAILURES)
def test_an_add_is_undone_exactly_as_far_as_it_came(adds: dict[str, int], dels: dict[str, int]) -> None:
    services = Services(Add=adds, Del=dels)
    if not adds:
        assert chain.add(INVOCATION, services, services.until) == b"node"
        assert services.asked == [f"{service}.Add" for service in SERVICES]
        return
    with pytest.raises(CniError) as caught:
        chain.add(INVOCATION, services, services.until)
    first = min(SERVICES.index(service) for service in adds)
    service, status = SERVICES[first], adds[SERVICES[first]]
    undone = () if status == ALREADY_EXISTS else SERVICES[:first + 1][::-1]
    assert services.asked == [f"{s}.Add" for s in SERVICES[:first + 1]] + [f"{s}.Del" for s in undone]
    assert (caught.value.code, caught.value.message) == (CNI_CODE[status], f"{service}: {service} failed")
    for other in undone:
        assert (f"{other} failed too" in caught.value.details) == (other in dels)


@given(FAILURES, st.sampled_from(["Del", "GC"]))
def test_del_and_gc_ask_everyone_and_report_the_first(failing: dict[str, int], verb: str) -> None:
    services = Services(**{verb: failing})
    run = chain.delete if verb == "Del" else chain.collect
    backwards = SERVICES[::-1]
    if failing:
        with pytest.raises(CniError) as caught:
            run(INVOCATION, services, services.until)
        first, *others = [service for service in backwards if service in failing]
        assert caught.value.code == CNI_CODE[failing[first]]
        assert caught.value.message.startswith(f"{first}: ")
        assert all(f"{service} failed too" in caught.value.details for service in others)
    else:
        run(INVOCATION, services, services.until)
    assert services.asked == [f"{service}.{verb}" for service in backwards]


@given(FAILURES, st.sampled_from(["Check", "Status"]))
def test_check_and_status_stop_at_the_first(failing: dict[str, int], verb: str) -> None:
    services = Services(**{verb: failing})
    run = chain.check if verb == "Check" else chain.status
    if failing:
        with pytest.raises(CniError) as caught:
            run(INVOCATION, services, services.until)
        code = CNI_CODE[next(failing[service] for service in SERVICES if service in failing)]
        assert caught.value.code == (50 if verb == "Status" and code == 11 else code)
    else:
        run(INVOCATION, services, services.until)
    reached = next((number + 1 for number, service in enumerate(SERVICES) if service in failing), len(SERVICES))
    assert services.asked == [f"{service}.{verb}" for service in SERVICES[:reached]]


def test_the_rollback_has_time_that_the_chain_forward_can_not_use() -> None:
    services = Services(Add={"node": 14})
    with pytest.raises(CniError):
        chain.add(INVOCATION, services, services.until)
    forward, backward = services.times[:4], services.times[4:]
    assert all(time == pytest.approx(22.5, abs=1) for time in forward)
    assert backward == pytest.approx([15, 15, 15, 30], abs=1)  # half of what is left, the last all of it


def test_an_answer_that_does_not_decode_fails_its_step() -> None:
    asked = []

    def broken(service: str, verb: str, request: bytes, deadline: Deadline) -> bytes:
        asked.append(f"{service}.{verb}")
        return b"\xff"

    with pytest.raises(CniError, match="ipam: an answer that does not decode") as caught:
        chain.add(INVOCATION, broken, Deadline(time.monotonic() + 30))
    assert caught.value.code == 5
    assert asked == ["ipam.Add", "ipam.Del"]
