"""Metrics of the address manager."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from services.ipam import pools
from services.ipam.index import STATES
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
INVENTORY_SYNCED = Gauge("muslin_ipam_inventory_synced",
                         "1 while pods, namespaces and nodes are followed, 0 while what was known last counts.")
POOL_USED = Gauge("muslin_ipam_pool_used_addresses", "Addresses in use, by pool.", ["pool"])
POOL_SIZE = Gauge("muslin_ipam_pool_addresses", "Addresses of a pool.", ["pool"])
POOL_DAMAGED = Gauge("muslin_ipam_pool_damaged_blocks", "Blocks that can not be used, by pool.", ["pool"])
POOL_COOLING = Gauge("muslin_ipam_pool_cooling_addresses", "Addresses that cool down, by pool.", ["pool"])
POOL_RESERVED = Gauge("muslin_ipam_pool_reserved_addresses", "Addresses that are reserved, by pool.", ["pool"])
POOL_UTILISATION = Gauge("muslin_ipam_pool_utilisation_ratio", "Addresses in use of those in the pool, 0 to 1.",
                         ["pool"])
POOL_BLOCKS = Gauge("muslin_ipam_pool_blocks", "Blocks cut from a pool, by state.", ["pool", "state"])


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
            POOL_SIZE.remove(gone)
            for gauge, _ in self._gauges():
                gauge.remove(gone)
            for state in STATES:
                POOL_BLOCKS.remove(gone, state)
        for name, pool in present.items():
            POOL_SIZE.labels(name).set(pools.size(pool))
            for gauge, value in self._gauges():
                gauge.labels(name).set_function(partial(value, pool))
            for state in STATES:
                POOL_BLOCKS.labels(name, state).set_function(partial(self._blocks, name, state))
        self._shown = present

    def _gauges(self) -> tuple[tuple[Gauge, Callable[[Pool], float]], ...]:
        return ((POOL_USED, self._used), (POOL_DAMAGED, self._damaged), (POOL_COOLING, self._cooling),
                (POOL_RESERVED, self._reserved), (POOL_UTILISATION, self._utilisation))

    def _used(self, pool: Pool) -> float:
        return self._view.tally(pool.name).used

    def _damaged(self, pool: Pool) -> float:
        return self._view.tally(pool.name).damaged

    def _cooling(self, pool: Pool) -> float:
        found = (self._view.block(cidr).value for cidr in list(self._view.tally(pool.name).waiting))
        return sum(len(self._view.index.cools(block)) for block in found if block)

    def _reserved(self, pool: Pool) -> float:
        return self._view.index.reserved.count(pool.cidr)

    def _utilisation(self, pool: Pool) -> float:
        return self._view.tally(pool.name).used / pools.size(pool)

    def _blocks(self, name: str, state: str) -> float:
        return self._view.tally(name).states[state]
