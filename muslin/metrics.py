"""Metrics that all services have, and how they are served. A service's own stand in its folder.

Names follow Prometheus' conventions: seconds, bytes, `_total` for counters.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram, start_http_server

RPC_TOTAL = Counter("muslin_rpc_total", "Calls served, by method and gRPC status.", ["method", "status"])
RPC_SECONDS = Histogram("muslin_rpc_seconds", "Seconds a served call took, by method.", ["method"],
                        buckets=(.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30))


def serve(address: str) -> None:
    """Serve this process' metrics over HTTP at `host:port`, from a thread of its own."""
    host, _, port = address.rpartition(":")
    start_http_server(int(port), host or "127.0.0.1")
