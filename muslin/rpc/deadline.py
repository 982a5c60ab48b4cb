"""How long a request may take."""

from __future__ import annotations

from typing import Any

import grpc

from muslin.errors import TimedOut

DEFAULT = 10.0
"""Seconds for a request whose caller has set no deadline."""
_MARGIN = 0.25
"""Seconds, a tenth of the time at most, that are kept to tell the caller what is wrong before it gives up."""


def remaining(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Seconds that the work may take: a little less than until the caller gives up.

    Raises:
        TimedOut: it has.
    """
    if (seconds := context.time_remaining()) is None:
        return DEFAULT
    if seconds <= 0:
        raise TimedOut("the caller's deadline has passed")
    return seconds - margin(seconds)


def margin(seconds: float) -> float:
    """Of the seconds that a caller waits, how many are kept to tell it what is wrong."""
    return min(_MARGIN, seconds / 10)
