"""One line an event: time, level, service, request id, message.

The request id is the trace id of the W3C `traceparent` that libcni hands to the plugin, so one ADD can be followed
through the shim and every service with one grep.
"""

from __future__ import annotations

import contextvars
import logging
import re
import sys
import time

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""Trace id of the request being served, 32 hex digits; empty outside one."""

traceparent: contextvars.ContextVar[str] = contextvars.ContextVar("traceparent", default="")
"""The whole header, handed on by channels."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def adopt(header: str) -> None:
    """Make a `traceparent` the current request's; one that is malformed (W3C Trace Context, 3.2) counts as absent."""
    match = _TRACEPARENT.fullmatch(header)
    request_id.set(match.group(1) if match else "")
    traceparent.set(header if match else "")


class _Formatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        request = request_id.get()
        line = (f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower()} {self._service}"
                f"{' req=' + request if request else ''} {record.name}: {record.getMessage()}")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def setup(service: str, level: str = "info") -> None:
    """Send the log of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
