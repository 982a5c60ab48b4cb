"""A daemon that begins says what it waits for at once; one that served is silent about what is soon over."""

from __future__ import annotations

from services.node.across.trouble import Trouble


def test_before_it_has_served_all_is_told() -> None:
    trouble = Trouble(10.0)
    assert trouble.told("kernel: starting", 0.0) == "kernel: starting"
    assert trouble.told("policy stream: none", 100.0) == "policy stream: none"


def test_what_is_soon_over_is_not_told_and_what_lasts_is() -> None:
    trouble = Trouble(10.0)
    assert trouble.told("", 0.0) == ""
    assert trouble.told("gone", 9.0) == ""
    assert trouble.told("", 9.5) == ""
    assert trouble.told("gone", 19.0) == ""
    assert trouble.told("gone", 19.5) == "gone"
    assert trouble.told("another", 20.0) == "another"
    assert trouble.told("", 21.0) == ""
