"""Muslin: a pod network for Kubernetes made of small gRPC services."""

__version__ = "0.1.0"
