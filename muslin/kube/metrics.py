"""Metrics of what follows an API server."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

FOLLOWED = Gauge("muslin_kubernetes_followed", "1 while a kind is followed, 0 while what is known of it may be old.",
                 ["kind"])
LISTS = Counter("muslin_kubernetes_lists_total", "Times that a kind was listed.", ["kind"])
WRITING = Gauge("muslin_kubernetes_writing", "1 while this process is the one that writes what an API server has.")
WRITTEN = Counter("muslin_kubernetes_written_total", "Records written because of what an API server has.")
PENDING = Gauge("muslin_kubernetes_pending", "Records that differ from what an API server has.")
EVENTS = Counter("muslin_kubernetes_events_total", "Events written to an API server.")
EVENTS_FAILED = Counter("muslin_kubernetes_events_failed_total", "Attempts to write an event that failed.")
