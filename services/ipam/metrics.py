"""Metrics of the address manager."""

from __future__ import annotations

from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from services.ipam import pools
from services.ipam.pools import Pool
from services.ipam.view import View

ASSIGNED = Counter("muslin_ipam_assigned_total", "Addresses given to attachments that had none.")
RELEASED = Counter("muslin_ipam_released_total", "Addresses freed.")
CONFLICTS = Counter("muslin_ipam_conflicts_total",
                    "Transactions decided anew because another process had changed a record first.")
UNKNOWN = Counter("muslin_ipam_unknown_total", "Transactions whose outcome was not learned.")
EXHAUSTED = Counter("muslin_ipam_exhausted_total", "Requests refused because no address was left.")
BATCH = Histogram("muslin_ipam_batch_requests", "Requests committed by one transaction.",
                  buckets=(1, 2, 4, 8, 16, 32, 64, 128))
POOL_USED = Gauge("muslin_ipam_pool_used_addresses", "Addresses in use, by pool.", ["pool"])
POOL_SIZE = Gauge("muslin_ipam_pool_addresses", "Addresses of a pool.", ["pool"])
POOL_DAMAGED = Gauge("muslin_ipam_pool_damaged_blocks", "Blocks that can not be used, by pool.", ["pool"])


class PoolGauges:
    """Shows a view's pools. The sums are read when they are asked for, not with every change."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._shown: dict[str, Pool] = {}

    def update(self) -> None:
        """Follow the view's pools as they come and go."""
        present = {pool.name: pool for pool in self._view.pools()}
        if present == self._shown:
            return
        for gone in self._shown.keys() - present.keys():
            for gauge in (POOL_USED, POOL_SIZE, POOL_DAMAGED):
                gauge.remove(gone)
        for name, pool in present.items():
            POOL_SIZE.labels(name).set(pools.size(pool))
            POOL_USED.labels(name).set_function(partial(self._used, name))
            POOL_DAMAGED.labels(name).set_function(partial(self._damaged, name))
        self._shown = present

    def _used(self, name: str) -> float:
        return self._view.tally(name).used

    def _damaged(self, name: str) -> float:
        return self._view.tally(name).damaged
