"""One line an event: time, level, service, request id, message.

The request id is the trace id of the W3C `traceparent` that libcni hands to the plugin, so one ADD can be followed
through the shim and every service with one grep.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TextIO

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""Trace id of the request being served, 32 hex digits; empty outside one."""

traceparent: contextvars.ContextVar[str] = contextvars.ContextVar("traceparent", default="")
"""The whole header, handed on by channels."""

TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def adopt(header: str) -> None:
    """Make a `traceparent` the current request's; one that is malformed (W3C Trace Context, 3.2) counts as absent."""
    match = TRACEPARENT.fullmatch(header)
    request_id.set(match.group(1) if match else "")
    traceparent.set(header if match else "")


_REQUEST = "muslin_request"
"""The attribute of a record that was kept for later: whose request it came from."""


parts: Callable[[float, str], None] | None = None
"""Who else is to be told how long the parts of a request took (muslin.tracing)."""


def took(logger: logging.Logger, since: float, what: str) -> None:
    """At level debug: how long a part of a request took, from a moment by time.perf_counter() until now."""
    if parts is not None:
        parts(since, what)
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("took %.2f ms: %s", (time.perf_counter() - since) * 1000, what)


class Formatter(logging.Formatter):
    """A record as a line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC), level, service, request, logger, message; a traceback on lines of its own."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        request = getattr(record, _REQUEST) if hasattr(record, _REQUEST) else request_id.get()
        line = (f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower()} {self._service}"
                f"{' req=' + request if request else ''} {record.name}: {record.getMessage()}")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class Deferred(logging.StreamHandler[TextIO]):
    """Writes what an event loop's turn logged once that turn is over, in one write.

    Formatting and writing a line takes about as long as a fifth of a call, and an answer need not wait for it. What is
    worse than information is written at once, in its order; so is all where no loop runs, and at exit. A process that
    is killed loses the lines of one turn at most.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._kept: list[logging.LogRecord] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that is going to write what is kept."""
        atexit.register(self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, or write it and those kept before it."""
        setattr(record, _REQUEST, request_id.get())
        record.msg, record.args = record.getMessage(), None  # what it tells of may be another by then
        self._kept.append(record)
        if record.levelno <= logging.INFO:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                pass  # a thread's, or before the loop began
            else:
                if self._loop is not loop:
                    self._loop = loop
                    loop.call_soon(self.flush)
                return
        self.flush()

    def flush(self) -> None:
        """Write what was kept."""
        with self.lock or nullcontext():
            kept, self._kept, self._loop = self._kept, [], None
            if not kept:
                return
            try:
                self.stream.write("".join(self.format(record) + self.terminator for record in kept))
                self.stream.flush()
            except Exception:  # noqa: BLE001  logging must not bring down who logs: the standard handlers do the same
                self.handleError(kept[-1])


def setup(service: str, level: str = "info") -> None:
    """Send the log of this process to stderr."""
    # What no line says need not be found out for it (the logging HOWTO's "Optimization"): a third of a line's cost.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = Deferred(sys.stderr)
    handler.setFormatter(Formatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
