"""Muslin: a pod network for Kubernetes made of small gRPC services."""

import os

__version__ = "0.1.0"

# grpcio hands every event from its I/O threads to a poller thread and from there to asyncio. Its older way of doing
# I/O does without the first of these handovers, which is a fifth to a third of what a call costs (docs/adr/0004,
# bench/rpc.py). The operator's own setting wins; a grpcio that no longer knows the names ignores them with a log line.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
