"""Metrics of the node daemon; muslin.metrics counts its calls."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5)

ADDS = Counter("muslin_node_adds_total", "Attachments wired, by outcome: ok, failed.", ["outcome"])
DELS = Counter("muslin_node_dels_total", "Attachments removed, by outcome: ok, failed.", ["outcome"])
WIRING_SECONDS = Histogram("muslin_node_wiring_seconds", "Seconds to wire one pod.", buckets=_SECONDS)
POLICY_WAIT_SECONDS = Histogram("muslin_node_policy_wait_seconds",
                                "Seconds an ADD waited for its policy after the pod was wired.", buckets=_SECONDS)
UNWIRING_SECONDS = Histogram("muslin_node_unwiring_seconds", "Seconds to delete one batch of veths.", buckets=_SECONDS)
COMMITS = Counter("muslin_node_commits_total",
                  "nf_tables transactions, by kind (change, repair, replacement) and outcome (ok, refused).",
                  ["kind", "outcome"])
COMMIT_SECONDS = Histogram("muslin_node_commit_seconds", "Seconds that a transaction took, by kind.", ["kind"],
                           buckets=_SECONDS)
DRIFTS = Counter("muslin_node_drifts_total", "Times somebody else's change of the table was undone.")
ENDPOINTS = Gauge("muslin_node_endpoints", "Endpoints whose policy is in the kernel.")
ATTACHMENTS = Gauge("muslin_node_attachments", "Attachments wired on this node.")
REVISION = Gauge("muslin_node_enforced_revision", "Revision of the program in the kernel.")
STREAM_LOSSES = Counter("muslin_node_stream_losses_total", "Times the stream of programs was lost or refused.")
