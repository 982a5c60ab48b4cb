"""An end to work on the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from muslin.errors import TimedOut


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Give up after so many seconds.

    Raises:
        TimedOut: then.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TimedOut(f"no answer from etcd within {seconds:.1f} s; whether it was done is unknown, ask "
                       "again") from None
