"""Dividing the time."""

from __future__ import annotations

import pytest

from shim import deadline
from shim.deadline import Deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(deadline, "monotonic", lambda: now[0])
    return now


def test_what_is_left(clock: list[float]) -> None:
    until = Deadline(103.0)
    assert (until.remaining(), until.left()) == (3.0, 3.0)
    clock[0] = 103.0
    assert until.left() == 0
    with pytest.raises(TimeoutError):
        until.remaining()


def test_slow_steps_leave_time_for_those_after_them(clock: list[float]) -> None:
    whole = Deadline(108.0)
    used = []
    for steps in (4, 3, 2, 1):
        part = whole.share(steps)
        used.append(part.left())
        clock[0] = part.at
    assert used == [4.0, 2.0, 1.0, 1.0]
    assert clock[0] == whole.at


def test_a_deadline_that_passed_has_no_shares(clock: list[float]) -> None:
    assert Deadline(90.0).share(3).left() == 0
