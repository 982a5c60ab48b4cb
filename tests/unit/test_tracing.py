"""What tracing is while it is off, and what it takes for the word of a plugin."""

from __future__ import annotations

import subprocess
import sys

import pytest

from muslin import log, tracing
from shim import trace

HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_nothing_of_it_is_imported_where_no_collector_is_named() -> None:
    said = subprocess.run([sys.executable, "-c", (
        "import sys; from muslin import rpc, tracing; tracing.start('x');"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])")],
        capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_no_span_begins_while_it_is_off() -> None:
    log.adopt(HEADER)
    assert tracing.begin("/a.B/C") is None
    assert log.traceparent.get() == HEADER


@pytest.mark.parametrize("inherited", ["", HEADER])
def test_what_the_plugin_says_of_itself_is_understood(inherited: str) -> None:
    said = trace.invocation("ADD", 1_700_000_000_123_456_789, inherited)
    assert tracing.invocation((("traceparent", HEADER), (tracing.INVOCATION_METADATA, said))) is not None


@pytest.mark.parametrize("said", ["", "ADD", "ADD x", "add 1", "ADD 1 x", "ADD 1 00f067aa0ba902b7 ", "ADD " + "1" * 20,
                                  "A" * 17 + " 1"])
def test_anything_else_is_not(said: str) -> None:
    assert tracing.invocation((("traceparent", HEADER), (tracing.INVOCATION_METADATA, said))) is None
    assert tracing.invocation(((tracing.INVOCATION_METADATA, "ADD 1"),)) is None
    assert tracing.invocation((("traceparent", "x"), (tracing.INVOCATION_METADATA, "ADD 1"))) is None
