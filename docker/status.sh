#!/bin/sh
# status.sh [PLUGIN]: asks the plugin as a runtime does whether it can serve (STATUS); 0 if so, else its error.
CNI_COMMAND=STATUS CNI_PATH=/opt/cni/bin exec "${1:-/opt/cni/bin/muslin}" <<'END'
{"cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "muslin", "ipam": {"type": "muslin-ipam"}, "policy": {"type": "k8s"}, "capabilities": {"bandwidth": true}}
END
