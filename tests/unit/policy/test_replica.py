"""The replica: what it does with its own memory."""

from __future__ import annotations

import asyncio
import gc

from muslin.etcd import Etcd
from services.policy.endpoints import SOURCE as ENDPOINTS
from services.policy.replica import OBJECTS, Replica


async def test_the_state_is_taken_out_of_the_collectors_sight_once_it_is_complete() -> None:
    """Not before: what is half there is mostly thrown away."""
    async with Etcd(["127.0.0.1:1"]) as etcd:
        replica, before = Replica(etcd), gc.get_freeze_count()
        setting = asyncio.create_task(replica.set_aside())
        try:
            replica.hub.complete(OBJECTS)
            await asyncio.sleep(0)
            assert gc.get_freeze_count() == before
            replica.hub.complete(ENDPOINTS)
            async with asyncio.timeout(10):
                await setting
            assert gc.get_freeze_count() > before
        finally:
            gc.unfreeze()
            setting.cancel()
