"""Metrics of the endpoint service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from services.endpoint.records import Namespace, Node, Pod, WorkloadEndpoint

RECORDS: dict[type, Gauge] = {
    WorkloadEndpoint: Gauge("muslin_endpoint_records", "Workload endpoints."),
    Pod: Gauge("muslin_endpoint_pods", "Pods known."),
    Namespace: Gauge("muslin_endpoint_namespaces", "Namespaces known."),
    Node: Gauge("muslin_endpoint_nodes", "Nodes known."),
}
"""Counts, by kind of record."""
DAMAGED = Gauge("muslin_endpoint_damaged_records", "Records that do not decode and are left out.")
WATCHES = Gauge("muslin_endpoint_watches", "Open watches.")
SENT = Counter("muslin_endpoint_watch_changes_total", "Changes sent to watches.")
BEHIND = Counter("muslin_endpoint_watches_behind_total", "Watches ended because their reader was too slow.")
FOLLOWED = Counter("muslin_endpoint_followed_total", "Records rewritten because their pod had changed.")
CONFLICTS = Counter("muslin_endpoint_conflicts_total",
                    "Transactions decided anew because another process had changed a record first.")
UNKNOWN = Counter("muslin_endpoint_unknown_total", "Transactions whose outcome was not learned.")
NODE_WRITES = Counter("muslin_endpoint_node_writes_total", "Changes of Nodes at the API server.", ["sort"])
