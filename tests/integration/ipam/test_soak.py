"""A short soak: `make soak` is the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.history import Attachment, History

ONE, OTHER = (Attachment(f"c{number}", f"p{number}", "n1") for number in range(2))


@pytest.mark.slow
def test_twenty_seconds_of_faults_violate_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.soak", "--seconds", "20"], check=False, capture_output=True,
                          text=True, timeout=300, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stdout + done.stderr
    made, faults, violations = (int(number) for number in re.findall(
        r"^(?:attachments made|faults injected|violations) +(\d+)", done.stdout, re.MULTILINE))
    assert (made > 20, faults > 2, violations) == (True, True, 0), done.stdout


def add(history: History, attachment: Attachment, address: str) -> None:
    history.given(history.invoke("ADD", attachment), attachment, address)


def test_the_history_notices_an_address_with_two_holders() -> None:
    history = History(0)
    add(history, ONE, "10.0.0.1")
    add(history, OTHER, "10.0.0.1")
    assert "while soak/c0/eth0 holds it" in history.violations[0]


def test_the_history_notices_another_address_for_the_same_attachment() -> None:
    history = History(0)
    add(history, ONE, "10.0.0.1")
    add(history, ONE, "10.0.0.2")
    assert "was given 10.0.0.1, and then 10.0.0.2" in history.violations[0]


def test_the_history_notices_an_address_that_has_not_cooled_down() -> None:
    for cool_down, expected in ((100, 1), (0, 0)):
        history = History(cool_down)
        add(history, ONE, "10.0.0.1")
        history.invoke("DEL", ONE)
        add(history, OTHER, "10.0.0.1")
        assert len(history.violations) == expected
