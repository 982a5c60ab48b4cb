"""Metrics of the address manager."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.ipam import pools
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
    """Keeps the gauges of pools in step with a view."""

    def __init__(self, view: View) -> None:
        self._view, self._shown = view, frozenset[str]()

    def update(self) -> None:
        """Show the view's present state."""
        present = frozenset(pool.name for pool in self._view.pools())
        for gone in self._shown - present:
            for gauge in (POOL_USED, POOL_SIZE, POOL_DAMAGED):
                gauge.remove(gone)
        for pool in self._view.pools():
            tally = self._view.tally(pool.name)
            POOL_USED.labels(pool.name).set(tally.used)
            POOL_SIZE.labels(pool.name).set(pools.size(pool))
            POOL_DAMAGED.labels(pool.name).set(tally.damaged)
        self._shown = present
