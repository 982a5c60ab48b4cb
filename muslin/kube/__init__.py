"""Kubernetes: its manifests as YAML, read into typed objects."""
