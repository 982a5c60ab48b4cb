"""Playing kubelet: pods from manifests through a CNI plugin, and probing who reaches whom with real packets."""
