"""Metrics of the policy service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

STATE = Gauge("muslin_policy_state", "What is compiled: endpoints, policies, profiles, groups, selectors, programs.",
              ["kind"])
CONDITIONS = Gauge("muslin_policy_conditions", "Reservations about objects: rules that were dropped, and the like.")
COMPILE_SECONDS = Histogram("muslin_policy_compile_seconds", "Seconds to take in a batch of events.",
                            buckets=(.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5, 20))
EVENTS = Counter("muslin_policy_events_total", "Events that were compiled.")
SUBSCRIPTIONS = Gauge("muslin_policy_subscriptions", "Nodes that are subscribed.")
MESSAGES = Counter("muslin_policy_messages_total", "Messages to nodes: snapshots, deltas, and deltas that were merged.",
                   ["kind"])
SENT = Gauge("muslin_policy_sent_revision", "Revision last sent to a node; it counts the messages of its stream.",
             ["node"])
ENFORCED = Gauge("muslin_policy_enforced_revision", "Revision that a node has last acknowledged to be in its kernel.",
                 ["node"])
ENFORCE_SECONDS = Histogram("muslin_policy_enforce_seconds", "Seconds from a message's sending to its acknowledgement.",
                            buckets=(.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30))
REFUSED_ENDPOINTS = Gauge("muslin_policy_refused_endpoints", "Endpoint records that could not be enforced as they are.")
