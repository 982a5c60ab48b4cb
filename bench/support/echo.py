"""The four services of the chain doing nothing, on grpc.aio and uvloop: `python -m bench.support.echo SOCKET`."""

from __future__ import annotations

import sys
from typing import Any, cast

import grpc
import uvloop

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2_grpc
from muslin.api.node.v1 import node_pb2_grpc
from muslin.api.policy.v1 import policy_pb2_grpc
from muslin.api.rpc.v1 import tunnel_pb2_grpc
from muslin.rpc.tunnel import Handlers, TunnelServicer

SERVICES = (ipam_pb2_grpc, policy_pb2_grpc, endpoint_pb2_grpc, node_pb2_grpc)
RESULT = b'{"cniVersion": "1.0.0", "ips": [{"address": "192.168.0.1/32"}]}'


async def add(_: object, request: cni_pb2.AddRequest, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    """Answer with a result of usual size."""
    return cni_pb2.AddResponse(result=RESULT, context=request.call.context)


async def main(socket: str) -> None:
    """Serve until killed, saying so once it does."""
    server = grpc.aio.server()
    handlers = Handlers(server)
    for service in SERVICES:
        servicer = type("Plugin", (service.PluginServicer,), {"Add": add})()
        service.add_PluginServicer_to_server(servicer, cast("grpc.aio.Server", handlers))
    tunnel_pb2_grpc.add_TunnelServicer_to_server(TunnelServicer(handlers, lambda _, handler: handler), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    print("serving", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
