"""Many unary calls over one stream (muslin.rpc.v1.Tunnel): what a service serves, and what a caller uses.

Unary gRPC calls between two processes of a node cost each side about 300 us of CPU, most of it for handing events from
thread to thread. Over a stream that stays open it is a third, and less where several calls wait together. All of the
chain's hops go this way; `bench/rpc.py` has the figures.
"""

from __future__ import annotations

from muslin.rpc.tunnel.client import Tunnel
from muslin.rpc.tunnel.context import received
from muslin.rpc.tunnel.replicated import Tunnels, tunnel_to
from muslin.rpc.tunnel.server import Handlers, TunnelServicer

__all__ = ["Handlers", "Tunnel", "TunnelServicer", "Tunnels", "received", "tunnel_to"]
