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
CUTS = Counter("muslin_node_cut_connections_total", "Connections cut because policy does not allow them any more, or "
               "because their pod is gone.")
CUT_SECONDS = Histogram("muslin_node_cut_seconds", "Seconds to look through the connection table after a change.",
                        buckets=_SECONDS)
ENDPOINTS = Gauge("muslin_node_endpoints", "Endpoints whose policy is in the kernel.")
ATTACHMENTS = Gauge("muslin_node_attachments", "Attachments wired on this node.")
REVISION = Gauge("muslin_node_enforced_revision", "Revision of the program in the kernel.")
STREAM_LOSSES = Counter("muslin_node_stream_losses_total", "Times the stream of programs was lost or refused.")
DELETIONS = Counter("muslin_node_deletions_total", "Deletions that were put off and are concluded, by outcome: ok, "
                    "failed.", ["outcome"])
DELETIONS_WAITING = Gauge("muslin_node_deletions_waiting", "Deletions that were put off and wait.")
DELETIONS_OLDEST = Gauge("muslin_node_deletions_oldest_seconds", "Seconds since the oldest of them was put off.")
REPAIRS = Counter("muslin_node_repairs_total",
                  "Times that wiring which others changed was put in order, by what: link, route, neighbour, setting.",
                  ["what"])
LOST_LINKS = Gauge("muslin_node_lost_links", "Attachments whose veth was deleted by others and whose DEL has not come.")
RESTORED = Counter("muslin_node_records_restored_total", "Lost records of running pods given back to the endpoint "
                   "service, by outcome: ok, refused.", ["outcome"])
CLEANED = Counter("muslin_node_cleaned_total", "What nobody had deleted and was cleaned up, by what: pod (its "
                  "namespace is gone), record (its pod is not here), link (not finished).", ["what"])
OVERRUNS = Counter("muslin_node_event_overruns_total", "Times the kernel had more to tell than was listened to.")
WAYS = Gauge("muslin_node_ways", "Routes to the blocks of other nodes, and those that keep packets from leaving.")
WAY_CHANGES = Counter("muslin_node_way_changes_total",
                      "Routes, VXLAN's entries and tables between nodes that were made, changed or removed.")
DEAD_NODES = Gauge("muslin_node_dead_nodes", "Nodes that are not heard of and do not answer.")
