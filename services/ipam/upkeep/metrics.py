"""Metrics of upkeep."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ROUNDS = Counter("muslin_ipam_collect_rounds_total", "Rounds of collection that were made.")
SKIPPED = Counter("muslin_ipam_collect_skipped_total", "Rounds that were not made, by what was missing.", ["reason"])
FINDINGS = Gauge("muslin_ipam_collect_findings", "What nobody claimed in the last round, by kind.", ["kind"])
FREED = Counter("muslin_ipam_collect_freed_total", "What was freed because nobody claims it, by kind.", ["kind"])
DAMAGED = Gauge("muslin_ipam_damaged_records", "Records that do not decode or break an invariant, by kind.", ["kind"])
CLAIMS = Gauge("muslin_ipam_claims", "Attachments that a source of claims knows of.", ["source"])
