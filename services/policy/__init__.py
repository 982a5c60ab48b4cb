"""Policy: Kubernetes objects in, one compiled program per node out, and the reason why a flow is decided as it is."""
