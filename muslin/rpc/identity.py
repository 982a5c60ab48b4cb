"""Which node a call comes from."""

from __future__ import annotations

import socket
from typing import Any

import grpc

NODE_METADATA = "muslin-node"
"""Set by the node daemon on every call it passes through; what a caller puts there is overwritten."""


def node_of(context: grpc.aio.ServicerContext[Any, Any], nodename: str) -> str:
    """The node daemon's name, else the configuration's nodename, else this host's name."""
    for key, value in context.invocation_metadata() or ():
        if key == NODE_METADATA and value:
            return value if isinstance(value, str) else value.decode()
    return nodename or socket.gethostname()
