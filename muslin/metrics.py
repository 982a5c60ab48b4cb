"""Metrics that all services have. A service's own stand in its folder; `muslin.rpc.monitor` serves them.

Names follow Prometheus' conventions: seconds, bytes, `_total` for counters.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Histogram

RPC_TOTAL = Counter("muslin_rpc_total", "Calls served, by method and gRPC status.", ["method", "status"])
RPC_SECONDS = Histogram("muslin_rpc_seconds", "Seconds a served call took, by method.", ["method"],
                        buckets=(.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30))
RPC_REFUSED = Counter("muslin_rpc_refused_total", "Calls and connections refused, by reason.", ["reason"])


@lru_cache(maxsize=1024)
def _of(method: str, status: str) -> tuple[Histogram, Counter]:
    return RPC_SECONDS.labels(method), RPC_TOTAL.labels(method, status)


def rpc(method: str, status: str, seconds: float) -> None:
    """Count a call that was served."""
    took, total = _of(method, status)
    took.observe(seconds)
    total.inc()
