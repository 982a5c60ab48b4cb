"""The request id."""

from __future__ import annotations

import re

import pytest

from shim import trace

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("text", [VALID, VALID[:-2] + "ff", "cc" + VALID[2:], "cc" + VALID[2:] + "-abc"])
def test_a_valid_trace_goes_on_under_an_id_of_our_own(text: str) -> None:
    made = trace.traceparent(text)
    assert re.fullmatch(f"00-4bf92f3577b34da6a3ce929d0e0e4736-[0-9a-f]{{16}}-{text[53:55]}", made)
    assert made[36:52] != text[36:52]
    assert trace.request_id(made) == "4bf92f3577b34da6a3ce929d0e0e4736"
    said = trace.invocation("ADD", 1_700_000_000_123_456_789, text)
    assert said == "ADD 1700000000123456789 00f067aa0ba902b7"


@pytest.mark.parametrize("text", [
    "", "x", "ff" + VALID[2:], VALID + "-abc", VALID.upper(), VALID[:-1], VALID + "\n", VALID.replace("4bf9", "4bg9"),
    "00-" + "0" * 32 + VALID[35:], VALID[:36] + "0" * 16 + "-01", "cc" + VALID[2:] + "-" + "a" * 60,
    VALID.replace("-", "_")])
def test_anything_else_is_replaced(text: str) -> None:
    made = trace.traceparent(text)
    assert made != text
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", made)
    assert trace.traceparent(text, sampled=False).endswith("-00")
    assert trace.invocation("DEL", 1, text) == "DEL 1"


def test_new_ones_differ() -> None:
    assert trace.traceparent("") != trace.traceparent("")
