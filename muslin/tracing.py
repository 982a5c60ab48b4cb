"""Spans of what a call came to, sent to a collector by OTLP (OpenTelemetry) where one is named; off otherwise.

The request id is the trace: the plugin makes both, or takes the runtime's. Each call that is served under one becomes a
span, whose parts (`muslin.log.took`) and onward calls are below it. The plugin itself imports nothing and sends
nothing: it says when it began, and the node daemon writes its span when it has gone.

Nothing of OpenTelemetry is imported before `start`, which needs the extra `muslin[tracing]`. What is sent are names of
methods and keys, durations and statuses; never what a message holds.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from muslin import log as logs

if TYPE_CHECKING:
    from muslin.otlp import Exporting, Span

__all__ = ["INVOCATION_METADATA", "Invocation", "active", "begin", "invocation", "start", "stop", "use"]

log = logging.getLogger(__name__)

INVOCATION_METADATA = "muslin-invocation"
"""What the plugin says of itself to the node daemon: command, when it began (Unix time in ns), and the runtime's span,
16 hex digits, if it has one."""

_INVOCATION = re.compile(r"([A-Z]{1,16}) ([0-9]{1,19})(?: ([0-9a-f]{16}))?")
_STOP_SECONDS = 2.0
"""How long a service that ends waits for the collector to take what is left."""

_endpoint = ""
_exporting: Exporting | None = None


def use(endpoint: str) -> None:
    """Name the collector: `http://host:port`, `https://host:port` or `unix:/path`; "" for none. Once in a process."""
    global _endpoint
    _endpoint = endpoint


def start(service: str) -> None:
    """Begin sending, if a collector is named. A process without the extra says so and runs without traces."""
    global _exporting
    if not _endpoint:
        return
    try:
        from muslin.otlp import Exporting

        _exporting = Exporting(service, _endpoint)
    except ImportError as problem:
        log.warning("no traces are sent to %s: %s; install muslin[tracing]", _endpoint, problem)
        return
    logs.parts = _part
    log.info("traces are sent to %s", _endpoint)


def stop() -> None:
    """Send what is left, for two seconds at most, and end. It blocks: call it last."""
    global _exporting
    ending, _exporting = _exporting, None
    logs.parts = None
    if ending is not None:
        ending.stop(_STOP_SECONDS)


def active() -> bool:
    """Whether spans are sent."""
    return _exporting is not None


def begin(method: str) -> Span | None:
    """The span of a call to `/package.Service/Method` under the current request; None without one, or when off."""
    header = logs.traceparent.get()
    return _exporting.serving(method, header) if _exporting is not None and header else None


class Invocation:
    """One run of the plugin, as it said of itself."""

    def __init__(self, header: str, command: str, began: int, parent: str) -> None:
        self._header, self._command, self._began, self._parent = header, command, began, parent

    def end(self) -> None:
        """It has gone: write its span."""
        if _exporting is not None:
            _exporting.invoked(self._header, self._command, self._began, self._parent)


def invocation(metadata: Iterable[tuple[str, str | bytes]]) -> Invocation | None:
    """Of the metadata of a call that the plugin made; None if it is somebody else's, or malformed."""
    found = dict(metadata)
    header, said = found.get("traceparent", ""), found.get(INVOCATION_METADATA, "")
    match = _INVOCATION.fullmatch(said) if isinstance(said, str) else None
    if match is None or not isinstance(header, str) or not logs.TRACEPARENT.fullmatch(header):
        return None
    return Invocation(header, match[1], int(match[2]), match[3] or "")


def _part(since: float, what: str) -> None:
    """A part of the current request is over, that began at `since` by time.perf_counter()."""
    if _exporting is not None and (header := logs.traceparent.get()):
        _exporting.part(header, what, int((time.perf_counter() - since) * 1e9))
